"""The pauser: tells the workers what is paused, whenever that changes and now and then besides."""

import asyncio
import logging
import time
from functools import partial

from producer.ledger.patience import until_stored
from producer.pausing import Pauses
from producer.store import queues as store_queues
from producer.store.database import Database
from shared.broker.outgoing import Outgoing
from shared.broker.publisher import Publisher
from shared.broker.topology import DEFAULT, PAUSED_STREAM
from shared.errors import BrokerError
from shared.events import PAUSES_TYPE, PausedQueues, PauseSnapshot

_LOOK_SECONDS = 0.5
# The stream keeps a week; old snapshots go, and a fresh one must be there for whoever reads from its start.
_REPEAT_SECONDS = 3_600.0

logger = logging.getLogger(__name__)


class Pauser:
    """Publishes snapshots of all that is paused. Every ledger does: a repeated one changes nothing."""

    def __init__(
        self, *, store: Database, publisher: Publisher, repeat_seconds: float = _REPEAT_SECONDS
    ) -> None:
        """Make a pauser that has told nothing yet."""
        self._store = store
        self._publisher = publisher
        self._repeat_seconds = repeat_seconds
        # Which revision was told on which connection: a broker that was made anew knows nothing.
        self._told: tuple[int, int] | None = None
        self._told_at = 0.0

    async def run(self) -> None:
        """Tell until cancelled."""
        while True:
            await self._publisher.wait_ready()
            connections = self._publisher.connections
            pauses = await until_stored(partial(self._store.read, store_queues.read_pauses))
            is_old = time.monotonic() >= self._told_at + self._repeat_seconds
            if is_old or self._told != (pauses.revision, connections):
                await self._publish(pauses, connections)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _publish(self, pauses: Pauses, connections: int) -> None:
        try:
            await self._publisher.publish(snapshot_message(pauses))
        except BrokerError as error:
            logger.warning("pauses_publish_failed", extra={"error": str(error)})
            return
        self._told, self._told_at = (pauses.revision, connections), time.monotonic()
        logger.info("pauses_told", extra={"revision": pauses.revision, "pauses": len(pauses.items)})


def snapshot_message(pauses: Pauses) -> Outgoing:
    """Return the message of a snapshot."""
    queues = tuple(PausedQueues(kind=pause.kind, lane=pause.lane) for pause in pauses.items)
    body = PauseSnapshot(revision=pauses.revision, pauses=queues).encode()
    return Outgoing(DEFAULT, PAUSED_STREAM, body, PAUSES_TYPE)
