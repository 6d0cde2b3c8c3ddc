"""Bodies beside results, and the copies that the next fetch builds on, on both stores."""

import gzip
import os
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from producer.records import BodyRecord, NewJob
from producer.store import bodies, outbox, parking, recording, retention, submissions
from producer.store.database import Database
from shared.bodies import StoredBody
from shared.identity import new_id
from shared.messages import KnownCopy, Report
from shared.outcomes import OutcomeName
from shared.states import JobState
from tests.support.bodies import compress_body
from tests.support.factories import NOON, make_batch, make_job, make_report

URL = "https://example.com/data"
LATER = NOON + timedelta(minutes=1)


def stored_body(body: bytes, *, content_type: str = "text/csv") -> StoredBody:
    stored = compress_body(body, content_type=content_type, charset="utf-8")
    assert stored is not None
    return stored


def fetch_job(**said: Any) -> NewJob:
    return make_job(kind="fetch", args={"url": URL, "if_changed": True, **said})


def succeeded(job_id: UUID, body: StoredBody | None = None, **said: Any) -> Report:
    result = {
        "status": 200,
        "final_url": URL,
        "hops": [{"url": URL, "status": 200, "seconds": 0.1}],
        "total_seconds": 0.1,
        **said,
    }
    report = make_report(job_id, JobState.SUCCEEDED, kind="fetch", result=result)
    return report.model_copy(update={"body": body})


def claim(store: Database, *jobs: NewJob) -> list[KnownCopy | None]:
    store.write(submissions.insert_jobs, jobs)
    claims = store.write(outbox.claim_accepted, limit=100, lease_seconds=60, now=NOON)
    known = {job.id: job.known for job in claims}
    return [known[job.id] for job in jobs]


def test_a_body_is_stored_with_its_report_and_read_in_pieces(store: Database) -> None:
    job, body = make_job(kind="fetch"), os.urandom(300_000)
    store.write(submissions.insert_jobs, [job])

    store.write(recording.record_reports, [succeeded(job.id, stored_body(body))], now=NOON)

    record = store.read(bodies.find_body, job.id)
    assert record == BodyRecord(job.id, "text/csv", "utf-8", 300_000, stored_body(body).sha256)
    pieces = [
        store.read(bodies.read_piece, job.id, start=start, length=65_536)
        for start in range(0, 400_000, 65_536)
    ]
    assert gzip.decompress(b"".join(pieces)) == body
    assert pieces[-1] == b""


def test_only_the_report_that_moves_the_job_brings_a_body(store: Database) -> None:
    job, parked = make_job(kind="fetch"), make_job(kind="fetch")
    store.write(submissions.insert_jobs, [job, parked])
    store.write(recording.record_reports, [make_report(parked.id, JobState.PARKED, kind="fetch")], now=NOON)
    first, second = stored_body(b"first"), stored_body(b"second")

    store.write(
        recording.record_reports,
        [succeeded(job.id, first), succeeded(job.id, second), succeeded(parked.id, second)],
        now=NOON,
    )
    store.write(recording.record_reports, [succeeded(job.id, second), succeeded(new_id(), second)], now=LATER)

    assert gzip.decompress(store.read(bodies.read_piece, job.id, start=0, length=1_000)) == b"first"
    assert store.read(bodies.find_body, parked.id) is None


def test_a_body_and_its_validators_go_with_their_job(store: Database) -> None:
    job = fetch_job()
    store.write(submissions.insert_jobs, [job])
    store.write(recording.record_reports, [succeeded(job.id, stored_body(b"body"), etag='"1"')], now=NOON)

    store.write(
        retention.delete_single_jobs,
        JobState.SUCCEEDED,
        before=LATER + timedelta(days=9_999),
        after=None,
        limit=10,
    )

    assert store.read(bodies.find_body, job.id) is None
    assert claim(store, fetch_job()) == [None]


def test_a_fetch_that_asks_for_changes_gets_the_last_copy(store: Database) -> None:
    job = fetch_job()
    assert claim(store, job) == [None]
    store.write(
        recording.record_reports, [succeeded(job.id, etag='"1"', last_modified="yesterday")], now=NOON
    )

    again, patient, plain, other = (
        fetch_job(),
        fetch_job(timeout_seconds=5.0, url=f"{URL}#part"),
        fetch_job(if_changed=False),
        fetch_job(headers={"Accept-Language": "de"}),
    )

    known = KnownCopy(job_id=job.id, etag='"1"', last_modified="yesterday")
    assert claim(store, again, patient, plain, other) == [known, known, None, None]


