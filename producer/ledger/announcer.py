"""The announcer: tells the broker of ended jobs, complete batches and cancellations."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from uuid import UUID

from producer.ledger.metrics import LedgerMetrics
from producer.ledger.patience import until_stored
from producer.records import ClaimedEvent
from producer.store.store import JobStore
from producer.store.wakeup import Wakeup
from shared.broker.publisher import Outgoing, Publisher
from shared.broker.topology import CANCELLED_STREAM, DEFAULT, OUTCOMES
from shared.clock import utc_now
from shared.errors import BrokerError
from shared.events import BatchCompleted, Cancellation, EventType, JobEnded
from shared.settings import Settings

_RETRY_SECONDS = 1.0
_SAFETY_SECONDS = 5.0

logger = logging.getLogger(__name__)


class Announcer:
    """Publishes the events of the store, at least once each. Any number of announcers share the work."""

    def __init__(
        self,
        *,
        store: JobStore,
        publisher: Publisher,
        wakeup: Wakeup,
        metrics: LedgerMetrics,
        settings: Settings,
    ) -> None:
        """Make an announcer that has announced nothing yet."""
        self._store = store
        self._publisher = publisher
        self._wakeup = wakeup
        self._metrics = metrics
        self._page_events = settings.relay_page_jobs
        self._lease_seconds = settings.relay_lease_seconds
        self._window = asyncio.Semaphore(settings.publish_window)

    async def run(self) -> None:
        """Announce until cancelled."""
        while True:
            await self._publisher.wait_ready()
            if await self.announce_page() < self._page_events:
                await self._wakeup.wait(_SAFETY_SECONDS)

    async def announce_page(self) -> int:
        """Claim, publish and forget one page of events; return how many were claimed."""
        claim = partial(
            self._store.claim_events,
            limit=self._page_events,
            lease_seconds=self._lease_seconds,
            now=utc_now(),
        )
        claims = await until_stored(claim)
        if claims:
            confirmed = await asyncio.gather(*(self._publish(event) for event in claims))
            await self._settle(claims, confirmed)
        return len(claims)

    async def _publish(self, event: ClaimedEvent) -> bool:
        try:
            async with self._window:
                await self._publisher.publish(event_message(event))
        except BrokerError as error:
            logger.warning("event_publish_failed", extra={"event": str(event.id), "error": str(error)})
            return False
        return True

    async def _settle(self, claims: Sequence[ClaimedEvent], confirmed: Sequence[bool]) -> None:
        pairs = list(zip(claims, confirmed, strict=True))
        told: list[UUID] = [event.id for event, is_confirmed in pairs if is_confirmed]
        untold = [event.id for event, is_confirmed in pairs if not is_confirmed]
        if told:
            # Confirm before delete: a crash between the two repeats the event, with the same message id.
            await until_stored(partial(self._store.forget_events, told))
            self._metrics.events.inc(len(told))
        if untold:
            retry_at = utc_now() + timedelta(seconds=_RETRY_SECONDS)
            await until_stored(partial(self._store.release_events, untold, retry_at=retry_at))


def event_message(event: ClaimedEvent) -> Outgoing:
    """Return the message of an event.

    Outcomes may find nobody bound, and carry an id that stays the same however often they are sent: the
    job's, or the job's and the run's after a redrive.
    """
    match event.type:
        case EventType.OUTCOME:
            ended = JobEnded.model_validate(event.body)
            message_id = str(ended.job_id) if ended.run == 1 else f"{ended.job_id}.{ended.run}"
            key = f"{ended.kind}.{ended.state}"
            return Outgoing(
                OUTCOMES, key, ended.encode(), event.type.value, str(ended.job_id), message_id=message_id
            )
        case EventType.BATCH:
            batch = BatchCompleted.model_validate(event.body)
            return Outgoing(
                OUTCOMES, "batch.completed", batch.encode(), event.type.value, message_id=str(batch.id)
            )
        case EventType.CANCELLATION:
            cancellation = Cancellation.model_validate(event.body)
            return Outgoing(DEFAULT, CANCELLED_STREAM, cancellation.encode(), event.type.value)
