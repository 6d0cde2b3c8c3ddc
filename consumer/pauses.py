"""Which work queues are paused, as every worker reads it from the stream of snapshots."""

import logging
from collections.abc import Callable

from consumer.marker import Marker
from shared.broker.outgoing import Outgoing
from shared.broker.publisher import Publisher
from shared.broker.stream import StreamReader
from shared.broker.topology import DEFAULT, PAUSED_STREAM
from shared.errors import MessageUndecodable
from shared.events import EVERY, PAUSES_TYPE, PausedQueues, PauseSnapshot
from shared.kinds.registry import Lane

logger = logging.getLogger(__name__)


class Pauses:
    """Knows the latest snapshot. Late and repeated ones change nothing."""

    def __init__(self, url: str, *, name: str) -> None:
        """Make one that has read nothing yet: nothing is paused."""
        self._reader = StreamReader(url, name=name, stream=PAUSED_STREAM, take=self.take)
        self._marker = Marker()
        self._revision = -1
        self._pauses: tuple[PausedQueues, ...] = ()
        self._tell: Callable[[], None] = lambda: None

    @property
    def is_caught_up(self) -> bool:
        """Whether everything paused before this worker started is known."""
        return self._marker.is_read

    def on_change(self, tell: Callable[[], None]) -> None:
        """Call `tell`, which must not block, after each change from now on."""
        self._tell = tell

    async def run(self) -> None:
        """Read until cancelled."""
        await self._reader.run()

    async def catch_up(self, publisher: Publisher) -> None:
        """Return once everything that was paused before now is known."""
        body = PauseSnapshot(marker=self._marker.id).encode()
        await self._marker.publish_until_read(Outgoing(DEFAULT, PAUSED_STREAM, body, PAUSES_TYPE), publisher)

    def cover(self, kind: str, lane: Lane) -> bool:
        """Return whether a kind is paused in a lane."""
        return any(pause.kind in {kind, EVERY} and pause.lane in {lane, EVERY} for pause in self._pauses)

    def take(self, body: bytes) -> None:
        """Take a message of the stream."""
        try:
            snapshot = PauseSnapshot.decode(body)
        except MessageUndecodable as error:
            logger.warning("pauses_undecodable", extra={"error": str(error)})
            return
        self._marker.saw(snapshot.marker)
        if snapshot.revision is None or snapshot.revision <= self._revision:
            return
        self._revision, self._pauses = snapshot.revision, snapshot.pauses
        self._tell()
