"""The scheduler: accepts jobs that are due, parks those whose deadline has passed, makes runs of schedules.

It looks at the store alone, so it works while the broker is away. Any number of schedulers share the work.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from uuid import UUID

from producer.ledger.metrics import LedgerMetrics
from producer.records import Overlap, ScheduleRecord, Transition
from producer.scheduling import scheduled_run
from producer.store import schedules
from producer.store.database import RetryingStore
from producer.timetable import Step, next_step
from shared.clock import utc_now
from shared.errors import JobInvalid, StoreRefused

_PAGE_JOBS = 500
_PAGE_SCHEDULES = 100
_ERROR_CHARACTERS = 500
# A job whose time comes before all others may be stored at any moment, and nothing announces it.
_SAFETY_SECONDS = 1.0
# Another scheduler is at what is due, and soon done.
_BUSY_SECONDS = 0.05

_EVENTS = {
    "made": "schedule_run_made",
    "skipped": "schedule_run_skipped",
    "failed": "schedule_run_failed",
    # All the runs of a downtime that are not made up for.
    "missed": "schedule_runs_missed",
}

# Changes a page of jobs, and finds the ids of those that it would change.
Change = Callable[..., list[Transition]]
Find = Callable[..., list[UUID]]

logger = logging.getLogger(__name__)


class Scheduler:
    """Does what is due, and sleeps until something is due again."""

    def __init__(
        self, *, store: RetryingStore, metrics: LedgerMetrics, clock: Callable[[], datetime] = utc_now
    ) -> None:
        """Make a scheduler that has done nothing yet."""
        self._store = store
        self._metrics = metrics
        self._clock = clock
        # Jobs and schedules that this version cannot work on, until it is started again.
        self._aside: set[UUID] = set()

    async def run(self) -> None:
        """Schedule until cancelled. Stopping at any point is safe: each step is one transaction."""
        while True:
            next_due_at = await self._store.read(schedules.next_due_at, without=self._aside)
            now = self._clock()
            if next_due_at is None or next_due_at > now:
                await asyncio.sleep(_pause_seconds(next_due_at, now))
            elif not await self.tick(now):
                await asyncio.sleep(_BUSY_SECONDS)

    async def tick(self, now: datetime) -> int:
        """Do all that is due at `now`; return how much that was."""
        return await self._release(now) + await self._expire(now) + await self._run_schedules(now)

    async def _release(self, now: datetime) -> int:
        return await self._in_pages(schedules.release_due, schedules.due_jobs, now)

    async def _expire(self, now: datetime) -> int:
        return await self._in_pages(schedules.expire_jobs, schedules.late_jobs, now)

    async def _run_schedules(self, now: datetime) -> int:
        taken = 0
        # Each round takes every schedule one run further, whoever does it; `now` stays, so it ends.
        while page := await self._store.read(
            schedules.due_schedules, limit=_PAGE_SCHEDULES, now=now, without=self._aside
        ):
            for schedule in page:
                try:
                    taken += await self._take_step(schedule, now)
                except Exception as failure:  # One of the three edges: it must not hold up those beside it.
                    self._put_aside(schedule.id, "schedule_id", failure)
        return taken

    async def _take_step(self, schedule: ScheduleRecord, now: datetime) -> bool:
        """Take a schedule one run further; return False if another ledger, or a person, was first."""
        step = _next_step(schedule, now)
        write, following = self._store.write, step.next_run_at
        if step.run_at is None:
            moved = await write(schedules.pass_over, schedule, next_run_at=following, now=now)
            return moved and self._note_run(schedule, "missed", {})
        facts = {"run_at": step.run_at.isoformat()}
        if schedule.overlap is Overlap.SKIP and await self._store.read(
            schedules.has_unfinished_run, schedule
        ):
            moved = await write(
                schedules.skip_run, schedule, run_at=step.run_at, next_run_at=following, now=now
            )
            return moved and self._note_run(schedule, "skipped", facts)
        try:
            # Validating the arguments of a large job takes a while.
            run = await asyncio.to_thread(scheduled_run, schedule, run_at=step.run_at, now=now)
            moved = await write(schedules.make_run, schedule, run, next_run_at=following, now=now)
        except (JobInvalid, StoreRefused) as error:
            # It must hold up neither its own next run nor other schedules.
            text = str(error)[:_ERROR_CHARACTERS]
            moved = await write(
                schedules.fail_run,
                schedule,
                run_at=step.run_at,
                next_run_at=following,
                error=text,
                now=now,
            )
            return moved and self._note_run(schedule, "failed", {**facts, "error": text})
        return moved and self._note_run(schedule, "made", run.facts)

    def _note_run(self, schedule: ScheduleRecord, effect: str, facts: Mapping[str, str]) -> bool:
        self._metrics.schedule_runs.labels(effect).inc()
        logger.info(_EVENTS[effect], extra={"schedule_id": str(schedule.id), **facts})
        return True

    def _put_aside(self, row_id: UUID, name: str, failure: Exception) -> None:
        """Note that a row cannot be worked on."""
        self._aside.add(row_id)
        self._metrics.rows_put_aside.labels(type(self).__name__).inc()
        logger.error("row_put_aside", extra={name: str(row_id)}, exc_info=failure)

    async def _change_singly(self, change: Change, find: Find, now: datetime) -> list[Transition]:
        """Change the jobs of a page one by one, and put those aside that cannot be changed."""
        changed = []
        for job_id in await self._store.read(find, limit=_PAGE_JOBS, now=now, without=self._aside):
            try:
                changed += await self._store.write(change, limit=1, now=now, only=job_id)
            except Exception as failure:  # One of the three edges: it must not hold up those beside it.
                self._put_aside(job_id, "job_id", failure)
        return changed

    async def _change_page(self, change: Change, find: Find, now: datetime) -> list[Transition]:
        try:
            return await self._store.write(change, limit=_PAGE_JOBS, now=now, without=self._aside)
        except Exception as failure:  # As above.
            logger.info("page_done_singly", extra={"error": repr(failure)[:300]})
            return await self._change_singly(change, find, now)

    async def _in_pages(self, change: Change, find: Find, now: datetime) -> int:
        changed = 0
        while page := await self._change_page(change, find, now):
            self._metrics.note_transitions(page)
            changed += len(page)
            if len(page) < _PAGE_JOBS:
                break
        return changed


def _next_step(schedule: ScheduleRecord, now: datetime) -> Step:
    return next_step(
        schedule.timetable,
        # A schedule without one is not due.
        next_run_at=schedule.next_run_at or now,
        now=now,
        catch_up=schedule.catch_up,
    )


def _pause_seconds(next_due_at: datetime | None, now: datetime) -> float:
    if next_due_at is None:
        return _SAFETY_SECONDS
    return min((next_due_at - now).total_seconds(), _SAFETY_SECONDS)
