"""The bulk operation runner: redrives, discards and cancels many jobs, page by page, at a given rate."""

import asyncio
import logging

from producer.ledger.metrics import LedgerMetrics
from producer.parking import CANCELLED, DISCARDED, OperationAction, OperationPage, OperationState
from producer.store import bulk_actions
from producer.store.database import RetryingStore
from shared.clock import utc_now
from shared.states import JobState

_POLL_SECONDS = 0.5
# As many as a page has at the highest rate.
_SINGLY = 500
_REASONS = {
    OperationAction.REDRIVE: None,
    OperationAction.DISCARD: DISCARDED,
    OperationAction.CANCEL: CANCELLED,
}

logger = logging.getLogger(__name__)


class BulkOperationRunner:
    """Runs the operations of operators. Any number of runners share the work and keep one rate."""

    def __init__(self, *, store: RetryingStore, metrics: LedgerMetrics) -> None:
        """Make a runner that has done nothing yet."""
        self._store = store
        self._metrics = metrics

    async def run(self) -> None:
        """Run operations until cancelled; a page that is under way then is done as a whole or not at all."""
        while True:
            now = utc_now()
            next_at = await self._store.read(bulk_actions.next_page_at, now=now)
            wait_seconds = _POLL_SECONDS if next_at is None else (next_at - now).total_seconds()
            if wait_seconds > 0:
                # A cancel, and an operation that begins meanwhile, must not wait for one that is slow.
                await asyncio.sleep(min(wait_seconds, _POLL_SECONDS))
                continue
            if not await self.make_page():
                # Another ledger is at it.
                await asyncio.sleep(_POLL_SECONDS / 10)

    async def make_page(self) -> bool:
        """Do the next page that is due; return whether there was one."""
        try:
            page = await self._store.write(bulk_actions.make_page, now=utc_now())
        except Exception as failure:  # One of the three edges: a job must not hold up those beside it.
            logger.info("page_done_singly", extra={"error": repr(failure)[:300]})
            await self._make_singly()
            return True
        if page is not None:
            self._note(page)
        return page is not None

    async def _make_singly(self) -> None:
        """Do some jobs of the operation that is due one by one; skip those with which it cannot be done."""
        for _ in range(_SINGLY):
            try:
                page = await self._store.write(bulk_actions.make_page, now=utc_now(), most=1)
            except Exception:  # As above.
                skipped = await self._store.write(bulk_actions.skip_job, now=utc_now())
                logger.exception("row_put_aside", extra={"job_id": str(skipped)})
                self._metrics.rows_put_aside.labels(type(self).__name__).inc()
            else:
                if page is None:
                    return
                self._note(page)

    def _note(self, page: OperationPage) -> None:
        operation = page.operation
        reason = _REASONS[operation.action]
        for job in page.moved:
            facts = {"job_id": str(job.id), "run": job.run, "attempt": 0}
            if job.state is JobState.RUNNING:
                # Its worker is told, and reports how it ended.
                logger.info("job_cancel_requested", extra={**facts, "state": job.state.value})
                continue
            self._metrics.transitions.labels(job.kind, job.state).inc()
            logger.info("job_state_changed", extra={**facts, "state": job.state.value, "reason": reason})
        self._metrics.operation_jobs.labels(operation.action).inc(len(page.moved))
        facts = {"operation_id": str(operation.id), "action": operation.action.value}
        progress = {"total": operation.total, "done": operation.done, "skipped": operation.skipped}
        if operation.state is OperationState.DONE:
            logger.info("operation_done", extra={**facts, **progress})
        else:
            logger.debug("operation_page_done", extra={**facts, **progress})
