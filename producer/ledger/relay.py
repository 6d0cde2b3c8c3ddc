"""The relays: publish what the store wants to tell the broker, then settle it. A transactional outbox.

The row of an accepted job is its own outbox entry; events have a table. Several rows may share one message.
If a ledger dies in between, the lease on its rows runs out and they are published again: at least once.
"""

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import chain, compress
from operator import not_
from typing import Generic, Protocol, TypeVar
from uuid import UUID

from producer.flows import Flows
from producer.hosts import HostLimits
from producer.ledger.metrics import LedgerMetrics
from producer.ledger.relay_messages import event_message, job_messages
from producer.ledger.window import ReleaseWindow
from producer.records import ClaimedEvent, ClaimedJob
from producer.run_tokens import RunTokens
from producer.store import events, outbox
from producer.store.database import Store, retry_until_store_up
from producer.store.hosts import HostTurns
from producer.store.page_bytes import PAGE_BYTES
from producer.store.wakeup import ENDED, ROOM, PollWakeup, Wakeup
from shared.broker.outgoing import Outgoing
from shared.broker.publisher import Publisher
from shared.clock import utc_now
from shared.errors import BrokerError, BrokerUnavailable, MessageUnroutable
from shared.kinds.registry import is_bundled
from shared.settings import Settings
from shared.states import JobState

# One is claimed, one published, one settled.
_PAGES_AT_ONCE = 3
_REFUSED_PAUSE_SECONDS = 1.0
# New rows wake a relay; this is for leases that ran out, and for wake-ups that were missed.
_SAFETY_SECONDS = 5.0
# Between two looks at hosts, so that others get at the database.
_SHORTEST_SECONDS = 0.01
# The window is looked at so often while it is full: twice for each look that the window itself has.
_ROOM_SECONDS = 0.05
# For so long the relay of the interactive lane has its jobs for itself.
_LEFT = timedelta(seconds=1)
# What is said while jobs end, which makes no job ready.
_NO_NEWS = frozenset({ENDED})

logger = logging.getLogger(__name__)


class Claimed(Protocol):
    """A row that was leased."""

    @property
    def id(self) -> UUID:
        """Its primary key."""

    @property
    def claimed_bytes(self) -> int:
        """What it adds to a page of the outbox."""


T = TypeVar("T")
C = TypeVar("C", bound=Claimed)

# A message, and the rows that it carries.
Packed = tuple[Outgoing, Sequence[C]]


