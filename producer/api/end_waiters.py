"""Requests that wait for the end of a job or batch, and streams that tell of ends: one watcher for all.

It listens where the relays do, and looks once for all who wait: whose job or batch has ended. It looks again
no sooner than a tenth of a second later, so a thousand waiters and a thousand ends a second cost ten looks.
Knows nothing of HTTP and, but for its absence, of the store.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from enum import Enum
from uuid import UUID

from producer.api.waiting_room import WaitingRoom
from producer.store.wakeup import ENDED, Wakeup

# The least time between two looks.
PAUSE_SECONDS = 0.1


class Waited(Enum):
    """What somebody waits for the end of."""

    JOB = "job"
    BATCH = "batch"


FindEnded = Callable[[Waited, Collection[UUID]], Awaitable[Collection[UUID]]]


class EndWaiters(WaitingRoom):
    """All who wait for ends in this process."""

    store_away = "ends_not_looked_for"
    failed = "end_waiters_failed"

    def __init__(self, wakeup: Wakeup, find_ended: FindEnded) -> None:
        """Begin without anybody.

        Args:
            wakeup: Tells `ENDED` when a job or batch has ended, and nothing when nobody told.
            find_ended: Returns which of some jobs, or of some batches, have ended.
        """
        super().__init__(wakeup)
        self._find_ended = find_ended
        self._waiting: dict[Waited, dict[UUID, set[asyncio.Event]]] = {each: {} for each in Waited}
        self._streams: set[asyncio.Event] = set()
        self.is_closed = False

    def __len__(self) -> int:
        """Return how many wait, streams among them."""
        waiting = sum(len(each) for waited in self._waiting.values() for each in waited.values())
        return waiting + len(self._streams)

    @property
    def _is_empty(self) -> bool:
        return not len(self)

    @asynccontextmanager
    async def waiting(self, waited: Waited, of: UUID) -> AsyncIterator[asyncio.Event]:
        """Yield what is set when this has ended, or nobody may wait any more.

        Look whether it has ended inside the block, before you wait: what ended before sets nothing.
        """
        ended, others = asyncio.Event(), self._waiting[waited]
        others.setdefault(of, set()).add(ended)
        self._join(ended)
        try:
            yield ended
        finally:
            others[of].discard(ended)
            if not others[of]:
                del others[of]
            self._leave()

    @asynccontextmanager
    async def following(self) -> AsyncIterator[asyncio.Event]:
        """Yield what is set each time that something may have ended; clear it before you look."""
        told = asyncio.Event()
        self._streams.add(told)
        self._join(told)
        try:
            yield told
        finally:
            self._streams.discard(told)
            self._leave()

    def close(self) -> None:
        """Let all who wait go at once; whoever comes later does not wait."""
        self.is_closed = True
        for each in (*self._streams, *self._all_waiting()):
            each.set()

    def _join(self, event: asyncio.Event) -> None:
        self._has_joined.set()
        if self.is_closed:
            event.set()

    async def _look(self) -> None:
        told = await self._wakeup.wait(self.look_seconds)
        clock = asyncio.get_running_loop().time
        # Also while others are told of all the time: ledgers of the version before do not say `ENDED`.
        if told and ENDED not in told and clock() - self._looked_at < self.look_seconds:
            return
        self._looked_at = clock()
        for each in self._streams:
            each.set()
        for waited, waiting in self._waiting.items():
            for id_ in await self._find_ended(waited, [*waiting]) if waiting else ():
                for ended in waiting.get(id_, ()):
                    ended.set()
        await asyncio.sleep(PAUSE_SECONDS)

    def _all_waiting(self) -> list[asyncio.Event]:
        return [each for waited in self._waiting.values() for events in waited.values() for each in events]


async def first_of(ended: asyncio.Event, gone: "asyncio.Future[None]", *, wait_seconds: float) -> None:
    """Return when something has ended, when the client has left, or after so long."""
    waiting = asyncio.ensure_future(ended.wait())
    try:
        await asyncio.wait((waiting, gone), timeout=wait_seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
