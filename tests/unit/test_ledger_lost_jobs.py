"""Which message a job's present state asks for, when it is sent again."""

from datetime import timedelta

import pytest

from producer.ledger.lost_jobs import next_attempt, republished_message
from producer.records import ClaimedJob, UnfinishedJob
from shared.identity import new_id
from shared.kinds.registry import Lane
from shared.messages import JobMessage, KnownCopy
from shared.retry import RetryPolicy
from shared.states import JobState
from tests.support.factories import NOON, TOKENS


def unfinished(state: JobState, *, attempt: int = 0, due_in_seconds: float | None = None) -> UnfinishedJob:
    claimed = ClaimedJob(
        id=new_id(),
        kind="fetch",
        lane=Lane.BULK,
        args_json='{"url":"https://example.com/"}',
        retry_json=RetryPolicy(max_attempts=9).model_dump_json(),
        run=3,
        batch_id=new_id(),
        deadline_at=NOON + timedelta(hours=1),
        known=KnownCopy(job_id=new_id(), etag='"1"'),
        project="default",
    )
    due_at = None if due_in_seconds is None else NOON + timedelta(seconds=due_in_seconds)
    return UnfinishedJob(claimed, state, position=1, attempt=attempt, due_at=due_at, heard_at=NOON)


@pytest.mark.parametrize(
    ("state", "recorded", "asked"),
    [
        (JobState.QUEUED, 0, 1),
        # Adopted by the report of a later attempt.
        (JobState.QUEUED, 2, 3),
        (JobState.RUNNING, 2, 2),
        (JobState.DELAYED, 2, 3),
        # Deferred before its first attempt.
        (JobState.DELAYED, 0, 1),
    ],
)
def test_the_attempt_that_is_asked_for_follows_from_what_was_recorded(
    state: JobState, recorded: int, asked: int
) -> None:
    assert next_attempt(unfinished(state, attempt=recorded)) == asked


def test_a_job_is_sent_with_all_that_the_relay_sends_in_its_own_run() -> None:
    job = unfinished(JobState.RUNNING, attempt=2)

    message = republished_message(job, tokens=TOKENS, now=NOON)

    assert (message.exchange, message.routing_key, message.is_mandatory) == (
        "jobs",
        "fetch.bulk.stored",
        True,
    )
    body, claimed = JobMessage.decode(message.body), job.message
    assert (body.id, body.run, body.attempt, body.args, body.retry) == (
        claimed.id,
        3,
        2,
        claimed.args,
        claimed.retry,
    )
    assert (body.batch_id, body.expires_at, body.known) == (
        claimed.batch_id,
        claimed.deadline_at,
        claimed.known,
    )


def test_a_delayed_job_waits_for_what_is_left_of_its_delay() -> None:
    ahead = republished_message(
        unfinished(JobState.DELAYED, attempt=1, due_in_seconds=11), tokens=TOKENS, now=NOON
    )
    due = republished_message(
        unfinished(JobState.DELAYED, attempt=1, due_in_seconds=0), tokens=TOKENS, now=NOON
    )

    assert (ahead.exchange, ahead.routing_key) == ("jobs.delay", "fetch.bulk.12s")
    assert (due.exchange, due.routing_key) == ("jobs", "fetch.bulk.stored")
