"""Which attempts this worker is running or has settled, so that a redelivery starts none of them twice."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from shared.messages import JobMessage

# About as many as one connection can have unacked, several times over; 100 bytes each.
_SETTLED_KEPT = 10_000

_AttemptKey = tuple[UUID, int, int, int]


class AttemptsInHand:
    """When a connection is lost the broker delivers everything unacked again, often to the same worker.

    An attempt that is still running here is then waited for, and one that is settled but whose ack
    was lost is only acked. Knows one process; across processes a job runs at least once.
    """

    def __init__(self) -> None:
        """Start with nothing in hand."""
        self._running: dict[_AttemptKey, asyncio.Event] = {}
        self._settled: OrderedDict[_AttemptKey, None] = OrderedDict()

    @asynccontextmanager
    async def taking(self, job: JobMessage) -> AsyncIterator[bool]:
        """Take the attempt in hand while inside; yield whether it still has to be run.

        Waits while another delivery of the same attempt is in hand.
        """
        key = _key(job)
        while (running := self._running.get(key)) is not None:
            await running.wait()
        if key in self._settled:
            yield False
            return
        self._running[key] = done = asyncio.Event()
        try:
            yield True
        finally:
            del self._running[key]
            done.set()

    def settled(self, job: JobMessage) -> None:
        """Remember that the attempt's outcome is confirmed by the broker."""
        self._settled[_key(job)] = None
        if len(self._settled) > _SETTLED_KEPT:
            self._settled.popitem(last=False)


def _key(job: JobMessage) -> _AttemptKey:
    # A job that was deferred comes back for the same attempt, and that is no redelivery.
    return job.id, job.run, job.attempt, job.deferrals
