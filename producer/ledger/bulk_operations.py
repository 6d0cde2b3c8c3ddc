"""The bulk operation runner: redrives and discards many parked jobs, page by page, at the rate asked for."""

import asyncio
import logging

from producer.ledger.metrics import LedgerMetrics
from producer.parking import DISCARDED, OperationAction, OperationPage, OperationState
from producer.store import bulk_actions
from producer.store.database import RetryingStore
from shared.clock import utc_now
from shared.states import JobState

_POLL_SECONDS = 0.5

_STATES = {OperationAction.REDRIVE: JobState.ACCEPTED, OperationAction.DISCARD: JobState.CANCELLED}

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
            page = await self._store.write(bulk_actions.make_page, now=utc_now())
            if page is None:
                # Another ledger is at it.
                await asyncio.sleep(_POLL_SECONDS / 10)
            else:
                self._note(page)

    def _note(self, page: OperationPage) -> None:
        operation = page.operation
        state = _STATES[operation.action]
        reason = DISCARDED if state is JobState.CANCELLED else None
        for job in page.moved:
            self._metrics.transitions.labels(job.kind, state).inc()
            facts = {"job_id": str(job.id), "run": job.run, "attempt": 0}
            logger.info("job_state_changed", extra={**facts, "state": state.value, "reason": reason})
        self._metrics.operation_jobs.labels(operation.action).inc(len(page.moved))
        facts = {"operation_id": str(operation.id), "action": operation.action.value}
        progress = {"total": operation.total, "done": operation.done, "skipped": operation.skipped}
        if operation.state is OperationState.DONE:
            logger.info("operation_done", extra={**facts, **progress})
        else:
            logger.debug("operation_page_done", extra={**facts, **progress})
