"""The pause publisher: tells the workers what is paused, at every change and now and then besides."""

import asyncio
import logging
import time

from producer.pausing import PauseList
from producer.store import queues
from producer.store.database import RetryingStore
from shared.broker.outgoing import Outgoing
from shared.broker.publisher import Publisher
from shared.broker.topology import DEFAULT, PAUSED_STREAM
from shared.errors import BrokerError
from shared.events import PAUSES_TYPE, PausedQueues, PauseSnapshot

_LOOK_SECONDS = 0.5
# The stream keeps a week, so a fresh snapshot must be there for whoever reads it from its start.
_REPEAT_SECONDS = 3_600.0

logger = logging.getLogger(__name__)


class PausePublisher:
    """Publishes snapshots of all that is paused. Every ledger does: a repeated snapshot changes nothing."""

    def __init__(
        self, *, store: RetryingStore, publisher: Publisher, repeat_seconds: float = _REPEAT_SECONDS
    ) -> None:
        """Make a publisher that has published nothing yet."""
        self._store = store
        self._publisher = publisher
        self._repeat_seconds = repeat_seconds
        # The revision, and the connection it was published on: a broker that was made anew knows nothing.
        self._published: tuple[int, int] | None = None
        self._published_at = 0.0

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            await self._publisher.wait_ready()
            connections = self._publisher.connections
            pauses = await self._store.read(queues.read_pauses)
            is_old = time.monotonic() >= self._published_at + self._repeat_seconds
            if is_old or self._published != (pauses.revision, connections):
                await self._publish(pauses, connections)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _publish(self, pauses: PauseList, connections: int) -> None:
        try:
            await self._publisher.publish(snapshot_message(pauses))
        except BrokerError as error:
            logger.warning("pauses_publish_failed", extra={"error": str(error)})
            return
        self._published, self._published_at = (pauses.revision, connections), time.monotonic()
        logger.info("pauses_told", extra={"revision": pauses.revision, "pauses": len(pauses.items)})


def snapshot_message(pauses: PauseList) -> Outgoing:
    """Return the message of a snapshot."""
    paused = tuple(PausedQueues(kind=pause.kind, lane=pause.lane) for pause in pauses.items)
    body = PauseSnapshot(revision=pauses.revision, pauses=paused).encode()
    return Outgoing(DEFAULT, PAUSED_STREAM, body, PAUSES_TYPE)
