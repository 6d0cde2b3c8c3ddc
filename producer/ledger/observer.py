"""The observer: keeps what the work queues look like in the store, for the API never asks the broker."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable
from functools import partial

from producer.ledger.patience import until_stored
from producer.ledger.turns import Turns
from producer.pausing import QueueSeen
from producer.store import queues
from producer.store.database import Database
from shared.broker.queue_depths import Look, QueueDepth, keep_looking
from shared.broker.topology import lane_queues, work_queue
from shared.clock import utc_now
from shared.kinds.registry import KINDS, Lane
from shared.settings import Settings

_EVERY_SECONDS = 5.0
_LANES = {name: (kind, lane) for kind in KINDS for lane in Lane for name in lane_queues(kind, lane)}

logger = logging.getLogger(__name__)


class Observer:
    """Looks at every work queue, every few seconds. One ledger at a time."""

    def __init__(self, *, store: Database, turns: Turns, settings: Settings) -> None:
        """Make an observer that has seen nothing yet."""
        self._store = store
        self._turns = turns
        self._amqp_url = settings.amqp_url

    async def run(self) -> None:
        """Observe until cancelled. While the broker is away nothing is written."""
        await keep_looking(
            self._amqp_url, name="retriever ledger observe", queues=list(_LANES), use=self._observe
        )

    async def _observe(self, look: Look) -> None:
        while True:
            if await self._turns.take():
                seen = _seen(await look())
                await until_stored(partial(self._store.write, queues.record_queues, seen))
            await asyncio.sleep(_EVERY_SECONDS)


def _seen(depths: Iterable[QueueDepth]) -> list[QueueSeen]:
    """Return what is seen of each lane, all its queues together; without those of which one is missing."""
    now, by_lane = utc_now(), defaultdict[tuple[str, Lane], list[QueueDepth]](list)
    for depth in depths:
        by_lane[_LANES[depth.name]].append(depth)
    return [
        QueueSeen(
            work_queue(kind, lane),
            kind,
            lane,
            ready=sum(depth.ready for depth in found),
            # Who takes from one alone is a worker of the version before, which cannot do all there is.
            consumers=min(depth.consumers for depth in found),
            observed_at=now,
        )
        for (kind, lane), found in by_lane.items()
        if len(found) == len(lane_queues(kind, lane))
    ]
