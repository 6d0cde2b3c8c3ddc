"""What relay and announcer have in common: lease rows, publish messages of them, settle what is confirmed.

Each row is its own order to be published; one message may carry out several. If a ledger dies in between,
the lease runs out and the message is published again: at least once, never none.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import chain, compress
from operator import not_
from typing import Generic, Protocol, TypeVar
from uuid import UUID

from producer.ledger.patience import until_stored
from producer.store.wakeup import Wakeup
from shared.broker.outgoing import Outgoing
from shared.broker.publisher import Publisher
from shared.clock import utc_now
from shared.errors import BrokerError, BrokerUnavailable, MessageUnroutable
from shared.settings import Settings

# One is claimed, one published, one settled.
_PAGES_AT_ONCE = 3
_REFUSED_PAUSE_SECONDS = 1.0
# New rows wake it; this is for leases that ran out, and for wake-ups that were missed.
_SAFETY_SECONDS = 5.0

logger = logging.getLogger(__name__)


class Claimed(Protocol):
    """A row that was leased."""

    @property
    def id(self) -> UUID:
        """Its primary key."""


T = TypeVar("T")
C = TypeVar("C", bound=Claimed)
C_co = TypeVar("C_co", bound=Claimed, covariant=True)

# A message, and the rows whose order it carries out.
Packed = tuple[Outgoing, Sequence[C]]


class Claim(Protocol[C_co]):
    """Leases rows."""

    def __call__(self, *, limit: int, lease_seconds: float, now: datetime) -> Sequence[C_co]:
        """Return up to `limit` rows that nobody else holds; blocks on the store."""


class Release(Protocol):
    """Gives leases back."""

    def __call__(self, ids: Sequence[UUID], /, *, retry_at: datetime) -> None:
        """Let the rows be claimed again from a time on; blocks on the store."""


class Outbox(Generic[C]):
    """Publishes rows of the store. Any number of outboxes share the work."""

    def __init__(
        self,
        *,
        claim: Claim[C],
        pack: Callable[[Sequence[C]], Iterable[Packed[C]]],
        settle: Callable[[Sequence[C]], Awaitable[None]],
        release: Release,
        publisher: Publisher,
        wakeup: Wakeup,
        settings: Settings,
        publishers: Mapping[str, Publisher] | None = None,
    ) -> None:
        """Make an outbox that has published nothing yet.

        Args:
            pack: What is published of some rows, each of them in one message.
            settle: Notes that rows are confirmed. A crash before it repeats their messages.
            publishers: Those of exchanges that are not to hold up others, by exchange.
        """
        self._claim = claim
        self._pack = pack
        self._settle = settle
        self._release = release
        self._publisher = publisher
        self._publishers = publishers or {}
        self._wakeup = wakeup
        self._page_rows = settings.relay_page_jobs
        self._lease_seconds = settings.relay_lease_seconds
        self._window = settings.publish_window
        self._room = asyncio.Semaphore(_PAGES_AT_ONCE)
        self._moved_at = time.monotonic()
        # The pause between pages, or one publish, passes between two steps; twice that on a busy machine.
        self._still_seconds = 2 * (_SAFETY_SECONDS + settings.publish_timeout_seconds)

    @property
    def is_moving(self) -> bool:
        """Whether it has called the store, or got an answer to a publish, not long ago.

        A store that is slow or locked is not its fault: each try counts.
        """
        return time.monotonic() - self._moved_at <= self._still_seconds

    async def run(self) -> None:
        """Publish until cancelled."""
        # While confirms of one page come in, the next is claimed, and the one before is settled.
        async with asyncio.TaskGroup() as pages:
            while True:
                await self._room.acquire()
                # Nothing is claimed while the broker is away: the first ledger back can publish at once.
                await self._publisher.wait_ready()
                rows = await self._claim_page()
                pages.create_task(self._send_page(rows))
                if len(rows) < self._page_rows:
                    await self._wakeup.wait(_SAFETY_SECONDS)

    async def stored(self, change: Callable[[], T]) -> T:
        """Return what a call to the store gives, as `until_stored` does."""

        def attempt() -> T:
            self._moved_at = time.monotonic()
            return change()

        return await until_stored(attempt)

    async def _claim_page(self) -> Sequence[C]:
        claim = partial(self._claim, limit=self._page_rows, lease_seconds=self._lease_seconds, now=utc_now())
        return await self.stored(claim)

    async def _send_page(self, rows: Sequence[C]) -> None:
        """Publish a page, settle what is confirmed, and let go of the rest."""
        packed = list(self._pack(rows))
        confirmed = await self._publish([message for message, _ in packed])
        carried = [carried for _, carried in packed]
        if told := list(chain.from_iterable(compress(carried, confirmed))):
            await self._settle(told)
        if refused := [row.id for row in chain.from_iterable(compress(carried, map(not_, confirmed)))]:
            retry_at = utc_now() + timedelta(seconds=_REFUSED_PAUSE_SECONDS)
            await self.stored(partial(self._release, refused, retry_at=retry_at))
        self._room.release()

    async def _publish(self, messages: Sequence[Outgoing]) -> list[bool]:
        """Return which of the messages were confirmed."""
        confirmed: list[bool] = []
        # A deque and no task a message: they are confirmed in the order they were sent, or nearly so.
        sent: deque[tuple[Outgoing, asyncio.Future[None]]] = deque()
        try:
            for message in messages:
                if len(sent) == self._window:
                    confirmed.append(await self._is_confirmed(*sent.popleft()))
                sent.append((message, self._send(message)))
            while sent:
                confirmed.append(await self._is_confirmed(*sent.popleft()))
        finally:
            # Some are left only when this is cancelled; then nobody is there to be told.
            for _, answer in sent:
                answer.cancel()
        return confirmed

    def _send(self, message: Outgoing) -> asyncio.Future[None]:
        try:
            return self._publishers.get(message.exchange, self._publisher).send(message)
        except BrokerUnavailable as error:
            failed = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            return failed

    async def _is_confirmed(self, message: Outgoing, answer: asyncio.Future[None]) -> bool:
        try:
            await answer
        except MessageUnroutable as error:
            # A queue was deleted. A new channel declares the topology again; the row waits its turn.
            logger.warning("message_unroutable", extra=_facts(message, error))
            self._publisher.reset()
            return False
        except BrokerError as error:
            logger.warning("publish_failed", extra=_facts(message, error))
            return False
        finally:
            self._moved_at = time.monotonic()
        return True


def _facts(message: Outgoing, error: BrokerError) -> dict[str, str]:
    to = {"exchange": message.exchange, "routing_key": message.routing_key}
    return {"job_id": message.job_id, **to, "error": str(error)}
