"""The demo judges its own jobs, and prints what a log can hold."""

import io
from datetime import timedelta
from typing import Any

import pytest
from rich.console import Console

from deploy.local.demo_cases import (
    FINE_TOTAL,
    Case,
    Ending,
    difficult_checks,
    ending_of,
    surprises,
    surprises_after_redrive,
    surprises_among_fine,
)
from deploy.local.demo_screen import Lines, Moment, Screen, line_of, row_of, row_of_fine
from producer.api.documents import Attempt, Job
from shared.identity import new_id
from shared.kinds.check import Verdict
from shared.kinds.registry import Lane
from shared.outcomes import OutcomeName
from shared.states import JobState
from tests.support.factories import NOON

SUCCEEDED, PARKED = JobState.SUCCEEDED, JobState.PARKED


def make_finished(
    *,
    state: JobState = SUCCEEDED,
    result: dict[str, Any] | None = None,
    reason: str | None = None,
    waits_seconds: tuple[float | None, ...] = (None,),
    run: int = 1,
) -> Job:
    return Job(
        id=new_id(),
        kind="check",
        args={"url": "http://127.0.0.1/"},
        lane=Lane.BULK,
        project="default",
        state=state,
        reason=reason,
        explanation=None,
        run=run,
        attempt=len(waits_seconds),
        result=result,
        host="127.0.0.1",
        batch_id=None,
        labels={},
        ref=None,
        line=None,
        given_url=None,
        same_as=None,
        due_at=None,
        deadline_at=None,
        callback_url=None,
        callback_events=None,
        schedule_id=None,
        created_at=NOON,
        finished_at=NOON + timedelta(seconds=2.5),
        attempts=[make_attempt(number, wait, run=run) for number, wait in enumerate(waits_seconds, start=1)],
    )


def make_attempt(number: int, wait_seconds: float | None, *, run: int = 1) -> Attempt:
    outcome = OutcomeName.FAILED_TRANSIENT if wait_seconds else OutcomeName.SUCCEEDED
    return Attempt(
        run=run,
        number=number,
        started_at=NOON,
        ended_at=NOON,
        outcome=outcome,
        reason=None,
        wait_seconds=wait_seconds,
        worker="worker-1",
    )


def make_moment(seconds: float, **counts: int) -> Moment:
    return Moment(seconds, {JobState(state): count for state, count in counts.items()}, {})


OK = {"verdict": "ok", "reason": "ok", "status": 200}
FLAKY = Case("/flaky", {}, (Ending(SUCCEEDED, 3, Verdict.OK, "ok"),))


def test_a_job_that_ended_as_it_must_is_no_surprise() -> None:
    job = make_finished(result=OK, waits_seconds=(1, 2, None))

    assert surprises((FLAKY,), [job]) == []


@pytest.mark.parametrize(
    "job",
    [
        make_finished(result=OK),
        make_finished(result=OK | {"verdict": "broken"}, waits_seconds=(1, 2, None)),
        make_finished(state=PARKED, result=OK, reason="http_503", waits_seconds=(1, 2, None)),
    ],
    ids=["too few attempts", "another verdict", "parked"],
)
def test_a_job_that_ended_in_another_way_is_named(job: Job) -> None:
    (sentence,) = surprises((FLAKY,), [job])

    assert "/flaky" in sentence and "instead of [succeeded, 3 attempts, verdict ok, ok]" in sentence


def test_a_job_that_is_missing_is_a_surprise() -> None:
    assert surprises((FLAKY,), []) == ["0 jobs were found instead of 1."]


def test_attempts_of_an_earlier_run_do_not_count() -> None:
    job = make_finished(result=OK, run=2)
    redriven = job.model_copy(update={"attempts": [make_attempt(1, 1.0), *job.attempts]})

    assert ending_of(redriven) == Ending(SUCCEEDED, 1, Verdict.OK, "ok")


def test_a_machine_without_dns_may_park_the_name_that_does_not_exist() -> None:
    (unknown,) = [case for case in difficult_checks("http://site", "http://no") if "nowhere" in case.name]
    without_dns = make_finished(
        state=PARKED, reason="dns_failed", result={"verdict": "down"}, waits_seconds=(1, 2, 4, None)
    )
    with_dns = make_finished(result={"verdict": "broken", "reason": "dns_no_such_name"})

    assert surprises((unknown, unknown), [without_dns, with_dns]) == []


