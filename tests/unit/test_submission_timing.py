"""When a submission may run and until when: two ways to say each, and what contradicts itself."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from producer.batch_validation import batch_args
from producer.submission import NOW, JobTemplate, Timing, new_job, timing_of
from producer.submission_models import BatchSubmission, JobSubmission
from shared.errors import JobInvalid
from shared.identity import new_id
from shared.states import JobState

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ARGS = {"url": "http://example.com/"}


def timing(**fields: object) -> Timing:
    submission = JobSubmission.model_validate({"kind": "check", "args": ARGS, **fields})
    return timing_of(submission, now=NOON)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, NOW),
        ({"run_at": NOON + HOUR}, Timing(NOON + HOUR)),
        ({"run_at": (NOON + HOUR).astimezone(timezone(5 * HOUR))}, Timing(NOON + HOUR)),
        ({"delay_seconds": 3600}, Timing(NOON + HOUR)),
        ({"delay_seconds": 0}, NOW),
        ({"run_at": NOON - HOUR}, NOW),
        ({"run_at": NOON + timedelta(days=365)}, Timing(NOON + timedelta(days=365))),
        ({"deadline_at": NOON + HOUR}, Timing(None, NOON + HOUR)),
        ({"expires_after_seconds": 3600}, Timing(None, NOON + HOUR)),
        ({"run_at": NOON - HOUR, "expires_after_seconds": 3600}, Timing(None, NOON + HOUR)),
        ({"delay_seconds": 3600, "expires_after_seconds": 3600}, Timing(NOON + HOUR, NOON + 2 * HOUR)),
    ],
)
def test_times_and_durations_come_to_two_moments(fields: dict[str, object], expected: Timing) -> None:
    assert timing(**fields) == expected


@pytest.mark.parametrize(
    ("fields", "loc"),
    [
        ({"run_at": NOON, "delay_seconds": 1}, "/delay_seconds"),
        ({"run_at": NOON + timedelta(days=367)}, "/run_at"),
        ({"run_at": datetime.max.replace(tzinfo=timezone(-HOUR))}, "/run_at"),
        ({"deadline_at": NOON + HOUR, "expires_after_seconds": 1}, "/expires_after_seconds"),
        ({"deadline_at": NOON}, "/deadline_at"),
        ({"deadline_at": NOON + HOUR, "delay_seconds": 3600}, "/deadline_at"),
        ({"deadline_at": NOON + timedelta(days=367)}, "/deadline_at"),
    ],
)
def test_times_that_contradict_each_other_are_named(fields: dict[str, object], loc: str) -> None:
    with pytest.raises(JobInvalid) as caught:
        timing(**fields)

    assert [error.loc for error in caught.value.errors] == [loc]


def test_every_job_of_a_batch_has_the_times_of_the_batch() -> None:
    submission = BatchSubmission.model_validate(
        {"kind": "check", "items": [ARGS, ARGS], "delay_seconds": 60, "expires_after_seconds": 60}
    )
    template = JobTemplate.of(submission, now=NOON, project="default")

    jobs = [template.job(args, job_id=new_id()) for args in batch_args(submission, template)[0]]

    minute = timedelta(minutes=1)
    assert {(job.due_at, job.deadline_at, job.state) for job in jobs} == {
        (NOON + minute, NOON + 2 * minute, JobState.SCHEDULED)
    }


def test_a_job_without_a_time_is_accepted_at_once() -> None:
    submission = JobSubmission.model_validate({"kind": "check", "args": ARGS})

    assert new_job(submission, job_id=new_id(), now=NOON, project="default").state is JobState.ACCEPTED
