"""When a schedule runs: its times, and which of those that have passed are still made up for. Pure."""

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from itertools import islice, takewhile
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError
from cronsim.cronsim import RANGES, Field

# A run that begins no later than this is on time: a busy moment is no downtime.
ON_TIME = timedelta(seconds=10)
# The most that `catch_up: all` makes up for, the newest ones.
MAX_CATCH_UP_RUNS = 100

_MAX_ECHO_LENGTH = 60
_INSTANT = timedelta(microseconds=1)
_FIRST_WINDOW = timedelta(hours=1)
_CRON_FIELDS = (Field.MINUTE, Field.HOUR, Field.DAY, Field.MONTH, Field.DOW)
# 7 is Sunday too, so that field has one number more than days.
_VALUES = {field: len(RANGES[field]) for field in _CRON_FIELDS} | {Field.DOW: 7}
# The zone of whichever machine looks, and the one that says that none is set.
_NO_PLACES = frozenset({"localtime", "posixrules", "Factory"})


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
    if isinstance(timetable, Cron):
        _check_expression(timetable.expression)
    try:
        first = first_time(timetable, after=now)
    except CronSimError:
        # Each field can be read, so it is the day that none of the months has.
        first = None
    if first is None:
        raise TimetableInvalid("It never happens: none of its months has that day")


@cache
def timezones() -> frozenset[str]:
    """Return the names of all time zones (IANA). Reads the disk once."""
    return frozenset(available_timezones()) - _NO_PLACES


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


def _check_expression(expression: str) -> None:
    """Do nothing if each field of a cron expression can be read, and says what it seems to.

    cronsim names the field at fault and no reason, and takes every 90th minute for the first of each hour.

    Raises:
        TimetableInvalid: otherwise; the message says why.
    """
    if not expression.isascii() or not expression.replace("\t", " ").isprintable():
        raise TimetableInvalid("It may have printable ASCII characters only")
    texts = expression.upper().split()
    if len(texts) != len(_CRON_FIELDS):
        raise TimetableInvalid(
            f"It has {len(texts)} fields and needs five: minute, hour, day of month, month, day of week"
        )
    for field, text in zip(_CRON_FIELDS, texts, strict=True):
        for term in text.split(","):
            if (reason := _fault(field, term)) is not None:
                raise TimetableInvalid(
                    f"Its {field.msg().removeprefix('Bad ')} '{term[:_MAX_ECHO_LENGTH]}' {reason}"
                )


def _fault(field: Field, term: str) -> str | None:
    """Return what is wrong with a term of a field, or None."""
    values, has_step, step = term.partition("/")
    try:
        field.parse(term)
    except CronSimError:
        return _reason(field, values, step if has_step else "1")
    if not has_step:
        return None
    if "L" in values:
        return "has a step, and there is one such day"
    first, _, last = values.partition("-")
    if last:
        count = field.int(last) - field.int(first) + 1
    else:
        count = _VALUES[field] if first == "*" else max(RANGES[field]) - field.int(first) + 1
    if int(step) > count:
        return f"has a step of {int(step)} over {count} values, so it is the same as the first of them"
    return None


def _reason(field: Field, values: str, step: str) -> str:
    """Return why cronsim does not take a term."""
    if step.isdigit() and int(step) == 0:
        return "has a step of 0"
    first, _, last = values.partition("-")
    with suppress(CronSimError):
        if last and field.int(last) < field.int(first):
            return "runs backwards; write it as two, with a comma"
    allowed = RANGES[field]
    names = {Field.MONTH: " or JAN to DEC", Field.DOW: " or SUN to SAT"}.get(field, "")
    return f"is not *, a number from {min(allowed)} to {max(allowed)}{names}, a range, or a step"
