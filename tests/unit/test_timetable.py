"""When schedules run: every few seconds, by cron, over changes of the clock and after downtimes."""

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.timetable import (
    MAX_CATCH_UP_RUNS,
    ON_TIME,
    CatchUp,
    Cron,
    Every,
    Step,
    Timetable,
    TimetableInvalid,
    check_timetable,
    first_time,
    next_step,
    next_times,
    timezones,
)

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
BERLIN = "Europe/Berlin"
# A few hours before each change of the clock in Berlin: 2:00 to 3:00 in spring, 3:00 to 2:00 in autumn.
SPRING = datetime(2026, 3, 28, 22, tzinfo=UTC)
AUTUMN = datetime(2026, 10, 24, 22, tzinfo=UTC)
TIMETABLES: list[Timetable] = [
    Every(1, NOON),
    Every(7, NOON - timedelta(microseconds=5)),
    Every(86_400, NOON),
    Cron("* * * * *", "UTC"),
    Cron("*/20 * * * *", BERLIN),
    Cron("30 2 * * *", BERLIN),
    Cron("0,30 2 * * *", BERLIN),
    Cron("15 */2 * * *", "America/New_York"),
    Cron("0 0 * * *", "America/Havana"),
    Cron("0 9 * * MON-FRI", "Asia/Kolkata", starts_at=AUTUMN + DAY),
]


def clock(cron: str, *, not_before: datetime, limit: int) -> list[str]:
    times = next_times(Cron(cron, BERLIN), not_before=not_before, limit=limit)
    return [f"{at:%d %H:%M}" for at in times]


def test_a_fixed_time_that_spring_skips_is_run_right_after_the_change() -> None:
    # 2:30 in winter is 1:30 UTC; at 1:00 UTC the clock goes from 2:00 to 3:00; then 2:30 is 0:30 UTC.
    assert clock("30 2 * * *", not_before=SPRING - DAY, limit=3) == ["28 01:30", "29 01:00", "30 00:30"]


def test_a_fixed_time_that_autumn_has_twice_is_run_once() -> None:
    assert clock("30 2 * * *", not_before=AUTUMN, limit=2) == ["25 00:30", "26 01:30"]


def test_a_fixed_time_is_not_run_again_by_a_ledger_that_starts_between_its_two_passes() -> None:
    between = AUTUMN.replace(hour=0, minute=50) + DAY

    assert clock("30 2 * * *", not_before=between, limit=1) == ["26 01:30"]


@pytest.mark.parametrize("before", [SPRING, AUTUMN])
def test_what_runs_every_half_hour_does_so_over_both_changes(before: datetime) -> None:
    times = next_times(Cron("*/30 * * * *", BERLIN), not_before=before, limit=12)

    assert times == [before + number * 30 * MINUTE for number in range(12)]


def test_every_second_is_counted_from_the_start() -> None:
    every = Every(90, NOON)

    assert next_times(every, not_before=NOON - DAY, limit=2) == [NOON, NOON + 90 * SECOND]
    assert first_time(every, after=NOON) == NOON + 90 * SECOND
    assert next_times(every, not_before=NOON + 91 * SECOND, limit=1) == [NOON + 180 * SECOND]


