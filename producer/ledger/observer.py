"""The observer: keeps what the work queues look like in the store, for the API never asks the broker."""

import asyncio
import logging
from collections.abc import Iterable
from functools import partial

from producer.ledger.patience import until_stored
from producer.ledger.turns import Turns
from producer.pausing import QueueSeen
from producer.store.store import JobStore
from shared.broker.queue_depths import Look, QueueDepth, keep_looking
from shared.broker.topology import work_queue
from shared.clock import utc_now
from shared.kinds.registry import KINDS, Lane
from shared.settings import Settings

_EVERY_SECONDS = 5.0
_QUEUES = {work_queue(kind, lane): (kind, lane) for kind in KINDS for lane in Lane}

logger = logging.getLogger(__name__)


class Observer:
    """Looks at every work queue, every few seconds. One ledger at a time."""

    def __init__(self, *, store: JobStore, turns: Turns, settings: Settings) -> None:
        """Make an observer that has seen nothing yet."""
        self._store = store
        self._turns = turns
        self._amqp_url = settings.amqp_url

    async def run(self) -> None:
        """Observe until cancelled. While the broker is away nothing is written."""
        await keep_looking(
            self._amqp_url, name="retriever ledger observe", queues=list(_QUEUES), use=self._observe
        )

    async def _observe(self, look: Look) -> None:
        while True:
            if await self._turns.take():
                seen = _seen(await look())
                await until_stored(partial(self._store.queues.record, seen))
            await asyncio.sleep(_EVERY_SECONDS)


def _seen(depths: Iterable[QueueDepth]) -> list[QueueSeen]:
    now = utc_now()
    return [
        QueueSeen(depth.name, *_QUEUES[depth.name], depth.ready, depth.consumers, observed_at=now)
        for depth in depths
    ]
