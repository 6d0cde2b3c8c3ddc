"""What follows when an agent ends a lease, or lets it run out."""

from dataclasses import replace
from datetime import timedelta

import pytest

from producer.tasks import TaskEnd, TaskStanding, ended_report, expired_report
from shared.identity import new_id
from shared.outcomes import Cancelled, Failed, OutcomeName, Succeeded
from shared.retry import RetryPolicy
from shared.states import JobState
from tests.support.factories import NOON

MINUTE = timedelta(minutes=1)
TOKEN = "a-token"
TRANSIENT = Failed("agent_failed", "The disk was full.", transient=True)
PERMANENT = replace(TRANSIENT, transient=False)

HELD = TaskStanding(
    id=new_id(),
    kind="task",
    state=JobState.RUNNING,
    run=1,
    attempt=1,
    retry=RetryPolicy(max_attempts=2, first_delay_seconds=7, jitter=False),
    queue="mail",
    token=TOKEN,
    leased_until=NOON + MINUTE,
    cancel_requested_at=None,
    agent="agent-1",
    started_at=NOON - MINUTE,
    outcome=None,
    attempt_reason=None,
)
LAST = replace(HELD, attempt=2)
UNWANTED = replace(HELD, cancel_requested_at=NOON)


@pytest.mark.parametrize(
    ("task", "end", "state", "outcome"),
    [
        (HELD, Succeeded({"output": 1}), JobState.SUCCEEDED, OutcomeName.SUCCEEDED),
        (HELD, TRANSIENT, JobState.DELAYED, OutcomeName.FAILED_TRANSIENT),
        (HELD, PERMANENT, JobState.PARKED, OutcomeName.FAILED_PERMANENT),
        (LAST, TRANSIENT, JobState.PARKED, OutcomeName.FAILED_TRANSIENT),
        (HELD, Cancelled(), JobState.CANCELLED, OutcomeName.CANCELLED),
        # It was faster than its cancellation.
        (UNWANTED, Succeeded({}), JobState.SUCCEEDED, OutcomeName.SUCCEEDED),
        (UNWANTED, TRANSIENT, JobState.CANCELLED, OutcomeName.FAILED_TRANSIENT),
        (UNWANTED, PERMANENT, JobState.CANCELLED, OutcomeName.FAILED_PERMANENT),
    ],
)
def test_each_end_of_an_attempt_has_one_consequence(
    task: TaskStanding, end: TaskEnd, state: JobState, outcome: OutcomeName
) -> None:
    report = ended_report(task, end, now=NOON, random=lambda: 0.5)

    assert (report.state, report.outcome, report.attempt) == (state, outcome, task.attempt)
    assert (report.worker, report.started_at, report.ended_at) == ("agent-1", NOON - MINUTE, NOON)


def test_the_wait_after_a_failure_is_that_of_the_policy_to_the_second() -> None:
    report = ended_report(HELD, TRANSIENT, now=NOON, random=lambda: 0.5)

    assert (report.wait_seconds, report.due_at) == (7, NOON + timedelta(seconds=7))
    assert (report.reason, report.explanation) == ("agent_failed", "The disk was full.")


def test_a_failure_of_a_task_that_nobody_wants_any_more_says_that_it_was_cancelled() -> None:
    report = ended_report(UNWANTED, TRANSIENT, now=NOON, random=lambda: 0.5)

    assert (report.reason, report.explanation) == ("agent_failed", "Cancelled. The disk was full.")
    cancelled = ended_report(HELD, Cancelled(), now=NOON, random=lambda: 0.5)
    assert (cancelled.reason, cancelled.explanation) == ("cancelled", "Agent agent-1 ended it as cancelled.")


def test_an_agent_may_ask_for_a_longer_wait() -> None:
    asked = replace(TRANSIENT, retry_after_seconds=100.0)

    assert ended_report(HELD, asked, now=NOON, random=lambda: 0.5).wait_seconds == 100


def test_what_an_agent_says_at_length_is_cut_to_what_a_report_holds() -> None:
    report = ended_report(HELD, Failed("r" * 5_000, "e" * 50_000, False), now=NOON, random=lambda: 0.5)

    assert (report.reason, report.explanation) == ("r" * 1_000, "e" * 20_000)


def test_a_lease_that_ran_out_is_an_attempt_after_which_the_next_follows_at_once() -> None:
    report = expired_report(HELD, now=NOON + 2 * MINUTE)

    assert (report.state, report.outcome, report.reason) == (
        JobState.DELAYED,
        OutcomeName.FAILED_TRANSIENT,
        "lease_expired",
    )
    assert (report.ended_at, report.due_at, report.wait_seconds) == (NOON + MINUTE, NOON + 2 * MINUTE, 0)
    assert report.explanation == (
        "Agent agent-1 held it until 2026-01-02T12:01:00+00:00, and had not ended it by then."
    )


def test_a_lease_that_ran_out_in_the_last_attempt_parks_its_task() -> None:
    report = expired_report(LAST, now=NOON + 2 * MINUTE)

    assert (report.state, report.reason) == (JobState.PARKED, "lease_expired")


def test_a_task_that_nobody_wants_any_more_is_cancelled_when_its_lease_runs_out() -> None:
    report = expired_report(UNWANTED, now=NOON + 2 * MINUTE)

    assert (report.state, report.outcome, report.reason) == (
        JobState.CANCELLED,
        OutcomeName.CANCELLED,
        "cancelled",
    )


@pytest.mark.parametrize(
    ("task", "token", "words"),
    [
        (HELD, "another", "The token is not that of the lease under which attempt 1 runs now"),
        (HELD, "\ud800é", "The token is not that of the lease under which attempt 1 runs now"),
        (replace(HELD, token=None), TOKEN, "The token is not that of the lease"),
        (replace(HELD, leased_until=NOON), TOKEN, "The lease ran out at 2026-01-02T12:00:00+00:00"),
        (replace(HELD, leased_until=None), TOKEN, "The lease ran out; the task"),
        (replace(HELD, state=JobState.QUEUED), "x", "Nobody holds a lease: the task is queued."),
        (
            replace(HELD, state=JobState.DELAYED, token=None, attempt_reason="lease_expired"),
            TOKEN,
            "The last lease ran out; the task is delayed.",
        ),
        (
            replace(HELD, state=JobState.SUCCEEDED, outcome=OutcomeName.SUCCEEDED),
            TOKEN,
            "With this token attempt 1 ended as succeeded; the task is succeeded.",
        ),
    ],
)
def test_a_token_that_is_good_for_nothing_is_refused_with_the_reason(
    task: TaskStanding, token: str, words: str
) -> None:
    assert not task.is_held_by(token, NOON)
    assert task.refusal(token, NOON).startswith(words)


def test_only_the_same_end_by_the_same_token_is_a_repetition() -> None:
    done = replace(HELD, state=JobState.SUCCEEDED, outcome=OutcomeName.SUCCEEDED)

    assert done.is_ended_by(TOKEN, Succeeded({"other": 1}))
    assert not done.is_ended_by(TOKEN, TRANSIENT)
    assert not done.is_ended_by("another", Succeeded({}))
    assert not HELD.is_ended_by(TOKEN, Succeeded({}))
    # It was redriven: no attempt of this run has ended.
    assert not replace(HELD, state=JobState.QUEUED).is_ended_by(TOKEN, PERMANENT)
