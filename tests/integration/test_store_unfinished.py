"""What the store says of unfinished jobs: overdue, in windows, and touched without being moved."""

from datetime import datetime, timedelta
from uuid import UUID

from producer.records import NewJob, UnfinishedJob, UnreadableJob
from producer.store import endings, events, outbox, parking, queries, recording, submissions, unfinished
from producer.store.database import Database
from shared.identity import new_id
from shared.kinds.registry import Lane
from shared.states import JobState
from tests.support.factories import NOON, make_batch, make_deferral, make_job, make_report

CHECKS = [("check", Lane.INTERACTIVE)]
LATER = NOON + timedelta(minutes=2)


def queue(store: Database, *jobs: NewJob, now: datetime = NOON) -> None:
    store.write(submissions.insert_jobs, jobs)
    store.write(outbox.mark_queued, [(job.id, 1) for job in jobs], now=now)


def found(
    store: Database, state: JobState, *, heard_before: datetime = NOON, due_before: datetime | None = None
) -> list[UUID]:
    page = store.read(
        unfinished.read_page, state, CHECKS, heard_before=heard_before, due_before=due_before, after=None
    )
    return [job.message.id for job in page.jobs]


def one(store: Database, state: JobState) -> UnfinishedJob:
    (job,) = store.read(unfinished.read_page, state, CHECKS, heard_before=LATER, after=None).jobs
    return job


def test_only_jobs_of_which_nothing_was_heard_since_are_found(store: Database) -> None:
    silent, fresh, accepted = make_job(), make_job(), make_job()
    queue(store, silent)
    queue(store, fresh, now=NOON + timedelta(seconds=1))
    store.write(submissions.insert_jobs, [accepted])

    assert found(store, JobState.QUEUED) == [silent.id]


def test_jobs_of_other_kinds_and_lanes_are_not_found(store: Database) -> None:
    queue(store, make_job(kind="fetch"), make_job(lane=Lane.BULK))

    assert found(store, JobState.QUEUED) == []
    assert store.read(unfinished.read_page, JobState.QUEUED, [], heard_before=NOON, after=None).jobs == []


def test_a_delayed_job_is_found_when_it_is_due_and_silent(store: Database) -> None:
    job = make_job()
    queue(store, job)
    store.write(recording.record_reports, [make_report(job.id, JobState.DELAYED)], now=NOON)
    due_at = NOON + timedelta(seconds=6)

    assert found(store, JobState.DELAYED, due_before=due_at - timedelta(microseconds=1)) == []
    assert found(store, JobState.DELAYED, due_before=due_at) == [job.id]
    assert found(store, JobState.DELAYED) == [job.id]


def test_a_found_job_says_which_attempt_was_recorded_and_what_the_relay_knows(store: Database) -> None:
    retried, deferred, running = make_job(deadline_at=LATER), make_job(), make_job()
    queue(store, retried)
    store.write(recording.record_reports, [make_report(retried.id, JobState.DELAYED, attempt=2)], now=NOON)
    first = one(store, JobState.DELAYED)
    store.write(recording.record_reports, [make_report(retried.id, JobState.SUCCEEDED, attempt=3)], now=NOON)
    queue(store, deferred, running)
    store.write(
        recording.record_reports,
        [make_deferral(deferred.id), make_report(running.id, JobState.RUNNING)],
        now=NOON,
    )

    assert (first.attempt, first.message.run, first.message.deadline_at) == (2, 1, LATER)
    assert first.message.args == retried.args
    assert one(store, JobState.DELAYED).attempt == 0
    assert one(store, JobState.RUNNING).attempt == 1


def test_a_touched_job_is_silent_anew_and_has_not_moved(store: Database) -> None:
    job = make_job()
    queue(store, job)
    before = one(store, JobState.QUEUED)

    store.write(unfinished.mark_sent, [(job.id, before.position)], now=LATER)

    after = one(store, JobState.QUEUED)
    assert found(store, JobState.QUEUED) == []
    assert (after.position, after.heard_at) == (before.position, LATER)


