"""A message of a worker's own at the end of a stream: who has read it has read all that came before."""

import asyncio
import logging
from uuid import UUID, uuid4

from shared.broker.outgoing import Outgoing
from shared.broker.publisher import Publisher
from shared.errors import BrokerError

_MARK_AGAIN_SECONDS = 1.0

logger = logging.getLogger(__name__)


class Marker:
    """Knows whether its message has been read."""

    def __init__(self) -> None:
        """Make one that nobody has read."""
        self.id = uuid4()
        self._is_read = asyncio.Event()

    @property
    def is_read(self) -> bool:
        """Whether it has been read."""
        return self._is_read.is_set()

    def saw(self, marker: UUID | None) -> None:
        """Take the marker of a message that was read, be it ours or another worker's."""
        if marker == self.id:
            self._is_read.set()

    async def publish_until_read(self, message: Outgoing, publisher: Publisher) -> None:
        """Publish the message that carries it, and return when that has been read."""
        while not self.is_read:
            try:
                await publisher.publish(message)
                await self._is_read.wait()
            except BrokerError as error:
                logger.debug("marker_failed", extra={"error": str(error)})
                await asyncio.sleep(_MARK_AGAIN_SECONDS)
