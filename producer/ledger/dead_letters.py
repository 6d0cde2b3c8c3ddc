"""Stuck dead letters, as RabbitMQ's management API shows them, for Prometheus. Only the leader looks.

A queue that dead-letters at least once keeps a message until its target has it. Such a message is counted,
but is neither ready nor unacknowledged, and AMQP itself does not show it.
"""

import asyncio
import logging
import math
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import quote, unquote, urlsplit

import aiohttp
from pydantic import BaseModel, TypeAdapter, ValidationError
from yarl import URL

from producer.ledger.metrics import LedgerMetrics
from shared.broker.topology import queues
from shared.kinds.registry import BROKERED_KINDS
from shared.settings import Settings
from shared.tls import distrust_of, tls_context

STUCK_AFTER_SECONDS: Final = 60.0

_EVERY_SECONDS = 15.0
_TIMEOUT_SECONDS = 10.0
_COLUMNS = "name,messages,messages_ready,messages_unacknowledged"

_QUEUES = frozenset(spec.name for spec in queues(BROKERED_KINDS) if spec.type == "quorum")
_DEAD_LETTERING = frozenset(
    spec.name for spec in queues(BROKERED_KINDS) if "x-dead-letter-exchange" in spec.arguments
)

logger = logging.getLogger(__name__)


class QueueCounts(BaseModel):
    """The counts of a queue in the management API; a queue that was just declared has none yet."""

    name: str
    messages: int = 0
    messages_ready: int = 0
    messages_unacknowledged: int = 0

    @property
    def dead_lettering(self) -> int:
        """How many are on their way to another queue; the three counts differ by a moment."""
        return max(0, self.messages - self.messages_ready - self.messages_unacknowledged)


_ANSWER = TypeAdapter(list[QueueCounts])


class StuckDeadLetters:
    """Since when each queue has had dead letters on their way. Pure, by a monotonic clock."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def note(self, dead_lettering: Mapping[str, int], *, now: float) -> dict[str, int]:
        """Note a look; return how many are in each queue that has had some at every look for a minute."""
        self._since = {
            name: self._since.get(name, now) for name, messages in dead_lettering.items() if messages > 0
        }
        stuck = (name for name, since in self._since.items() if now - since >= STUCK_AFTER_SECONDS)
        return {name: dead_lettering[name] for name in stuck}


class DeadLetterWatch:
    """Reads the management API every few seconds, if its address is set."""

    def __init__(
        self,
        *,
        metrics: LedgerMetrics,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a watch that has seen nothing yet."""
        self._metrics = metrics
        self._address = settings.management_url
        self._tls = tls_context(self._address.get_secret_value()) if self._address is not None else None
        self._vhost = unquote(urlsplit(settings.amqp_url).path[1:]) or "/"
        self._clock = clock
        self._stuck = StuckDeadLetters()
        self._told: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Watch until cancelled; returns at once when no address is set."""
        if self._address is None:
            return
        # What an earlier leadership saw may be long ago.
        self._stuck = StuckDeadLetters()
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
        try:
            connector = aiohttp.TCPConnector(ssl=self._tls if self._tls is not None else True)
            async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
                while True:
                    await self.look(session)
                    await asyncio.sleep(_EVERY_SECONDS)
        finally:
            self._show_nothing()

    async def look(self, session: aiohttp.ClientSession) -> None:
        """Read the counts once, and show them; what is not known is not shown."""
        try:
            counts = await self._read(session)
        except (aiohttp.ClientError, TimeoutError, ValidationError) as error:
            logger.warning("management_unavailable", extra={"error": _words_of(error)})
            self._show_nothing()
        else:
            self._show([each for each in counts if each.name in _QUEUES])

    async def _read(self, session: aiohttp.ClientSession) -> list[QueueCounts]:
        assert self._address is not None
        url = URL(self._address.get_secret_value())
        login = aiohttp.encode_basic_auth(url.user or "guest", url.password or "guest")
        path = f"{url.raw_path.rstrip('/')}/api/queues/{quote(self._vhost, safe='')}"
        # `encoded`, or the slash of the usual virtual host would be one of the path.
        asked = URL(f"{url.origin()}{path}?columns={_COLUMNS}", encoded=True)
        async with session.get(
            asked, headers={"Authorization": login}, allow_redirects=False, raise_for_status=True
        ) as answer:
            return _ANSWER.validate_json(await answer.read())

    def _show(self, counts: list[QueueCounts]) -> None:
        gauge = self._metrics.queue_messages
        for each in counts:
            gauge.labels(each.name, "ready").set(each.messages_ready)
            gauge.labels(each.name, "unacknowledged").set(each.messages_unacknowledged)
            gauge.labels(each.name, "dead_lettering").set(each.dead_lettering)
        on_their_way = {each.name: each.dead_lettering for each in counts if each.name in _DEAD_LETTERING}
        stuck = self._stuck.note(on_their_way, now=self._clock())
        self._metrics.dead_letters_stuck.set(sum(stuck.values()))
        # A queue is named once, until it has handed on all of them.
        if new := {name: messages for name, messages in stuck.items() if name not in self._told}:
            logger.warning("dead_letters_stuck", extra={"messages_by_queue": new})
        self._told = frozenset(stuck)

    def _show_nothing(self) -> None:
        self._metrics.queue_messages.clear()
        self._metrics.dead_letters_stuck.set(math.nan)


def _words_of(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        distrust = error.certificate_error
        if isinstance(distrust, ssl.SSLCertVerificationError):
            return distrust_of(distrust, f"{error.host}:{error.port}")
    # Without its text: that may show the address, and with it the password.
    return type(error).__name__
