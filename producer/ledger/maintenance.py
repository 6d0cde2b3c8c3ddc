"""Maintenance of the store, in small pieces with pauses. Only the leader runs it.

The janitor deletes what ended long ago; the batch reconciler compares the counts of batches with their jobs.
"""

import asyncio
import logging
from datetime import datetime, timedelta
from uuid import UUID

from producer.ledger.metrics import LedgerMetrics
from producer.parking import DELETED_STATES
from producer.store import batches, retention
from producer.store.database import RetryingStore
from shared.clock import utc_now
from shared.settings import Settings
from shared.states import JobState

_CLEAN_SECONDS = 3_600.0
_CHUNK_JOBS = 500
_CHUNK_BATCHES = 20
_CHUNK_KEYS = 1_000
_CHUNK_LINES = 5_000
# Between two chunks others get at the database; on SQLite it has one writer.
_PAUSE_SECONDS = 0.1

# A round costs an index scan over the jobs of so many batches; the next round goes on with the next ones.
_CHECK_SECONDS = 60.0
_PAGE_BATCHES = 20
# Finished batches are checked for so long after their end.
_RECENT = timedelta(hours=1)

logger = logging.getLogger(__name__)


class Janitor:
    """Deletes succeeded and cancelled jobs, and batches that have nothing else, after the retention.

    What the audit log says of runs of schedules goes with them. Parked and unfinished jobs are never deleted.
    Idempotency keys are, whatever the retention is.
    """

    def __init__(self, *, store: RetryingStore, metrics: LedgerMetrics, settings: Settings) -> None:
        """Make a janitor that has deleted nothing yet."""
        self._store = store
        self._metrics = metrics
        self._retention_days = settings.retention_days

    async def run(self) -> None:
        """Delete every hour until cancelled; with a retention of 0 days, keys alone."""
        while True:
            await self.forget_keys()
            if self._retention_days:
                await self.clean(before=utc_now() - timedelta(days=self._retention_days))
            await asyncio.sleep(_CLEAN_SECONDS)

    async def forget_keys(self) -> None:
        """Delete all idempotency keys whose time is over. Stopping at any point is safe."""
        forgotten, now = 0, utc_now()
        while chunk := await self._store.write(retention.forget_expired_keys, limit=_CHUNK_KEYS, now=now):
            forgotten += chunk
            if chunk < _CHUNK_KEYS:
                break
            await asyncio.sleep(_PAUSE_SECONDS)
        logger.info("idempotency_keys_forgotten", extra={"keys": forgotten})

    async def clean(self, *, before: datetime) -> None:
        """Delete everything that is due, whose end was before a time. Stopping at any point is safe."""
        jobs = 0
        for state in DELETED_STATES:
            jobs += await self._delete_single_jobs(state, before)
        batches = await self._delete_batches(before)
        await self._forget_runs(before)
        logger.info("retention_applied", extra={"jobs": jobs + batches[1], "batches": batches[0]})

    async def _delete_single_jobs(self, state: JobState, before: datetime) -> int:
        deleted, after = 0, None
        while True:
            page = await self._store.write(
                retention.delete_single_jobs, state, before=before, limit=_CHUNK_JOBS, after=after
            )
            self._metrics.jobs_deleted.inc(page.deleted)
            deleted, after = deleted + page.deleted, page.following
            if after is None:
                return deleted
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _delete_batches(self, before: datetime) -> tuple[int, int]:
        await self._expire_batches(before)
        expired = await self._store.read(retention.expired_batches)
        deleted = 0
        for batch_id in expired:
            await self._delete_rejected(batch_id)
            while True:
                chunk = await self._store.write(retention.delete_of_batch, batch_id, limit=_CHUNK_JOBS)
                self._metrics.jobs_deleted.inc(chunk)
                deleted += chunk
                await asyncio.sleep(_PAUSE_SECONDS)
                if chunk < _CHUNK_JOBS:
                    break
        return len(expired), deleted

    async def _forget_runs(self, before: datetime) -> None:
        while True:
            chunk = await self._store.write(retention.forget_runs, before=before, limit=_CHUNK_KEYS)
            if chunk < _CHUNK_KEYS:
                return
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _delete_rejected(self, batch_id: UUID) -> None:
        while True:
            chunk = await self._store.write(retention.delete_rejected, batch_id, limit=_CHUNK_LINES)
            if chunk < _CHUNK_LINES:
                return
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _expire_batches(self, before: datetime) -> None:
        after: UUID | None = None
        while True:
            after = await self._store.write(
                retention.expire_batches, before=before, limit=_CHUNK_BATCHES, after=after, now=utc_now()
            )
            if after is None:
                return
            await asyncio.sleep(_PAUSE_SECONDS)


class BatchReconciler:
    """Counts the jobs of batches again, a page of batches at a time, and mends wrong counts."""

    def __init__(self, *, store: RetryingStore, metrics: LedgerMetrics) -> None:
        """Make a reconciler that has counted nothing yet."""
        self._store = store
        self._metrics = metrics
        self._after: UUID | None = None

    async def run(self) -> None:
        """Check every minute until cancelled."""
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            await self.check_page()

    async def check_page(self, *, limit: int = _PAGE_BATCHES) -> None:
        """Check the next batches that are unfinished or ended lately; after the last, begin anew."""
        page = await self._store.read(
            batches.batches_to_check, after=self._after, limit=limit, since=utc_now() - _RECENT
        )
        self._after = page[-1] if len(page) == limit else None
        for batch_id in page:
            try:
                await self._check(batch_id)
            except Exception:  # One of the three edges: a batch must not hold up those beside it.
                logger.exception("row_put_aside", extra={"batch_id": str(batch_id)})
                self._metrics.rows_put_aside.labels(type(self).__name__).inc()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _check(self, batch_id: UUID) -> None:
        # Looked at without a lock first: the counts are right but for a fault of ours.
        if not await self._store.read(batches.wrong_counts, batch_id):
            return
        if wrong := await self._store.write(batches.correct_counts, batch_id, now=utc_now()):
            self._metrics.counts_corrected.inc()
            corrected = {state.value: f"{kept} instead of {right}" for state, (kept, right) in wrong.items()}
            logger.error("batch_counts_wrong", extra={"batch_id": str(batch_id), "corrected": corrected})
