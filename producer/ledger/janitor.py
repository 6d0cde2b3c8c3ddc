"""The janitor: deletes what ended long ago and keys whose time is over, in small chunks with pauses."""

import asyncio
import logging
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from producer.ledger.metrics import LedgerMetrics
from producer.ledger.patience import until_stored
from producer.ledger.turns import Turns
from producer.parking import DELETED_STATES
from producer.store import retention
from producer.store.database import Database
from shared.clock import utc_now
from shared.settings import Settings
from shared.states import JobState

_CHUNK_JOBS = 500
_CHUNK_BATCHES = 20
_CHUNK_KEYS = 1_000
_CHUNK_LINES = 5_000
# Between two chunks others get at the database; on SQLite it has one writer.
_PAUSE_SECONDS = 0.1
_EVERY_SECONDS = 3_600.0

logger = logging.getLogger(__name__)


class Janitor:
    """Deletes succeeded and cancelled jobs, and batches that have nothing else, after the retention.

    Parked and unfinished jobs are never deleted. Idempotency keys are, whatever the retention is.
    """

    def __init__(self, *, store: Database, turns: Turns, metrics: LedgerMetrics, settings: Settings) -> None:
        """Make a janitor that has deleted nothing yet."""
        self._store = store
        self._turns = turns
        self._metrics = metrics
        self._retention_days = settings.retention_days

    async def run(self) -> None:
        """Delete every hour until cancelled; with a retention of 0 days, keys alone."""
        while True:
            if await self._turns.take():
                await self.forget_keys()
                if self._retention_days:
                    await self.clean(before=utc_now() - timedelta(days=self._retention_days))
                await self._turns.give_up()
            await asyncio.sleep(_EVERY_SECONDS)

    async def forget_keys(self) -> None:
        """Delete all idempotency keys whose time is over. Stopping at any point is safe."""
        forgotten = 0
        forget = partial(self._store.write, retention.forget_expired_keys, limit=_CHUNK_KEYS, now=utc_now())
        while chunk := await until_stored(forget):
            forgotten += chunk
            if chunk < _CHUNK_KEYS:
                break
            await self._rest()
        logger.info("idempotency_keys_forgotten", extra={"keys": forgotten})

    async def clean(self, *, before: datetime) -> None:
        """Delete everything that is due, whose end was before a time. Stopping at any point is safe."""
        jobs = 0
        for state in DELETED_STATES:
            jobs += await self._delete_single_jobs(state, before)
        batches = await self._delete_batches(before)
        logger.info("retention_applied", extra={"jobs": jobs + batches[1], "batches": batches[0]})

    async def _delete_single_jobs(self, state: JobState, before: datetime) -> int:
        deleted, after = 0, None
        while True:
            delete = partial(
                self._store.write,
                retention.delete_single_jobs,
                state,
                before=before,
                after=after,
                limit=_CHUNK_JOBS,
            )
            page = await until_stored(delete)
            self._metrics.jobs_deleted.inc(page.deleted)
            deleted, after = deleted + page.deleted, page.following
            if after is None:
                return deleted
            await self._rest()

    async def _delete_batches(self, before: datetime) -> tuple[int, int]:
        await self._expire_batches(before)
        expired = await until_stored(partial(self._store.read, retention.expired_batches))
        deleted = 0
        for batch_id in expired:
            await self._delete_rejected(batch_id)
            delete = partial(self._store.write, retention.delete_of_batch, batch_id, limit=_CHUNK_JOBS)
            while True:
                chunk = await until_stored(delete)
                self._metrics.jobs_deleted.inc(chunk)
                deleted += chunk
                await self._rest()
                if chunk < _CHUNK_JOBS:
                    break
        return len(expired), deleted

    async def _delete_rejected(self, batch_id: UUID) -> None:
        delete = partial(self._store.write, retention.delete_rejected, batch_id, limit=_CHUNK_LINES)
        while await until_stored(delete) == _CHUNK_LINES:
            await self._rest()

    async def _expire_batches(self, before: datetime) -> None:
        after: UUID | None = None
        while True:
            expire = partial(
                self._store.write,
                retention.expire_batches,
                before=before,
                after=after,
                limit=_CHUNK_BATCHES,
                now=utc_now(),
            )
            after = await until_stored(expire)
            if after is None:
                return
            await self._rest()

    async def _rest(self) -> None:
        await asyncio.sleep(_PAUSE_SECONDS)
        await self._turns.take()