@pytest.mark.parametrize(
    "expression",
    ["", "* * * *", "* * * * * *", "60 * * * *", "* * * * MOON", "0 0 30 2 *", "*/0 * * * *", "L/2 * * * *"],
)
def test_an_expression_that_names_no_time_is_refused(expression: str) -> None:
    with pytest.raises(TimetableInvalid):
        check_timetable(Cron(expression, BERLIN), now=NOON)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("*/90 * * * *", "Its minute '*/90' has a step of 90 over 60 values"),
        ("*/61 * * * *", "step of 61 over 60"),
        ("0 */48 * * *", "Its hour '*/48' has a step of 48 over 24 values"),
        ("0 0 */32 * *", "day-of-month '*/32' has a step of 32"),
        ("0 0 1 */13 *", "month '*/13' has a step of 13"),
        ("0 0 * * */8", "day-of-week '*/8' has a step of 8 over 7"),
        ("10-20/15 * * * *", "step of 15 over 11"),
        ("50/11 * * * *", "step of 11 over 10"),
        ("0,*/90 * * * *", "'*/90' has a step"),
        ("0 0 L/2 * *", "day-of-month 'L/2' has a step"),
        ("*/0 * * * *", "minute '*/0' has a step of 0"),
        ("60 * * * *", "minute '60' is not *, a number from 0 to 59"),
        ("0 24 * * *", "hour '24' is not *, a number from 0 to 23"),
        ("0 0 32 * *", "day-of-month '32' is not"),
        ("0 0 0 * *", "a number from 1 to 31"),
        ("0 0 1 13 *", "a number from 1 to 12 or JAN to DEC"),
        ("0 0 * * 8", "a number from 0 to 7 or SUN to SAT"),
        ("0 0 * * MON#6", "day-of-week 'MON#6' is not"),
        ("0 0 ? * *", "day-of-month '?' is not"),
        ("0 0 * FOO *", "month 'FOO' is not"),
        ("-5 * * * *", "minute '-5' is not"),
        ("1.5 * * * *", "minute '1.5' is not"),
        ("5, * * * *", "minute '' is not"),
        ("0 22-4 * * *", "hour '22-4' runs backwards"),
        ("0 0 * * FRI-MON", "day-of-week 'FRI-MON' runs backwards"),
        ("0 0 30 2 *", "never happens"),
        ("0 0 30,31 2 *", "never happens"),
        ("0 0 31 4,6,9,11 *", "never happens"),
        ("0 0 31 2 */2", "never happens"),
        ("0 0 0 * * *", "has 6 fields and needs five"),
        ("* * * *", "has 4 fields"),
        ("@daily", "has 1 fields"),
        ("", "has 0 fields"),
        ("0 0 * *\n*", "printable ASCII"),
        ("0 0 * * *\n", "printable ASCII"),
        ("0 0 * *\u00a0*", "printable ASCII"),
        ("0 0 * * \u017fun", "printable ASCII"),
        ("\u0660 0 * * *", "printable ASCII"),
    ],
)
def test_a_refused_expression_says_why(expression: str, reason: str) -> None:
    with pytest.raises(TimetableInvalid, match=re.escape(reason)):
        check_timetable(Cron(expression, BERLIN), now=NOON)


@pytest.mark.parametrize(
    "expression",
    [
        *("*/60 * * * *", "0 */24 * * *", "0 0 */31 * *", "0 0 1 */12 *", "0 0 * * */7", "10-20/11 * * * *"),
        *("5/10 * * * *", "0 0 * * 7", "0 0 * * 0-7", "0 0 * * sun-tue", "0 0 * jan,DEC *", "05 09 * * *"),
        *("0 0 L * *", "0 0 LW * *", "0 0 * * 5L", "0 0 * * MON#5", "0 0 29 2 *", "0 0 * 2 MON#5"),
        *("0 0 30 2 MON", "0\t0  *   * *", " 0 0 * * * "),
    ],
)
def test_an_expression_that_has_times_is_taken(expression: str) -> None:
    check_timetable(Cron(expression, BERLIN), now=NOON)


def test_no_zone_is_named_after_the_machine_or_after_nothing() -> None:
    assert {"Europe/Berlin", "UTC", "Etc/GMT+5", "US/Eastern"} <= timezones()
    assert timezones().isdisjoint(
        {"localtime", "posixrules", "Factory", "", "../UTC", "right/UTC", "posix/UTC"}
    )


@given(text=st.text(alphabet="0123456789*/-,#LWMONJA ", max_size=40))
def test_no_expression_breaks_the_check(text: str) -> None:
    # Anything but TimetableInvalid fails the test.
    with suppress(TimetableInvalid):
        check_timetable(Cron(text, "UTC"), now=NOON)