def test_a_fetch_that_did_not_ask_is_a_copy_for_one_that_does(store: Database) -> None:
    plain = make_job(kind="fetch", args={"url": URL})
    store.write(submissions.insert_jobs, [plain])
    store.write(recording.record_reports, [succeeded(plain.id, etag='"1"')], now=NOON)

    assert claim(store, fetch_job()) == [KnownCopy(job_id=plain.id, etag='"1"')]


def test_jobs_of_batches_and_redrives_get_the_copy_too(store: Database) -> None:
    parked, seen = fetch_job(), fetch_job()
    store.write(submissions.insert_jobs, [parked, seen])
    store.write(recording.record_reports, [succeeded(seen.id, etag='"1"')], now=NOON)
    store.write(recording.record_reports, [make_report(parked.id, JobState.PARKED, kind="fetch")], now=NOON)
    store.write(submissions.insert_batch, make_batch(kind="fetch"), [fetch_job()])
    store.write(parking.redrive, parked.id, now=NOON, project=None)

    claims = store.write(outbox.claim_accepted, limit=10, lease_seconds=60, now=NOON)

    assert [job.known and job.known.job_id for job in claims] == [seen.id, seen.id]


@pytest.mark.parametrize("in_one_call", [True, False])
def test_the_fetch_that_ended_last_is_the_copy(store: Database, in_one_call: bool) -> None:
    early, late = fetch_job(), fetch_job()
    store.write(submissions.insert_jobs, [early, late])
    reports = [
        succeeded(late.id, etag='"late"').model_copy(update={"ended_at": LATER}),
        succeeded(early.id, etag='"early"'),
    ]

    for group in [reports] if in_one_call else [[report] for report in reports]:
        store.write(recording.record_reports, group, now=LATER)

    assert claim(store, fetch_job()) == [KnownCopy(job_id=late.id, etag='"late"')]


def test_a_fetch_that_found_nothing_changed_leaves_the_copy_that_has_the_body(store: Database) -> None:
    first, second = fetch_job(), fetch_job()
    store.write(submissions.insert_jobs, [first, second])
    store.write(recording.record_reports, [succeeded(first.id, etag='"1"')], now=NOON)

    store.write(
        recording.record_reports,
        [succeeded(second.id, etag='"1"', not_modified=True, unchanged_since=str(first.id))],
        now=LATER,
    )

    assert claim(store, fetch_job()) == [KnownCopy(job_id=first.id, etag='"1"')]


def test_what_nobody_can_ask_with_is_no_copy(store: Database) -> None:
    hop = {"url": URL, "status": 200, "seconds": 0.1}
    odd: list[dict[str, Any]] = [
        {"hops": [hop, hop]},
        {"hops": 7},
        {"etag": "two\nlines"},
        {"etag": "nul \0 lone \ud800"},
        {"etag": "x" * 2_000},
        {"etag": None},
    ]
    jobs = [fetch_job() for _ in odd]
    store.write(submissions.insert_jobs, jobs)

    recorded = store.write(
        recording.record_reports,
        [succeeded(job.id, **{"etag": '"1"', **said}) for job, said in zip(jobs, odd, strict=True)],
        now=NOON,
    )

    assert len(recorded.transitions) == len(odd)
    assert claim(store, fetch_job()) == [None]


def test_only_a_get_is_a_copy(store: Database) -> None:
    post = make_job(kind="fetch", args={"url": URL, "method": "POST"})
    failed = fetch_job()
    store.write(submissions.insert_jobs, [post, failed])

    store.write(recording.record_reports, [succeeded(post.id, etag='"1"')], now=NOON)
    store.write(
        recording.record_reports,
        [
            succeeded(failed.id, etag='"1"').model_copy(
                update={"state": JobState.PARKED, "outcome": OutcomeName.FAILED_PERMANENT}
            )
        ],
        now=NOON,
    )

    assert claim(store, fetch_job()) == [None]
