"""`ScheduleStore`: all that is asked of the database about schedules. Each method is one transaction."""

from datetime import datetime
from uuid import UUID

from producer.records import NewSchedule, ScheduledRun, ScheduleRecord
from producer.store import schedules
from producer.store.engine import Transaction


class ScheduleStore:
    """The schedules of a `JobStore`, which opens the transactions; its rules on errors hold here too."""

    def __init__(self, *, reading: Transaction, writing: Transaction) -> None:
        self._reading = reading
        self._writing = writing

    def insert(self, schedule: NewSchedule) -> None:
        """Store a schedule."""
        with self._writing() as connection:
            schedules.insert_schedule(connection, schedule)

    def get(self, schedule_id: UUID) -> ScheduleRecord:
        """Return the schedule.

        Raises:
            ScheduleNotFound: no schedule has this id.
        """
        with self._reading() as connection:
            return schedules.get_schedule(connection, schedule_id)

    def list_page(self, *, limit: int, after: UUID | None) -> list[ScheduleRecord]:
        """Return up to `limit` schedules, newest first, older than the id `after`."""
        with self._reading() as connection:
            return schedules.list_schedules(connection, limit=limit, after=after)

    def due(self, *, limit: int, now: datetime) -> list[ScheduleRecord]:
        """Return up to `limit` schedules whose next run is due, the longest due first."""
        with self._reading() as connection:
            return schedules.due_schedules(connection, limit=limit, now=now)

    def has_unfinished_run(self, schedule: ScheduleRecord) -> bool:
        """Return whether a job of the schedule's last run has not ended."""
        with self._reading() as connection:
            return schedules.has_unfinished_run(connection, schedule)

    def make_run(self, schedule: ScheduleRecord, run: ScheduledRun, *, next_run_at: datetime | None) -> bool:
        """Store the jobs of a run and the schedule's next time together; return False if another one did.

        Of any number of calls for one revision of a schedule, one makes the run.
        """
        with self._writing() as connection:
            return schedules.advance_schedule(
                connection, schedule, next_run_at=next_run_at, run=run, values={"last_error": None}
            )

    def skip_run(self, schedule: ScheduleRecord, *, next_run_at: datetime | None) -> bool:
        """Move the schedule on and count the run as skipped; return False if another one did."""
        return self._advance(schedule, next_run_at, {"skipped": schedule.skipped + 1})

    def fail_run(self, schedule: ScheduleRecord, *, next_run_at: datetime | None, error: str) -> bool:
        """Move the schedule on and keep why its run could not be made; return False if another one did."""
        return self._advance(schedule, next_run_at, {"last_error": error})

    def pass_over(self, schedule: ScheduleRecord, *, next_run_at: datetime | None) -> bool:
        """Move the schedule on past runs that are not made up for; return False if another one did."""
        return self._advance(schedule, next_run_at, {})

    def run_now(self, schedule_id: UUID, run: ScheduledRun) -> ScheduleRecord:
        """Store the jobs of a run that a person asked for; return the schedule, whose times have not changed.

        Raises:
            ScheduleNotFound: no schedule has this id.
        """
        with self._writing() as connection:
            schedules.run_now(connection, schedule_id, run)
            return schedules.get_schedule(connection, schedule_id)

    def pause(self, schedule_id: UUID, *, now: datetime) -> ScheduleRecord:
        """Stop the schedule from running; return it. Idempotent.

        Raises:
            ScheduleNotFound: no schedule has this id.
        """
        with self._writing() as connection:
            schedules.pause_schedule(connection, schedule_id, now=now)
            return schedules.get_schedule(connection, schedule_id)

    def resume(self, schedule_id: UUID, *, next_run_at: datetime | None) -> ScheduleRecord:
        """Let a paused schedule run again from `next_run_at` on; return it. Idempotent.

        Raises:
            ScheduleNotFound: no schedule has this id.
        """
        with self._writing() as connection:
            schedules.resume_schedule(connection, schedule_id, next_run_at=next_run_at)
            return schedules.get_schedule(connection, schedule_id)

    def delete(self, schedule_id: UUID) -> None:
        """Delete the schedule; the jobs that it made stay.

        Raises:
            ScheduleNotFound: no schedule has this id.
        """
        with self._writing() as connection:
            schedules.delete_schedule(connection, schedule_id)

    def _advance(
        self, schedule: ScheduleRecord, next_run_at: datetime | None, values: dict[str, object]
    ) -> bool:
        with self._writing() as connection:
            return schedules.advance_schedule(
                connection, schedule, next_run_at=next_run_at, run=None, values=values
            )