def test_every_case_has_a_name_of_its_own() -> None:
    names = [case.name for case in difficult_checks("http://127.0.0.1:1", "http://127.0.0.1:2")]

    assert len(set(names)) == len(names)


def test_one_good_url_that_took_two_attempts_is_a_surprise() -> None:
    good = [make_finished(result=OK)] * (FINE_TOTAL - 1)

    assert surprises_among_fine([*good, good[0]]) == []
    assert surprises_among_fine([*good, make_finished(result=OK, waits_seconds=(1, None))]) != []


def test_a_redrive_must_succeed_under_the_same_id_and_leave_the_parking_queue() -> None:
    before = make_finished(state=PARKED, reason="http_500")
    after = before.model_copy(update={"state": SUCCEEDED, "run": 2})

    assert surprises_after_redrive(before, after, left_queue=True) == []
    assert surprises_after_redrive(before, after, left_queue=False) != []
    assert surprises_after_redrive(before, before, left_queue=True) != []


def test_a_row_has_the_waits_between_attempts_and_no_reason_that_the_status_tells() -> None:
    retried = row_of("/broken", make_finished(state=PARKED, reason="http_500", waits_seconds=(1, 2, None)))
    refused = row_of("/", make_finished(state=PARKED, reason="connection_refused"))

    assert (retried.attempts, retried.reason, retried.seconds) == ("3 (1+2 s)", "", 2.5)
    assert (refused.attempts, refused.reason) == ("1", "connection_refused")


def test_a_line_leaves_out_what_is_zero_and_names_the_delay_queues_in_use() -> None:
    moment = Moment(
        1.0,
        {JobState.DELAYED: 2, JobState.RUNNING: 0, SUCCEEDED: 5},
        {"jobs.check.bulk": 3, "jobs.delay.00001s": 0, "jobs.delay.00002s": 2},
    )

    assert line_of(moment) == "2 delayed, 5 succeeded   [jobs.delay.00002s 2]"


def test_lines_come_once_a_second_at_most_and_only_with_news_and_the_last_always() -> None:
    written: list[str] = []
    lines = Lines(written.append)

    lines.show(make_moment(0.0, queued=3))
    lines.show(make_moment(0.4, running=3))
    lines.show(make_moment(1.1, succeeded=1, running=2))
    lines.show(make_moment(2.2, succeeded=1, running=2))
    lines.show(make_moment(2.9, succeeded=3))
    lines.show(make_moment(3.0, succeeded=3))
    lines.finish()

    assert [line.strip() for line in written] == [
        "0 s  3 queued",
        "1 s  2 running, 1 succeeded",
        "3 s  3 succeeded",
    ]


def test_a_log_gets_no_escape_codes_and_a_narrow_terminal_every_reason() -> None:
    out = io.StringIO()
    screen = Screen(Console(file=out, width=80), is_live=False)
    parked = make_finished(state=PARKED, reason="connection_refused", waits_seconds=(1, 2, 4, None))

    screen.head("1  Start")
    with screen.step("RabbitMQ"):
        pass
    with screen.following() as show:
        show(make_moment(0.0, queued=3))
    screen.table([row_of_fine([make_finished(result=OK)]), row_of("127.0.0.1:65535", parked)])

    assert "\x1b" not in out.getvalue()
    assert "connection_refused" in out.getvalue()
    assert all(len(line) <= 80 for line in out.getvalue().splitlines())


def test_nothing_that_a_target_sends_reaches_the_terminal_raw() -> None:
    said = io.StringIO()
    screen = Screen(Console(file=said, width=100), is_live=False)
    raw = "\x1b[2J\x9b1m\u202e[red]"
    job = make_finished(state=PARKED, reason=raw)

    screen.say(raw)
    screen.facts([("name", raw)])
    screen.complain(f"{raw}\nmore")
    screen.table([row_of(raw, job)])

    assert all(line.isprintable() for line in said.getvalue().split("\n"))
    assert said.getvalue().count("[red]") >= 4
