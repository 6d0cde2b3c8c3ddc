"""Which task queues agents of this process ask for, written down now and then: `producer.store.queues`."""

import time
from collections.abc import Callable

from producer.store import queues
from producer.store.database import Store
from shared.clock import utc_now

# An agent asks many times a second, or waits for a minute.
_EVERY_SECONDS = 10.0
# Whoever asks for more queues than that costs a row each time; the store bounds those.
_MOST_NAMES = 1_000


class AskedQueues:
    """Notes each queue at most once in ten seconds, whoever asks for it."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Make one that has noted nothing; its `clock` only goes forward."""
        self._store = store
        self._clock = clock
        # In the order of their times.
        self._noted_at: dict[str, float] = {}

    async def note(self, queue: str, agent: str) -> None:
        """Note that an agent asks for a queue.

        Raises:
            StoreUnavailable: the store is away.
        """
        now = self._clock()
        if queue in self._noted_at and now - self._noted_at[queue] < _EVERY_SECONDS:
            return
        # Before it is written, so that of a hundred agents who ask at once one writes.
        self._noted_at.pop(queue, None)
        self._noted_at[queue] = now
        if len(self._noted_at) > _MOST_NAMES:
            del self._noted_at[next(iter(self._noted_at))]
        await self._store.write(queues.note_asked, queue, agent=agent, now=utc_now())
