"""The scheduler: accepts jobs that are due, parks those whose deadline passed, makes runs of schedules."""

import asyncio
import logging
from collections.abc import Mapping
from datetime import datetime

from producer.ledger.due import DueService
from producer.records import Overlap, ScheduleRecord
from producer.scheduling import scheduled_run
from producer.store import schedules
from producer.timetable import Step, next_step
from shared.errors import JobInvalid, StoreRefused

_PAGE_SCHEDULES = 100
_ERROR_CHARACTERS = 500

_EVENTS = {
    "made": "schedule_run_made",
    "skipped": "schedule_run_skipped",
    "failed": "schedule_run_failed",
    # All the runs of a downtime that are not made up for.
    "missed": "schedule_runs_missed",
}

logger = logging.getLogger(__name__)


class Scheduler(DueService):
    """Does what has a time that somebody asked for."""

    async def tick(self, now: datetime) -> int:
        """Do all that is due at `now`; return how much that was."""
        note = self._metrics.note_transitions
        released = await self._in_pages(schedules.release_due, schedules.due_jobs, now, note=note)
        expired = await self._in_pages(schedules.expire_jobs, schedules.late_jobs, now, note=note)
        return released + expired + await self._run_schedules(now)

    async def _next_due_at(self, now: datetime) -> datetime | None:
        return await self._store.read(schedules.next_due_at, without=self._aside)

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


def _next_step(schedule: ScheduleRecord, now: datetime) -> Step:
    return next_step(
        schedule.timetable,
        # A schedule without one is not due.
        next_run_at=schedule.next_run_at or now,
        now=now,
        catch_up=schedule.catch_up,
    )