LATE = NOON + timedelta(hours=1, seconds=30)


@pytest.mark.parametrize(
    ("catch_up", "now", "expected"),
    [
        # Not yet due; in time; a little late, which is no downtime.
        (CatchUp.NONE, NOON - SECOND, Step(None, NOON)),
        (CatchUp.NONE, NOON, Step(NOON, NOON + MINUTE)),
        (CatchUp.NONE, NOON + ON_TIME, Step(NOON, NOON + MINUTE)),
        # An hour too late: sixty-one runs were missed.
        (CatchUp.NONE, LATE, Step(None, LATE + MINUTE / 2)),
        (CatchUp.ONE, LATE, Step(LATE - MINUTE / 2, LATE + MINUTE / 2)),
        (CatchUp.ALL, LATE, Step(NOON, NOON + MINUTE)),
        # What is due just now is run in any case.
        (CatchUp.NONE, NOON + DAY + SECOND, Step(NOON + DAY, NOON + DAY + MINUTE)),
        # A day too late, only the newest are made up for.
        (CatchUp.ALL, NOON + DAY, Step(NOON + DAY - 99 * MINUTE, NOON + DAY - 98 * MINUTE)),
    ],
)
def test_a_downtime_is_made_up_for_as_the_policy_says(
    catch_up: CatchUp, now: datetime, expected: Step
) -> None:
    assert next_step(Every(60, NOON), next_run_at=NOON, now=now, catch_up=catch_up) == expected


# Every second of four days takes a while to count.
@settings(deadline=None)
@given(
    timetable=st.sampled_from(TIMETABLES),
    catch_up=st.sampled_from(CatchUp),
    begin=st.sampled_from([SPRING, AUTUMN, NOON]),
    pauses_seconds=st.lists(
        st.one_of(st.floats(0.001, 9), st.floats(1, 4_000), st.floats(3_600, 4 * 86_400)), max_size=6
    ),
)
def test_over_random_downtimes_no_run_is_lost_or_doubled(
    timetable: Timetable, catch_up: CatchUp, begin: datetime, pauses_seconds: list[float]
) -> None:
    next_run_at, now = first_time(timetable, after=begin), begin
    runs: list[datetime] = []
    expected: list[datetime] = []
    for pause_seconds in pauses_seconds:
        now += timedelta(seconds=pause_seconds)
        expected += _expected(timetable, next_run_at, now, catch_up)
        while next_run_at is not None and next_run_at <= now:
            step = next_step(timetable, next_run_at=next_run_at, now=now, catch_up=catch_up)
            assert step.next_run_at is not None
            assert step.next_run_at > next_run_at
            runs += [step.run_at] if step.run_at else []
            next_run_at = step.next_run_at

    assert runs == expected
    assert runs == sorted(set(runs))


def _expected(
    timetable: Timetable, next_run_at: datetime | None, now: datetime, catch_up: CatchUp
) -> list[datetime]:
    """Return the runs to be made at `now`, counted one by one from the whole timetable."""
    due = _all_times(timetable, next_run_at, now)
    if not due or now - due[0] <= ON_TIME:
        return due
    match catch_up:
        case CatchUp.NONE:
            return due[-1:] if now - due[-1] <= ON_TIME else []
        case CatchUp.ONE:
            return due[-1:]
        case CatchUp.ALL:
            return due[-MAX_CATCH_UP_RUNS:]


def _all_times(timetable: Timetable, first: datetime | None, last: datetime) -> list[datetime]:
    if first is not None and isinstance(timetable, Every):
        period = timedelta(seconds=timetable.seconds)
        return [first + number * period for number in range((last - first) // period + 1)]
    times = []
    at = first
    while at is not None and at <= last:
        times.append(at)
        at = first_time(timetable, after=at)
    return times
