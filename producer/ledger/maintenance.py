"""Maintenance of the store, in small pieces with pauses. Only the leader runs it.

The janitor deletes what ended long ago; the batch reconciler compares the counts of batches with their jobs,
and the usage keeper those of projects.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

from producer.ledger.metrics import LedgerMetrics
from producer.parking import DELETED_STATES
from producer.quotas import LimitName
from producer.store import batches, hosts, quotas, retention
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
_HOSTS_SECONDS = 30.0
# Finished batches are checked for so long after their end.
_RECENT = timedelta(hours=1)

_KEEP_SECONDS = 60.0
_WINDOW_JOBS = 2_000
# A look at all that large projects store takes a while, and is made again after so many times as long.
_REST_FACTOR = 20

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
            await self.apply_limits(now=utc_now())
            await asyncio.sleep(_CLEAN_SECONDS)

    async def apply_limits(self, *, now: datetime) -> None:
        """Delete what single projects keep for a shorter time: of their audit log, and rejected lines."""
        audited = await self._store.read(retention.projects_with, LimitName.AUDIT_DAYS)
        for project, days in audited.items():
            await self._forget_audit(project, now - timedelta(days=days))
        listed = await self._store.read(retention.projects_with, LimitName.REJECTED_DAYS)
        for project, days in listed.items():
            await self._forget_rejected(project, now - timedelta(days=days))

    async def _forget_audit(self, project: str, before: datetime) -> None:
        if forgotten := await self._in_chunks(
            retention.forget_audit, project, before=before, limit=_CHUNK_KEYS
        ):
            logger.info("audit_forgotten", extra={"project": project, "entries": forgotten})

    async def _forget_rejected(self, project: str, before: datetime) -> None:
        while page := await self._store.read(
            retention.batches_with_rejected, project, before=before, limit=_CHUNK_BATCHES
        ):
            for batch_id in page:
                await self._in_chunks(retention.delete_rejected, batch_id, limit=_CHUNK_LINES)
                await self._store.write(retention.note_rejected_gone, batch_id)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def forget_keys(self) -> None:
        """Delete all idempotency keys whose time is over. Stopping at any point is safe."""
        forgotten = await self._in_chunks(retention.forget_expired_keys, limit=_CHUNK_KEYS, now=utc_now())
        logger.info("idempotency_keys_forgotten", extra={"keys": forgotten})

    async def clean(self, *, before: datetime) -> None:
        """Delete everything that is due, whose end was before a time. Stopping at any point is safe."""
        jobs = 0
        for state in DELETED_STATES:
            jobs += await self._delete_single_jobs(state, before)
        batches = await self._delete_batches(before)
        await self._in_chunks(retention.forget_runs, before=before, limit=_CHUNK_KEYS)
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
            await self._in_chunks(retention.delete_rejected, batch_id, limit=_CHUNK_LINES)
            while True:
                chunk = await self._store.write(retention.delete_of_batch, batch_id, limit=_CHUNK_JOBS)
                self._metrics.jobs_deleted.inc(chunk)
                deleted += chunk
                await asyncio.sleep(_PAUSE_SECONDS)
                if chunk < _CHUNK_JOBS:
                    break
        return len(expired), deleted

    async def _in_chunks(
        self, delete: Callable[..., int], *arguments: object, limit: int, **named: object
    ) -> int:
        """Delete up to `limit` rows at a time, with pauses, until there are no more; return how many."""
        deleted = 0
        while True:
            chunk = await self._store.write(delete, *arguments, limit=limit, **named)
            deleted += chunk
            if chunk < limit:
                return deleted
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


class HostKeeper:
    """Forgets hosts that nobody asks any more, and counts again the jobs of those that are silent."""

    def __init__(self, *, store: RetryingStore, metrics: LedgerMetrics) -> None:
        """Make one that has looked at nothing yet."""
        self._store = store
        self._metrics = metrics

    async def run(self) -> None:
        """Look every half minute until cancelled."""
        while True:
            await self.keep()
            await asyncio.sleep(_HOSTS_SECONDS)

    async def keep(self) -> None:
        """Look once."""
        if wrong := await self._store.write(hosts.recount_stuck, now=utc_now()):
            logger.warning("host_counts_wrong", extra={"hosts": wrong[:20], "count": len(wrong)})
        await self._store.write(hosts.forget_idle, now=utc_now())
        tracked, holding, held = await self._store.read(hosts.count_hosts)
        self._metrics.hosts_tracked.set(tracked)
        self._metrics.hosts_holding.set(holding)
        self._metrics.jobs_held.set(held)


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


class UsageKeeper:
    """Counts again what limited projects have, and measures how many bytes they store."""

    def __init__(self, *, store: RetryingStore, metrics: LedgerMetrics) -> None:
        """Make a keeper that has counted nothing yet."""
        self._store = store
        self._metrics = metrics

    async def run(self) -> None:
        """Look every minute until cancelled, less often where a look takes long."""
        try:
            while True:
                began = time.monotonic()
                await self.look()
                await asyncio.sleep(max(_KEEP_SECONDS, (time.monotonic() - began) * _REST_FACTOR))
        finally:
            # Another ledger may lead now.
            self._metrics.projects_full.clear()

    async def look(self) -> None:
        """Correct the counts that are due, measure, and show how many projects are full."""
        for project in await self._store.read(quotas.due_recounts, now=utc_now()):
            if wrong := await self._store.write(quotas.recount, project, now=utc_now()):
                # Once after a limit was set it is as it should be: what was under way then was not counted.
                logger.warning("project_recounted", extra={"project": project, "jobs_missed": wrong})
            await asyncio.sleep(_PAUSE_SECONDS)
        for project in await self._store.read(quotas.measured_projects):
            await self._measure(project)
        for name, full in (await self._store.read(quotas.full_projects)).items():
            self._metrics.projects_full.labels(name).set(full)

    async def _measure(self, project: str) -> None:
        stored_bytes, after = 0, None
        while True:
            found, after = await self._store.read(
                quotas.measure_window, project, after=after, limit=_WINDOW_JOBS
            )
            stored_bytes += found
            if after is None:
                break
            await asyncio.sleep(_PAUSE_SECONDS)
        await self._store.write(quotas.note_bytes, project, stored_bytes, now=utc_now())