def test_a_job_that_has_moved_on_is_not_touched(store: Database) -> None:
    job = make_job()
    queue(store, job)
    before = one(store, JobState.QUEUED)
    store.write(recording.record_reports, [make_report(job.id, JobState.RUNNING)], now=NOON)

    store.write(unfinished.mark_sent, [(job.id, before.position)], now=LATER)

    assert one(store, JobState.RUNNING).heard_at == NOON


def test_every_job_is_found_in_windows_that_may_be_empty(store: Database) -> None:
    silent = [make_job() for _ in range(7)]
    others = [make_job(kind="fetch") for _ in range(7)]
    queue(store, *silent[:2], *others, *silent[2:])

    seen, sizes, after = [], [], None
    while True:
        page = store.read(
            unfinished.read_page, JobState.QUEUED, CHECKS, heard_before=NOON, after=after, window_jobs=3
        )
        seen += [job.message.id for job in page.jobs]
        sizes.append(len(page.jobs))
        if (after := page.following) is None:
            break

    assert seen == sorted(job.id for job in silent)
    assert max(sizes) <= 3 and len(sizes) == 5


def test_overdue_jobs_are_counted_by_state(store: Database) -> None:
    silent, waiting = [make_job() for _ in range(3)], make_job()
    queue(store, *silent, waiting)
    store.write(recording.record_reports, [make_report(waiting.id, JobState.DELAYED)], now=NOON)

    def count(state: JobState, heard_before: datetime) -> int:
        return store.read(unfinished.count_overdue, state, heard_before=heard_before)

    assert (count(JobState.QUEUED, NOON), count(JobState.QUEUED, NOON - timedelta(seconds=1))) == (3, 0)
    assert (count(JobState.DELAYED, NOON), count(JobState.DELAYED, LATER)) == (0, 1)


def test_a_job_whose_message_nobody_can_read_is_parked_once_and_counted(store: Database) -> None:
    batch = make_batch()
    job = make_job(callback_url="https://caller.example/")
    other = make_job()
    store.write(submissions.insert_batch, batch, [job, other])
    store.write(outbox.mark_queued, [(job.id, 1)], now=NOON)
    unreadable = [UnreadableJob(job.id, 1, "version: Input should be 1")]

    changes = [store.write(endings.park_unreadable, unreadable, now=LATER) for _ in range(2)]

    parked = store.read(queries.get_job, job.id, project=None)
    assert [[change.reason for change in each] for each in changes] == [["message_undecodable"], []]
    assert (parked.state, parked.reason, parked.explanation) == (
        JobState.PARKED,
        "message_undecodable",
        "version: Input should be 1",
    )
    # No attempt was made, and a late report of one changes nothing.
    assert (parked.run, parked.attempt, parked.attempts, parked.finished_at) == (1, 0, [], LATER)
    store.write(recording.record_reports, [make_report(job.id, JobState.SUCCEEDED)], now=LATER)
    assert store.read(queries.get_job, job.id, project=None).state is JobState.PARKED
    assert store.read(queries.get_batch, batch.id, project=None).counts == {
        JobState.PARKED: 1,
        JobState.ACCEPTED: 1,
    }
    (event,) = store.write(events.claim_events, limit=5, lease_seconds=60, now=LATER)
    assert (event.body["state"], event.body["reason"]) == ("parked", "message_undecodable")
    assert store.write(parking.redrive, job.id, now=LATER, project=None).run == 2


def test_a_message_that_nobody_can_read_touches_no_job_that_is_not_on_its_way(store: Database) -> None:
    scheduled, ended = make_job(due_at=LATER), make_job()
    store.write(submissions.insert_jobs, [scheduled, ended])
    store.write(recording.record_reports, [make_report(ended.id, JobState.SUCCEEDED)], now=NOON)
    named = [UnreadableJob(job_id, 1, "?") for job_id in (scheduled.id, ended.id, new_id())]

    assert store.write(endings.park_unreadable, named, now=LATER) == []
    assert store.read(queries.get_job, scheduled.id, project=None).state is JobState.SCHEDULED
    assert store.read(queries.get_job, ended.id, project=None).state is JobState.SUCCEEDED
