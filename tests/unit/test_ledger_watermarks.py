"""How far queues have come: what an empty look and a delivered job prove of all that entered before."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.ledger.lost_jobs import entered_by
from producer.ledger.watermarks import Markers, Watermarks, entered_after, queue_of, was_delivered
from producer.records import ClaimedJob, UnfinishedJob, WaitingJob
from shared.identity import new_id
from shared.kinds.registry import Lane
from shared.retry import RetryPolicy
from shared.states import JobState
from tests.support.factories import NOON

ONE, TWO = "jobs.check.bulk", "jobs.check.bundles"


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def test_nothing_has_passed_a_queue_that_was_never_seen_to_come_anywhere() -> None:
    marks = Watermarks()
    marks.note(ONE, after(0), now=0)

    assert marks.passed_at([TWO], after(-60)) is None
    assert marks.passed_at([ONE, TWO], after(-60)) is None
    assert marks.reached([ONE, TWO], seen_by=99) is None


def test_a_message_passed_when_the_queue_was_first_seen_to_be_beyond_it() -> None:
    marks = Watermarks()
    for seconds in (0, 10, 20):
        marks.note(ONE, after(seconds), now=seconds + 1)

    assert [marks.passed_at([ONE], after(at)) for at in (-5, 0, 0.5, 20)] == [1, 1, 11, 21]
    assert marks.passed_at([ONE], after(20.1)) is None
    assert marks.reached([ONE], seen_by=11) == after(10)
    assert marks.reached([ONE], seen_by=0.5) is None


def test_a_message_that_may_be_in_either_of_two_queues_must_have_passed_both() -> None:
    marks = Watermarks()
    marks.note(ONE, after(100), now=100)
    marks.note(TWO, after(30), now=101)
    marks.note(TWO, after(60), now=140)

    assert marks.passed_at([ONE, TWO], after(40)) == 140
    assert marks.passed_at([ONE, TWO], after(70)) is None
    assert marks.reached([ONE, TWO], seen_by=139) == after(30)


def test_what_was_forgotten_must_be_seen_anew() -> None:
    marks = Watermarks()
    for queue in (ONE, TWO):
        marks.note(queue, after(0), now=0)
    marks.forget([ONE])

    assert marks.passed_at([ONE], after(0)) is None
    assert marks.passed_at([TWO], after(0)) == 0
    marks.forget()
    assert marks.passed_at([TWO], after(0)) is None


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2_000)), max_size=80), st.integers(0, 2_000))
def test_a_message_never_counts_as_passed_before_a_look_that_proves_it(
    looks: list[tuple[int, int]], entered: int
) -> None:
    marks, now, proofs = Watermarks(), 0, []
    for pause, until in looks:
        now += pause
        marks.note(ONE, after(until), now=now)
        proofs += [now] if until >= entered else []

    passed_at = marks.passed_at([ONE], after(entered))

    # Long ago it may be said to have passed later than it did, never earlier.
    assert (passed_at is None) == (not proofs)
    assert passed_at is None or proofs[0] <= passed_at <= now


def waiting(
    *,
    kind: str = "fetch",
    state: JobState = JobState.QUEUED,
    job_id: UUID | None = None,
    due_at: datetime | None = None,
    is_bundled: bool | None = None,
) -> WaitingJob:
    return WaitingJob(
        id=job_id or new_id(),
        kind=kind,
        lane=Lane.BULK,
        state=state,
        run=1,
        attempt=0,
        due_at=due_at,
        created_at=datetime.now(UTC),
        finished_at=None,
        is_bundled=is_bundled,
    )


@pytest.mark.parametrize(
    ("job", "queue"),
    [
        (waiting(), "jobs.fetch.bulk"),
        (waiting(kind="check", is_bundled=True), "jobs.check.bundles"),
        (waiting(kind="check", is_bundled=False), "jobs.check.bulk"),
        # Nobody noted whether it shared a message.
        (waiting(kind="check"), None),
        # From a delay it comes back alone, however it went out.
        (waiting(kind="check", state=JobState.DELAYED, is_bundled=True), "jobs.check.bulk"),
    ],
)
def test_a_job_marks_the_queue_that_it_surely_waits_in(job: WaitingJob, queue: str | None) -> None:
    assert queue_of(job) == queue


def test_a_job_entered_after_its_id_was_made_and_a_delayed_one_when_it_was_due() -> None:
    job = waiting()
    adopted_late = replace(job, created_at=job.created_at + timedelta(minutes=9))

    assert abs((entered_after(job) or NOON) - job.created_at) < timedelta(seconds=1)
    assert entered_after(adopted_late) == entered_after(
        replace(job, created_at=job.created_at + timedelta(1))
    )
    # The ids of third parties may tell no time, or a wrong one.
    assert entered_after(waiting(job_id=uuid4())) is None
    ahead = UUID(int=job.id.int + ((1 << 30) << 80))
    assert entered_after(replace(job, id=ahead)) == job.created_at
    assert entered_after(waiting(state=JobState.DELAYED, due_at=after(7))) == after(7)


def test_a_marker_that_a_worker_has_taken_shows_how_far_its_queue_has_come() -> None:
    markers = Markers()
    started, ended, cancelled, redriven, still = (waiting() for _ in range(5))
    for job in (started, ended, cancelled, redriven, still):
        markers.remember([job])

    come = markers.compare(
        [
            replace(started, state=JobState.RUNNING, attempt=1),
            replace(ended, state=JobState.SUCCEEDED, attempt=1),
            # In the store, while its message waits.
            replace(cancelled, state=JobState.CANCELLED),
            replace(redriven, run=2),
            still,
        ]
    )

    assert come == [("jobs.fetch.bulk", entered_after(job)) for job in (started, ended)]
    assert markers.ids == [still.id]


def test_a_deferral_shows_a_delivery_and_a_message_that_was_sent_again_does_not() -> None:
    job = waiting(state=JobState.DELAYED, due_at=after(0))

    assert was_delivered(job, replace(job, due_at=after(30)))
    assert not was_delivered(job, replace(job, is_bundled=False, attempt=1))
    assert not was_delivered(job, replace(job, state=JobState.PARKED, due_at=None))


def test_a_few_markers_of_each_queue_are_remembered_however_long_it_is() -> None:
    markers = Markers()
    jobs = [waiting() for _ in range(10)]
    other = waiting(kind="webhook")
    markers.remember([*jobs, other])
    assert markers.ids == [*(job.id for job in jobs[:3]), other.id]

    for _ in range(500):
        markers.remember([waiting()])

    assert 30 <= len(markers.ids) <= 62


def unfinished(state: JobState, *, due_in_seconds: float | None = None) -> UnfinishedJob:
    message = ClaimedJob(
        id=new_id(),
        kind="fetch",
        lane=Lane.BULK,
        args_json='{"url":"https://example.com/","timeout_seconds":60}',
        retry_json=RetryPolicy().model_dump_json(),
        run=1,
        batch_id=None,
        deadline_at=None,
        project="default",
    )
    due_at = None if due_in_seconds is None else after(due_in_seconds)
    return UnfinishedJob(message, state, position=1, attempt=1, due_at=due_at, heard_at=NOON)


@pytest.mark.parametrize(
    ("job", "seconds"),
    [
        (unfinished(JobState.QUEUED), 0),
        # It may have come back when its worker died, at the end of the attempt.
        (unfinished(JobState.RUNNING), 95),
        (unfinished(JobState.DELAYED, due_in_seconds=-9), 0),
        (unfinished(JobState.DELAYED, due_in_seconds=11.8), 12),
        # Sent again an hour before it is due, it waits in the queue of the next step.
        (unfinished(JobState.DELAYED, due_in_seconds=3_601), 5_400),
    ],
)
def test_a_message_entered_its_work_queue_by_a_time_that_follows_from_the_jobs_state(
    job: UnfinishedJob, seconds: float
) -> None:
    assert entered_by(job) == after(seconds)
