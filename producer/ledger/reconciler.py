"""The reconciler: makes `jobs.parked` and the store agree, should they ever differ."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from producer.ledger.metrics import LedgerMetrics
from producer.ledger.parked_messages import ParkedRun, is_strange, leaving, parked_runs
from producer.ledger.patience import until_stored
from producer.ledger.turns import Turns
from producer.parking import ParkedFilter
from producer.records import JobRecord
from producer.store import parking
from producer.store.database import Database
from shared.broker.outgoing import Outgoing
from shared.broker.parked_queue import Choice, count_parked, walk_parked
from shared.broker.publisher import Publisher
from shared.broker.topology import DEFAULT, PARKED_QUEUE
from shared.clock import utc_now
from shared.errors import BrokerError, BrokerUnavailable
from shared.messages import JOB_TYPE, REASON_HEADER, JobMessage
from shared.settings import Settings

_PAGE_JOBS = 500
# A job that was recorded as parked just now may still wait for its message to reach the queue.
_SETTLED = timedelta(seconds=60)

logger = logging.getLogger(__name__)


class ParkedReconciler:
    """Compares the parking queue with the store now and then, and mends the queue: the store is right."""

    def __init__(
        self,
        *,
        store: Database,
        publisher: Publisher,
        turns: Turns,
        metrics: LedgerMetrics,
        settings: Settings,
    ) -> None:
        """Make a reconciler that has compared nothing yet."""
        self._store = store
        self._publisher = publisher
        self._turns = turns
        self._metrics = metrics
        self._amqp_url = settings.amqp_url
        self._every_seconds = settings.parked_check_seconds
        # Messages that no parked job explains and that a person has to look at: unreadable, of unknown jobs.
        self._strangers = 0

    async def run(self) -> None:
        """Compare until cancelled."""
        while True:
            await asyncio.sleep(self._every_seconds)
            if not await self._turns.take():
                continue
            try:
                if await self.differs():
                    await self.mend()
            except BrokerError as error:
                logger.warning("parked_check_failed", extra={"error": str(error)})
            finally:
                await self._turns.give_up()

    async def differs(self) -> bool:
        """Return whether there are more or fewer messages than parked jobs. Cheap: it counts.

        Raises:
            BrokerUnavailable: the broker did not answer.
        """
        if await until_stored(partial(self._store.read, parking.pending_redrives, 1)):
            # The sweeper is still at it.
            return False
        messages = await count_parked(self._amqp_url)
        jobs = await until_stored(partial(self._store.read, parking.count_matching, ParkedFilter()))
        return messages != jobs + self._strangers

    async def mend(self, *, settled: timedelta = _SETTLED) -> None:
        """Walk the queue: remove what is of no parked job, then publish the messages that are missing.

        Args:
            settled: Jobs parked for less are left alone.

        Raises:
            BrokerError: the broker went away, or did not take a message; the next walk goes on.
        """
        recorded_before, seen, strangers = utc_now() - settled, set[ParkedRun](), 0

        async def choose(bodies: Sequence[bytes]) -> Choice:
            nonlocal strangers
            page = [parked_runs(body) for body in bodies]
            job_ids = {job_id for runs in page for job_id, _ in runs}
            standing = await until_stored(partial(self._store.read, parking.runs_of, job_ids))
            strangers += sum(is_strange(runs, standing) for runs in page)
            return Choice(leaving(page, standing, seen), is_last=not await self._turns.take())

        walk = await walk_parked(self._amqp_url, choose=choose)
        if not walk.complete:
            raise BrokerUnavailable("another ledger took the turn in the middle of a walk")
        self._strangers = strangers
        published = await self._publish_missing(seen, recorded_before)
        self._metrics.parked_removed.labels("reconciler").inc(walk.removed)
        self._metrics.parked_republished.inc(published)
        facts = {"removed": walk.removed, "published": published, "strangers": strangers}
        logger.info("parked_reconciled", extra={"seen": walk.seen, **facts})

    async def _publish_missing(self, seen: set[ParkedRun], recorded_before: datetime) -> int:
        published, after = 0, None
        while page := await until_stored(partial(self._page, recorded_before, after)):
            after = page[-1].id
            missing = [job for job in page if (job.id, job.run) not in seen]
            await asyncio.gather(*(self._publisher.publish(_parked_message(job)) for job in missing))
            published += len(missing)
        return published

    def _page(self, recorded_before: datetime, after: UUID | None) -> list[JobRecord]:
        return self._store.read(
            parking.parked_page, recorded_before=recorded_before, after=after, limit=_PAGE_JOBS
        )


def _parked_message(job: JobRecord) -> Outgoing:
    message = JobMessage(
        id=job.id,
        kind=job.kind,
        lane=job.lane,
        args=dict(job.args),
        retry=job.retry,
        run=job.run,
        attempt=max(1, job.attempt),
        batch_id=job.batch_id,
    )
    # Straight to the queue: over `jobs.dead` the recorder would hear of it too.
    headers = {REASON_HEADER: job.reason} if job.reason else {}
    return Outgoing(DEFAULT, PARKED_QUEUE, message.encode(), JOB_TYPE, str(job.id), headers)
