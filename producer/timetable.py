"""When a schedule runs: its times, and which of those that have passed are still made up for. Pure."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from itertools import islice, takewhile
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

# A run that begins no later than this is on time: a busy moment is no downtime.
ON_TIME = timedelta(seconds=10)
# The most that `catch_up: all` makes up for, the newest ones.
MAX_CATCH_UP_RUNS = 100

_INSTANT = timedelta(microseconds=1)
_FIRST_WINDOW = timedelta(hours=1)
_CRON_FIELDS = 5


class CatchUp(StrEnum):
    """What becomes of the runs that were missed while no ledger ran."""

    NONE = "none"
    ONE = "one"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Cron:
    """Times by the clock of a place, as Debian's cron keeps them when that clock is changed.

    A fixed time that the change skips is run right after it, one that comes twice is run once; what runs
    every so many minutes or hours goes by the time that really passes.
    """

    expression: str
    timezone: str
    starts_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Every:
    """Every so many seconds from its start on, whatever clocks say."""

    seconds: int
    starts_at: datetime


Timetable = Cron | Every


class TimetableInvalid(ValueError):
    """A cron expression cannot be read, or names a time that never comes."""


@dataclass(frozen=True, slots=True)
class Step:
    """What to do next: run for the time `run_at`, if any, and look again at `next_run_at`."""

    run_at: datetime | None
    next_run_at: datetime | None


def check_timetable(timetable: Timetable, *, now: datetime) -> None:
    """Do nothing if the timetable has a time ahead.

    Raises:
        TimetableInvalid: otherwise; the message says why.
    """
    if isinstance(timetable, Cron) and len(timetable.expression.split()) != _CRON_FIELDS:
        raise TimetableInvalid("It needs five fields: minute, hour, day of month, month, day of week")
    try:
        first = first_time(timetable, after=now)
    except CronSimError as error:
        raise TimetableInvalid(f"{error}") from None
    if first is None:
        raise TimetableInvalid("That time never comes")


@cache
def timezones() -> frozenset[str]:
    """Return the names of all time zones (IANA). Reads the disk once."""
    return frozenset(available_timezones())


def first_time(timetable: Timetable, *, after: datetime) -> datetime | None:
    """Return the first time after a moment, or None when there is none for fifty years."""
    return next(_times(timetable, not_before=after + _INSTANT), None)


def next_times(timetable: Timetable, *, not_before: datetime, limit: int) -> list[datetime]:
    """Return the next times, in UTC."""
    return list(islice(_times(timetable, not_before=not_before), limit))


def next_step(timetable: Timetable, *, next_run_at: datetime, now: datetime, catch_up: CatchUp) -> Step:
    """Return what to do at `now` about a schedule that was to run at `next_run_at`, or is to later.

    One step is one run at most. Taken again and again with the `next_run_at` of the step before and the same
    `now`, steps come to an end, and no time of the timetable is run twice.
    """
    if next_run_at > now:
        return Step(None, next_run_at)
    run_at = _run_to_make(timetable, next_run_at=next_run_at, now=now, catch_up=catch_up)
    return Step(run_at, first_time(timetable, after=run_at or now))


def _run_to_make(
    timetable: Timetable, *, next_run_at: datetime, now: datetime, catch_up: CatchUp
) -> datetime | None:
    if now - next_run_at <= ON_TIME:
        return next_run_at
    limit = MAX_CATCH_UP_RUNS if catch_up is CatchUp.ALL else 1
    passed = _latest_times(timetable, not_before=next_run_at, until=now, limit=limit)
    # A new table of time zones may have moved the time that was foreseen.
    oldest = passed[0] if passed else next_run_at
    if catch_up is CatchUp.NONE and now - oldest > ON_TIME:
        return None
    return oldest


def _latest_times(
    timetable: Timetable, *, not_before: datetime, until: datetime, limit: int
) -> list[datetime]:
    """Return the last times of a span, oldest first; looks back no further than it has to."""
    window = _FIRST_WINDOW
    while True:
        start = max(not_before, until - window)
        times = takewhile(lambda at: at <= until, _times(timetable, not_before=start))
        latest = deque(times, maxlen=limit)
        if len(latest) == limit or start == not_before:
            return list(latest)
        window *= 8


def _times(timetable: Timetable, *, not_before: datetime) -> Iterator[datetime]:
    match timetable:
        case Every(seconds, starts_at):
            period = timedelta(seconds=seconds)
            # Rounded up: minus the floor of the negative.
            passed = max(-((starts_at - not_before) // period), 0)
            while True:
                yield starts_at + passed * period
                passed += 1
        case Cron():
            yield from _cron_times(timetable, not_before=not_before)


def _cron_times(cron: Cron, *, not_before: datetime) -> Iterator[datetime]:
    start = max(not_before, cron.starts_at) if cron.starts_at else not_before
    # It gives what comes after the whole second that it is told.
    simulated = CronSim(cron.expression, (start - _INSTANT).astimezone(ZoneInfo(cron.timezone)))
    for local in simulated:
        at = local.astimezone(UTC)
        # When clocks go back, a fixed time of the first pass is given again on the second.
        if at >= start:
            yield at
            start = at + _INSTANT
