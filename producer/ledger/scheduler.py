"""The scheduler: accepts jobs that are due, parks those whose deadline passed, makes runs of schedules."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

from producer.ledger.due import DueService
from producer.ledger.metrics import LedgerMetrics
from producer.records import RunEffect, ScheduleRecord, ScheduleStep
from producer.scheduling import decide_step, failed_step
from producer.store import schedule_runs, schedules
from producer.store.database import RetryingStore
from shared.clock import utc_now
from shared.errors import JobInvalid, ProjectLimitReached, StoreRefused

_PAGE_SCHEDULES = 100
# Then those with small templates have their turn again: a run of a large one takes up to half a second.
_HEAVY_SECONDS = 0.5

_EVENTS = {
    RunEffect.MADE: "schedule_run_made",
    RunEffect.SKIPPED: "schedule_run_skipped",
    RunEffect.FAILED: "schedule_run_failed",
    # All the runs of a downtime that are not made up for.
    RunEffect.MISSED: "schedule_runs_missed",
}

logger = logging.getLogger(__name__)


class Scheduler(DueService):
    """Does what has a time that somebody asked for."""

    def __init__(
        self, *, store: RetryingStore, metrics: LedgerMetrics, clock: Callable[[], datetime] = utc_now
    ) -> None:
        """Make a scheduler that has done nothing yet."""
        super().__init__(store=store, metrics=metrics, clock=clock)
        # The last schedule with a large template that had its turn.
        self._heavy_after: UUID | None = None

    async def step(self, now: datetime) -> int:
        """Do a page of what is due at `now`, and every schedule's next run; return how much that was."""
        note = self._metrics.note_transitions
        released = await self._page(schedules.release_due, schedules.due_jobs, now, note=note)
        expired = await self._page(schedules.expire_jobs, schedules.late_jobs, now, note=note)
        return released + expired + await self._run_light(now) + await self._run_heavy(now)

    async def _next_due_at(self, now: datetime) -> datetime | None:
        return await self._store.read(schedules.next_due_at, without=self._aside)

    async def _run_light(self, now: datetime) -> int:
        """Take every schedule that is due one run further, a page at a time."""
        taken, after = 0, None
        while page := await self._due(now, light=True, after=after, limit=_PAGE_SCHEDULES):
            taken += await self._take_page(page, now)
            after = page[-1]
        return taken

    async def _run_heavy(self, now: datetime) -> int:
        """Take schedules with large templates one run further, one after the other, for a while."""
        taken, began = 0, time.monotonic()
        while page := await self._due(now, light=False, after=self._heavy_after, limit=1):
            taken += await self._take_page(page, now)
            self._heavy_after = page[-1]
            if time.monotonic() - began >= _HEAVY_SECONDS:
                return taken
        # The next turn begins with the first.
        self._heavy_after = None
        return taken

    async def _due(self, now: datetime, *, light: bool, after: UUID | None, limit: int) -> list[UUID]:
        return await self._store.read(
            schedule_runs.due_schedules,
            light=light,
            after=after,
            limit=limit,
            now=now,
            without=self._aside,
        )

    async def _take_page(self, page: Sequence[UUID], now: datetime) -> int:
        """Take schedules one run further, in one transaction; return how many others had not done."""
        try:
            steps = await self._decide(page, now)
            taken = await self._store.write(schedule_runs.take_steps, steps, now=now)
        except Exception as failure:  # One of the three edges: it must not hold up those beside it.
            logger.info("page_done_singly", extra={"error": repr(failure)[:300]})
            return await self._take_singly(page, now)
        return self._note_runs(taken)

    async def _take_singly(self, page: Sequence[UUID], now: datetime) -> int:
        taken = 0
        for schedule_id in page:
            try:
                for step in await self._decide([schedule_id], now):
                    taken += self._note_runs(await self._take(step, now))
            except Exception as failure:  # As above.
                self._put_aside(schedule_id, "schedule_id", failure)
        return taken

    async def _take(self, step: ScheduleStep, now: datetime) -> list[ScheduleStep]:
        try:
            return await self._store.write(schedule_runs.take_steps, [step], now=now)
        except (StoreRefused, ProjectLimitReached, JobInvalid) as error:
            # It must hold up neither its own next run nor other schedules.
            failed = [failed_step(step, error)]
            return await self._store.write(schedule_runs.take_steps, failed, now=now)

    async def _decide(self, page: Sequence[UUID], now: datetime) -> list[ScheduleStep]:
        due = await self._store.read(schedule_runs.read_due, page, now=now)
        # Validating the arguments of a large job takes a while.
        return await asyncio.to_thread(_decide, due, now)

    def _note_runs(self, taken: Sequence[ScheduleStep]) -> int:
        for step in taken:
            self._metrics.schedule_runs.labels(step.effect.value).inc()
            facts = {} if step.effect is RunEffect.MISSED else step.facts
            logger.info(_EVENTS[step.effect], extra={"schedule_id": str(step.schedule.id), **facts})
        return len(taken)


def _decide(due: Sequence[tuple[ScheduleRecord, bool]], now: datetime) -> list[ScheduleStep]:
    return [decide_step(record, now=now, has_unfinished_run=unfinished) for record, unfinished in due]
