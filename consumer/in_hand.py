"""Which attempts this worker is running or has settled, so that a redelivery starts none of them twice."""

import asyncio
from collections import OrderedDict

from shared.messages import JobMessage

# About as many as one connection can have unacked, several times over; 100 bytes each.
_SETTLED_KEPT = 10_000

AttemptKey = tuple[int, int, int, int]


class AttemptsInHand:
    """When a connection is lost the broker delivers everything unacked again, often to the same worker.

    An attempt that is still running here is then waited for, and one that is settled but whose ack
    was lost is only acked. Knows one process; across processes a job runs at least once.
    """

    def __init__(self) -> None:
        """Start with nothing in hand."""
        self._running: dict[AttemptKey, list[asyncio.Future[None]]] = {}
        self._settled: OrderedDict[AttemptKey, None] = OrderedDict()

    def has(self, key: AttemptKey) -> bool:
        """Return whether another delivery of the same attempt is in hand."""
        return key in self._running

    async def wait_put_down(self, key: AttemptKey) -> None:
        """Return once no other delivery of the same attempt is in hand."""
        while (waiting := self._running.get(key)) is not None:
            put_down = asyncio.get_running_loop().create_future()
            waiting.append(put_down)
            await put_down

    def take(self, key: AttemptKey) -> bool:
        """Take a free attempt in hand until `put_down`; return False, and take nothing, if it is settled."""
        if key in self._settled:
            return False
        self._running[key] = []
        return True

    def put_down(self, key: AttemptKey) -> None:
        """Note that the attempt is no longer in hand, settled or not."""
        for waiting in self._running.pop(key):
            if not waiting.done():
                waiting.set_result(None)

    def settled(self, key: AttemptKey) -> None:
        """Remember that the attempt's outcome is confirmed by the broker."""
        self._settled[key] = None
        if len(self._settled) > _SETTLED_KEPT:
            self._settled.popitem(last=False)


def attempt_key(job: JobMessage) -> AttemptKey:
    """Return what tells an attempt from all others."""
    # A job that was deferred comes back for the same attempt, and that is no redelivery.
    # The number of the id, because a UUID is hashed in Python.
    return job.id.int, job.run, job.attempt, job.deferrals
