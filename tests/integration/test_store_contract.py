"""What every store keeps to, on SQLite and on PostgreSQL: submit, read, list, count."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from producer.records import JobFilter, NewJob, Rejected, SubmissionResult
from producer.store import outbox, queries, recording, results, submissions
from producer.store.database import Database
from shared.errors import BatchNotFound, JobNotFound
from shared.identity import new_id
from shared.kinds.registry import Lane
from shared.retry import RetryPolicy
from shared.states import JobState
from tests.support.factories import NOON, make_batch, make_job, make_report

UGLY_DOCUMENT: dict[str, Any] = {
    "nul": "a\0b",
    "lone": "\ud800 \udc00",
    "emoji": "😀\u2028é",
    "": {"deep": [None, True, 1.5, 2**70, "\\u0000"]},
    "k\0ey": [],
}


def test_a_stored_job_comes_back_as_it_was_given(store: Database) -> None:
    batch = make_batch()
    store.write(submissions.insert_batch, batch, [])
    retry = RetryPolicy(max_attempts=40, jitter=False)
    job = make_job(
        kind="fetch", lane=Lane.BULK, args=UGLY_DOCUMENT, retry=retry, labels={"a": "b"}, batch_id=batch.id
    )

    store.write(submissions.insert_jobs, [job])

    stored = store.read(queries.get_job, job.id, project=None)
    assert (stored.id, stored.kind, stored.lane, stored.host) == (job.id, "fetch", Lane.BULK, job.host)
    assert (stored.args, stored.retry, stored.labels) == (UGLY_DOCUMENT, retry, {"a": "b"})
    assert (stored.state, stored.run, stored.attempt, stored.batch_id) == (JobState.ACCEPTED, 1, 0, batch.id)
    assert (stored.result, stored.reason, stored.finished_at, stored.attempts) == (None, None, None, [])
    assert stored.created_at == NOON
    assert stored.created_at.utcoffset() == timedelta(0)


def test_what_was_handed_in_with_a_job_is_kept_beside_it(store: Database) -> None:
    batch = make_batch()
    given = [
        ("pages.md:7\t\\N\n", 1, "HTTPS://EXAMPLE.com"),
        (None, 2, None),
        ("é 😀", 3, None),
        (None, 4, "x\0"),
    ]
    of_batch = [make_job(ref=ref, line=line, given_url=given_url) for ref, line, given_url in given]
    alone = make_job(ref="é" * 512, given_url="https://EXAMPLE.com/")
    rejected = [Rejected(5, "/lines/5", "No", "row 5", "htp:/x"), Rejected(6, "/lines/6", "No")]

    store.write(submissions.insert_batch, batch, of_batch, rejected)
    store.write(submissions.insert_jobs, [alone, make_job()])

    stored = store.read(results.batch_jobs, batch.id, after=None, limit=10, project=None).records
    assert [(job.ref, job.line, job.given_url) for job in stored] == [
        *given[:-1],
        (None, 4, "x\N{REPLACEMENT CHARACTER}"),
    ]
    found = store.read(queries.get_job, alone.id, project=None)
    assert (found.ref, found.line, found.given_url) == (alone.ref, None, alone.given_url)
    assert store.read(queries.list_rejected, batch.id, after=0, limit=10, project=None) == rejected


def test_an_unknown_job_is_not_found(store: Database) -> None:
    with pytest.raises(JobNotFound):
        store.read(queries.get_job, new_id(), project=None)


def test_jobs_inserted_twice_are_stored_once_and_stay_where_they_are(store: Database) -> None:
    job = make_job()
    store.write(submissions.insert_jobs, [job])
    store.write(outbox.mark_queued, [(job.id, 1)], now=NOON)

    store.write(submissions.insert_jobs, [job, make_job()])

    assert store.read(queries.get_job, job.id, project=None).state is JobState.QUEUED
    assert len(store.read(queries.search_jobs, JobFilter(), limit=10, after=None, project=None).records) == 2


def test_no_job_of_a_refused_insert_is_stored(store: Database) -> None:
    good = make_job()
    bad = make_job(args={"not json": object()})

    with pytest.raises(Exception, match="JSON serializable"):
        store.write(submissions.insert_jobs, [good, bad])

    with pytest.raises(JobNotFound):
        store.read(queries.get_job, good.id, project=None)


def test_text_that_no_database_holds_is_stored_with_replacement_characters(store: Database) -> None:
    job = make_job(host="nul\0lone\ud800.example")

    store.write(submissions.insert_jobs, [job])

    assert store.read(queries.get_job, job.id, project=None).host == "nul\ufffdlone\ufffd.example"
    assert (
        store.read(
            queries.search_jobs, JobFilter(host="nul\0lone\ud800.example"), limit=1, after=None, project=None
        )
        .records[0]
        .id
        == job.id
    )


def test_a_host_longer_than_an_index_entry_is_stored_and_found(store: Database) -> None:
    # Every character counts: PostgreSQL compresses a repeated one.
    host = "".join(new_id().hex for _ in range(250))
    job = make_job(host=host)

    store.write(submissions.insert_jobs, [job])

    assert [
        found.id
        for found in store.read(
            queries.search_jobs, JobFilter(host=host), limit=9, after=None, project=None
        ).records
    ] == [job.id]


@pytest.mark.parametrize("field", ["state", "kind", "batch_id", "host", "nothing", "everything"])
def test_a_list_gives_every_matching_job_once_newest_first(store: Database, field: str) -> None:
    batch = make_batch()
    wanted = [make_job(kind="fetch", host="a.example") for _ in range(250)]
    others = [make_job() for _ in range(20)]
    store.write(submissions.insert_jobs, others[:10])
    store.write(submissions.insert_batch, batch, wanted)
    store.write(submissions.insert_jobs, others[10:])
    store.write(outbox.mark_queued, [(job.id, 1) for job in others], now=NOON)
    fields: dict[str, Any] = {
        "state": JobState.ACCEPTED,
        "kind": "fetch",
        "batch_id": batch.id,
        "host": "a.example",
    }
    match field:
        case "nothing":
            job_filter, expected = JobFilter(), wanted + others
        case "everything":
            job_filter, expected = JobFilter(**fields), wanted
        case _:
            job_filter, expected = JobFilter(**{field: fields[field]}), wanted

    listed = list(_all_pages(store, job_filter))

    assert listed == sorted((job.id for job in expected), reverse=True)


def test_a_list_has_no_attempts(store: Database) -> None:
    job = make_job()
    store.write(submissions.insert_jobs, [job])
    store.write(recording.record_reports, [make_report(job.id, JobState.RUNNING)], now=NOON)

    assert (
        store.read(queries.search_jobs, JobFilter(), limit=1, after=None, project=None).records[0].attempts
        == ()
    )
    assert len(store.read(queries.get_job, job.id, project=None).attempts) == 1


def test_a_batch_counts_its_jobs_by_state(store: Database) -> None:
    batch = make_batch()
    jobs = [make_job() for _ in range(2_500)]

    store.write(submissions.insert_batch, batch, iter(jobs))
    total = store.read(queries.get_batch, batch.id, project=None).total

    store.write(submissions.insert_jobs, [make_job()])
    store.write(outbox.mark_queued, [(job.id, 1) for job in jobs[:2]], now=NOON)
    stored = store.read(queries.get_batch, batch.id, project=None)
    assert (total, stored.total, stored.kind, stored.labels) == (2_500, 2_500, "check", {"team": "web"})
    assert stored.counts == {JobState.ACCEPTED: 2_498, JobState.QUEUED: 2}
    assert (stored.created_at, stored.finished_at) == (NOON, None)


def test_a_batch_is_finished_when_its_last_job_is(store: Database) -> None:
    batch = make_batch()
    first, second, third = (make_job() for _ in range(3))
    store.write(submissions.insert_batch, batch, [first, second, third])
    later = NOON + timedelta(minutes=5)
    store.write(
        recording.record_reports,
        [make_report(first.id, JobState.SUCCEEDED), make_report(second.id, JobState.RUNNING)],
        now=NOON,
    )

    before = store.read(queries.get_batch, batch.id, project=None)
    store.write(
        recording.record_reports,
        [
            make_report(second.id, JobState.PARKED, ended_at=later),
            make_report(third.id, JobState.SUCCEEDED, ended_at=NOON),
        ],
        now=later,
    )

    assert before.finished_at is None
    assert before.counts == {JobState.SUCCEEDED: 1, JobState.RUNNING: 1, JobState.ACCEPTED: 1}
    assert store.read(queries.get_batch, batch.id, project=None).finished_at == later
    assert store.read(queries.get_batch, batch.id, project=None).counts == {
        JobState.SUCCEEDED: 2,
        JobState.PARKED: 1,
    }


def test_an_empty_batch_is_finished_when_it_is_made(store: Database) -> None:
    batch = make_batch()

    assert store.write(submissions.insert_batch, batch, []) == SubmissionResult(batch.id)

    assert store.read(queries.get_batch, batch.id, project=None).finished_at == NOON
    assert store.read(results.batch_jobs, batch.id, after=None, limit=10, project=None).records == []


def test_an_unknown_batch_is_not_found(store: Database) -> None:
    with pytest.raises(BatchNotFound):
        store.read(queries.get_batch, new_id(), project=None)
    with pytest.raises(BatchNotFound):
        store.read(results.batch_jobs, new_id(), after=None, limit=10, project=None)


def test_a_batch_whose_upload_breaks_off_leaves_nothing(store: Database) -> None:
    batch = make_batch()

    def broken_upload() -> Iterator[NewJob]:
        yield from (make_job() for _ in range(1_500))
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        store.write(submissions.insert_batch, batch, broken_upload())

    assert store.read(queries.search_jobs, JobFilter(), limit=1, after=None, project=None).records == []
    with pytest.raises(BatchNotFound):
        store.read(queries.get_batch, batch.id, project=None)


def test_a_batch_is_exported_oldest_first_each_job_once(store: Database) -> None:
    batch = make_batch()
    jobs = [make_job() for _ in range(250)]
    store.write(submissions.insert_batch, batch, reversed(jobs))
    store.write(submissions.insert_jobs, [make_job()])

    page = store.read(results.batch_jobs, batch.id, after=None, limit=60, project=None)
    exported = [job.id for job in page.records]
    while page.following:
        page = store.read(results.batch_jobs, batch.id, after=page.following, limit=60, project=None)
        exported.extend(job.id for job in page.records)

    assert exported == sorted(job.id for job in jobs)


def test_unfinished_jobs_are_counted_by_state(store: Database) -> None:
    jobs = [make_job() for _ in range(5)]
    store.write(submissions.insert_jobs, jobs)
    store.write(
        recording.record_reports,
        [
            make_report(jobs[0].id, JobState.SUCCEEDED),
            make_report(jobs[1].id, JobState.PARKED),
            make_report(jobs[2].id, JobState.DELAYED),
        ],
        now=NOON,
    )

    assert store.read(queries.count_unfinished) == {
        JobState.ACCEPTED: 2,
        JobState.PARKED: 1,
        JobState.DELAYED: 1,
    }


def _all_pages(store: Database, job_filter: JobFilter) -> Iterator[UUID]:
    after = None
    while page := store.read(queries.search_jobs, job_filter, limit=40, after=after, project=None).records:
        yield from (job.id for job in page)
        after = page[-1].id