class OutboxRelay(ABC, Generic[C]):
    """Leases rows of the store, publishes their messages and settles what is confirmed, page by page.

    Any number of relays share the work.
    """

    def __init__(
        self,
        *,
        store: Store,
        publisher: Publisher,
        wakeup: Wakeup,
        metrics: LedgerMetrics,
        settings: Settings,
        publishers: Mapping[str, Publisher] | None = None,
    ) -> None:
        """Make a relay that has published nothing yet.

        Args:
            publishers: By exchange, those that publish to nothing else. Anybody may bind a queue to
                `outcomes`, and a broken one holds up the channel that publishes to it.
        """
        self._store = store
        self._publisher = publisher
        self._publishers = publishers or {}
        self._wakeup = wakeup
        self._metrics = metrics
        self._bundle_jobs = settings.bundle_jobs
        self._page_rows = settings.relay_page_jobs
        self._lease_seconds = settings.relay_lease_seconds
        # Of all pages together, so that a slow broker is not owed more than the setting says.
        self._window = max(settings.publish_window // _PAGES_AT_ONCE, 1)
        self._free_pages = asyncio.Semaphore(_PAGES_AT_ONCE)
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
        # Anew, for a run before this one may have failed with pages in hand.
        self._free_pages = asyncio.Semaphore(_PAGES_AT_ONCE)
        # While confirms of one page come in, the next is claimed, and the one before is settled.
        async with asyncio.TaskGroup() as pages:
            while True:
                await self._free_pages.acquire()
                # Nothing is claimed while the broker is away: the first ledger back can publish at once.
                await self._publisher.wait_ready()
                rows = await self._calling(
                    lambda: self._claim(self._page_rows, self._lease_seconds, now=utc_now())
                )
                pages.create_task(self._send_page(rows))
                if not self._is_full(rows):
                    await self._rest()

    def _is_full(self, rows: Sequence[C]) -> bool:
        """Return whether a page has as many rows, or bytes, as one may have, so that more may follow."""
        return len(rows) == self._page_rows or sum(row.claimed_bytes for row in rows) >= PAGE_BYTES

    async def _rest(self) -> None:
        """Return when there may be rows to claim."""
        await self._wakeup.wait(_SAFETY_SECONDS)

    @abstractmethod
    async def _claim(self, limit: int, lease_seconds: float, *, now: datetime) -> Sequence[C]:
        """Lease up to `limit` rows that nobody else holds, fewer if they have `PAGE_BYTES` before."""

    @abstractmethod
    def _pack(self, rows: Sequence[C]) -> Iterable[Packed[C]]:
        """Return the messages of some rows; each row is in one of them."""

    @abstractmethod
    async def _settle(self, rows: Sequence[C]) -> None:
        """Note that rows are confirmed. A crash before it repeats their messages."""

    @abstractmethod
    async def _release(self, ids: Sequence[UUID], *, retry_at: datetime) -> None:
        """Let rows be claimed again from a time on."""

    async def _calling(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return what a call to the store returns, calling again for as long as the store is away."""

        async def attempt() -> T:
            self._moved_at = time.monotonic()
            return await call()

        return await retry_until_store_up(attempt)

    async def _send_page(self, rows: Sequence[C]) -> None:
        """Publish a page, settle what is confirmed, and let go of the rest."""
        packed = self._pack_safely(rows)
        confirmed = await self._publish([message for message, _ in packed])
        carried = [carried for _, carried in packed]
        if settled := list(chain.from_iterable(compress(carried, confirmed))):
            await self._calling(lambda: self._settle(settled))
        if refused := [row.id for row in chain.from_iterable(compress(carried, map(not_, confirmed)))]:
            retry_at = utc_now() + timedelta(seconds=_REFUSED_PAUSE_SECONDS)
            await self._calling(lambda: self._release(refused, retry_at=retry_at))
        self._free_pages.release()

    def _pack_safely(self, rows: Sequence[C]) -> Sequence[Packed[C]]:
        """Return the messages of rows, without the rows of which none can be made.

        Those stay leased, and are looked at again when the lease is over.
        """
        try:
            return list(self._pack(rows))
        except Exception:  # One of the three edges: a row must not hold up those beside it.
            if len(rows) > 1:
                return [packed for row in rows for packed in self._pack_safely([row])]
            logger.exception("row_put_aside", extra={"row_id": str(rows[0].id)})
            self._metrics.rows_put_aside.labels(type(self).__name__).inc()
            return []

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
            # Some are left only when this is cancelled; then nobody waits for their confirms.
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


class Relay(OutboxRelay[ClaimedJob]):
    """Publishes accepted jobs, then marks them queued."""

    def __init__(
        self,
        *,
        store: Store,
        publisher: Publisher,
        wakeup: Wakeup,
        metrics: LedgerMetrics,
        settings: Settings,
        tokens: RunTokens,
        window: ReleaseWindow | None = None,
        turns: HostTurns | None = None,
        leaves_interactive: bool = False,
    ) -> None:
        """Make a relay that has published nothing yet.

        Args:
            window: Says how many jobs may be released; without one, all.
            turns: What is known of hosts, shared with the other relay of a ledger.
            leaves_interactive: Whether there is an `InteractiveRelay` beside it: then it takes interactive
                jobs only when that has left them for a moment.
        """
        super().__init__(store=store, publisher=publisher, wakeup=wakeup, metrics=metrics, settings=settings)
        self._tokens = tokens
        self._turns = turns or HostTurns(HostLimits.of_settings(settings))
        self._leaves_interactive = leaves_interactive
        self._flows = Flows()
        self._released = window or ReleaseWindow(settings)
        # Of the jobs on their way, those that might have shared a message and go alone: a few of a page.
        self._alone: frozenset[UUID] = frozenset()

    async def _claim(self, limit: int, lease_seconds: float, *, now: datetime) -> Sequence[ClaimedJob]:
        held: Sequence[ClaimedJob] = []
        if self._turns.look_at <= now:
            # What waits longer goes first.
            held = await self._store.write(
                outbox.claim_held, self._turns, limit=limit, lease_seconds=lease_seconds, now=now
            )
        ready = await self._store.write(
            outbox.claim_accepted,
            limit=limit,
            lease_seconds=lease_seconds,
            now=now,
            turns=self._turns,
            flows=self._flows,
            most_of=self._released.rooms,
            interactive_before=now - _LEFT if self._leaves_interactive else None,
        )
        self._released.note(ready, more=self._flows.ready_kinds)
        return [*held, *ready]

    def _is_full(self, rows: Sequence[ClaimedJob]) -> bool:
        return self._flows.is_page_full

    async def _rest(self) -> None:
        """Return when jobs were stored, a host may have room, or the window has room for what waits."""
        ends_at = min(utc_now() + timedelta(seconds=_SAFETY_SECONDS), self._turns.look_at)
        is_short = self._flows.waits_for_room(self._released.rooms)
        while True:
            left_seconds = max((ends_at - utc_now()).total_seconds(), _SHORTEST_SECONDS)
            told = await self._wakeup.wait(min(left_seconds, _ROOM_SECONDS) if is_short else left_seconds)
            # Nobody tells a relay on SQLite, nor of what happened while it was not listening.
            is_untold = isinstance(self._wakeup, PollWakeup) or not (told or is_short)
            if is_untold or ROOM in told:
                self._turns.look_at = utc_now()
            if is_untold or told - _NO_NEWS:
                if told != {ROOM}:
                    self._flows.look_again()
                return
            if utc_now() >= ends_at or (is_short and not self._flows.waits_for_room(self._released.rooms)):
                return

    def _pack(self, rows: Sequence[ClaimedJob]) -> Iterable[Packed[ClaimedJob]]:
        packed = list(job_messages(rows, tokens=self._tokens, bundle_jobs=self._bundle_jobs))
        self._released.note_messages(carried for _, carried in packed)
        self._alone |= {
            carried[0].id
            for _, carried in packed
            if len(carried) == 1 and is_bundled(carried[0].kind, carried[0].lane)
        }
        return packed

    async def _settle(self, rows: Sequence[ClaimedJob]) -> None:
        queued = [(job.id, job.run) for job in rows]
        alone = self._alone.intersection(job.id for job in rows) if self._alone else self._alone
        await self._store.write(outbox.mark_queued, queued, now=utc_now(), alone=alone)
        self._alone -= alone
        self._metrics.relayed.inc(len(queued))
        if not logger.isEnabledFor(logging.INFO):
            return
        for job_id, run in queued:
            facts = {"job_id": str(job_id), "run": run, "attempt": 0}
            logger.info("job_state_changed", extra={**facts, "state": JobState.QUEUED.value})

    async def _release(self, ids: Sequence[UUID], *, retry_at: datetime) -> None:
        await self._store.write(outbox.release_claims, ids, retry_at=retry_at)
        self._alone = self._alone.difference(ids)


class InteractiveRelay(Relay):
    """Publishes interactive jobs, and no other: they wait for no page of the bulk lane."""

    async def _claim(self, limit: int, lease_seconds: float, *, now: datetime) -> Sequence[ClaimedJob]:
        self._flows.is_page_full = False
        # SQLite has one writer: whoever only looks must not be it.
        if not await self._store.read(outbox.has_interactive):
            return []
        claimed, self._flows.is_page_full = await self._store.write(
            outbox.claim_interactive, self._turns, limit=limit, lease_seconds=lease_seconds, now=now
        )
        return claimed

    async def _rest(self) -> None:
        ends_at = time.monotonic() + _SAFETY_SECONDS
        while (left_seconds := ends_at - time.monotonic()) > 0:
            # While a batch runs, most of what is said is that jobs of it have ended.
            told = await self._wakeup.wait(left_seconds)
            if not told or told - {ENDED, ROOM}:
                return


class EventRelay(OutboxRelay[ClaimedEvent]):
    """Publishes ended jobs, complete batches and cancellations, at least once each, then forgets them."""

    async def _claim(self, limit: int, lease_seconds: float, *, now: datetime) -> Sequence[ClaimedEvent]:
        return await self._store.write(events.claim_events, limit=limit, lease_seconds=lease_seconds, now=now)

    def _pack(self, rows: Sequence[ClaimedEvent]) -> Iterable[Packed[ClaimedEvent]]:
        return ((event_message(event), (event,)) for event in rows)

    async def _settle(self, rows: Sequence[ClaimedEvent]) -> None:
        # Confirm before delete: a crash between the two repeats the event, with the same message id.
        await self._store.write(events.forget_events, [event.id for event in rows])
        self._metrics.events.inc(len(rows))

    async def _release(self, ids: Sequence[UUID], *, retry_at: datetime) -> None:
        await self._store.write(events.release_events, ids, retry_at=retry_at)


def _facts(message: Outgoing, error: BrokerError) -> dict[str, str]:
    to = {"exchange": message.exchange, "routing_key": message.routing_key}
    return {"job_id": message.job_id, **to, "error": str(error)}
