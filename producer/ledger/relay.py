"""The relay: publishes accepted jobs, then marks them queued. A transactional outbox.

The row of an accepted job is its own outbox entry. A relay leases rows, publishes them with many
confirms in flight, and marks those the broker confirmed. If it dies in between, the lease runs
out and the job is published again: at least once, never none.
"""

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta
from functools import partial

from producer.ledger.metrics import LedgerMetrics
from producer.ledger.patience import until_stored
from producer.records import ClaimedJob
from producer.store.store import JobStore
from producer.store.wakeup import Wakeup
from shared.broker.publisher import Outgoing, Publisher
from shared.broker.topology import JOBS, stored_key
from shared.clock import utc_now
from shared.errors import BrokerError, MessageUnroutable
from shared.messages import JOB_TYPE, JobMessage
from shared.settings import Settings
from shared.states import JobState

_REFUSED_PAUSE_SECONDS = 1.0
# New jobs wake the relay; this is for leases that ran out, and for wake-ups that were missed.
_SAFETY_SECONDS = 5.0

logger = logging.getLogger(__name__)


class Relay:
    """Publishes what the store has accepted. Any number of relays share the work."""

    def __init__(
        self,
        *,
        store: JobStore,
        publisher: Publisher,
        wakeup: Wakeup,
        metrics: LedgerMetrics,
        settings: Settings,
    ) -> None:
        """Make a relay that publishes nothing yet."""
        self._store = store
        self._publisher = publisher
        self._wakeup = wakeup
        self._metrics = metrics
        self._page_jobs = settings.relay_page_jobs
        self._lease_seconds = settings.relay_lease_seconds
        self._window = asyncio.Semaphore(settings.publish_window)

    async def run(self) -> None:
        """Relay until cancelled."""
        while True:
            # Nothing is claimed while the broker is away, so that the first relay back can publish at once.
            await self._publisher.wait_ready()
            if await self.relay_page() < self._page_jobs:
                await self._wakeup.wait(_SAFETY_SECONDS)

    async def relay_page(self) -> int:
        """Claim, publish and mark one page of jobs; return how many were claimed."""
        claim = partial(
            self._store.claim_accepted,
            limit=self._page_jobs,
            lease_seconds=self._lease_seconds,
            now=utc_now(),
        )
        claims = await until_stored(claim)
        if not claims:
            return 0
        confirmed = await asyncio.gather(*(self._publish(job) for job in claims))
        await self._mark(claims, confirmed)
        return len(claims)

    async def _publish(self, job: ClaimedJob) -> bool:
        message = Outgoing(
            JOBS, stored_key(job.kind, job.lane), _job_message(job).encode(), JOB_TYPE, str(job.id)
        )
        try:
            async with self._window:
                await self._publisher.publish(message)
        except MessageUnroutable as error:
            # A queue was deleted. A new channel declares the topology again; the job waits its turn.
            logger.warning("job_unroutable", extra={"job_id": str(job.id), "error": str(error)})
            self._publisher.reset()
            return False
        except BrokerError as error:
            logger.warning("relay_publish_failed", extra={"job_id": str(job.id), "error": str(error)})
            return False
        return True

    async def _mark(self, claims: Sequence[ClaimedJob], confirmed: Sequence[bool]) -> None:
        queued = [
            (job.id, job.run) for job, is_confirmed in zip(claims, confirmed, strict=True) if is_confirmed
        ]
        refused = [job.id for job, is_confirmed in zip(claims, confirmed, strict=True) if not is_confirmed]
        if queued:
            await until_stored(partial(self._store.mark_queued, queued, now=utc_now()))
            self._metrics.relayed.inc(len(queued))
            for job_id, run in queued:
                facts = {"job_id": str(job_id), "run": run, "attempt": 0}
                logger.info("job_state_changed", extra={**facts, "state": JobState.QUEUED.value})
        if refused:
            retry_at = utc_now() + timedelta(seconds=_REFUSED_PAUSE_SECONDS)
            await until_stored(partial(self._store.release_claims, refused, retry_at=retry_at))


def _job_message(job: ClaimedJob) -> JobMessage:
    return JobMessage(
        id=job.id,
        kind=job.kind,
        lane=job.lane,
        args=dict(job.args),
        retry=job.retry,
        run=job.run,
        batch_id=job.batch_id,
        expires_at=job.deadline_at,
    )
