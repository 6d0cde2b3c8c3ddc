"""Searching on both stores: what matches, in which window, and how it goes on."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from producer.records import JobFilter, NewJob
from producer.store import queries, recording, schema, submissions
from producer.store.database import Database
from producer.store.engine import open_engine
from producer.store.migrate import migrate
from producer.store.queries import _job_search, _scan, search_batches, search_jobs
from shared.kinds.registry import Lane
from shared.states import JobState
from tests.support.factories import NOON, make_batch, make_job, make_report


def stored(store: Database, *args: dict[str, Any], **fields: Any) -> list[NewJob]:
    """Store a job for each of the arguments, oldest first."""
    jobs = [make_job(args=each, **fields) for each in args]
    store.write(submissions.insert_jobs, jobs)
    return jobs


def found(store: Database, **asked: Any) -> list[UUID]:
    """Return what a search finds in one window."""
    page = store.read(queries.search_jobs, JobFilter(**asked), limit=100, after=None, project=None)
    assert page.following is None
    return [record.id for record in page.records]


def pages(store: Database, job_filter: JobFilter, *, limit: int, window_rows: int) -> list[list[UUID]]:
    """Return all pages of a search in windows of so many rows."""
    all_pages: list[list[UUID]] = []
    after: UUID | None = None
    while True:
        with store.reading() as connection:
            page = search_jobs(
                connection, job_filter, limit=limit, after=after, window_rows=window_rows, project=None
            )
        all_pages.append([record.id for record in page.records])
        if (after := page.following) is None:
            return all_pages


def index_of(step: str) -> str:
    """Return the index that a step of a plan goes by."""
    found = re.search(r"INDEX (\w+)", step)
    assert found, step
    return found[1]


def test_a_url_is_found_by_any_part_of_it_whatever_its_case(store: Database) -> None:
    upper, percent, other = stored(
        store,
        {"url": 'https://Example.com/A_B/%41?q="x"'},
        {"url": "https://example.com/100%25"},
        {"url": "https://other.example/", "headers": {"Referer": "https://example.com/a_b"}},
    )

    assert found(store, url="EXAMPLE.com/") == [percent.id, upper.id]
    assert found(store, url="a_b") == [upper.id]
    assert found(store, url='="X"') == [upper.id]
    assert found(store, url="100%25") == [percent.id]
    assert found(store, url="other") == [other.id]
    for wild in ("a%b", "exampl_", "%", "_b/\\", "\\", "/%", "nul\0", "lone\ud800", "é", "x" * 2_000):
        hits = found(store, url=wild)
        assert hits == [job.id for job in (percent, upper) if wild in str(job.args["url"]).lower()], wild


def test_a_document_with_an_escaped_nul_hinders_no_search(store: Database) -> None:
    nul, plain = stored(
        store,
        {"url": "https://example.com/nul", "note": "nul\0 and lone \ud800"},
        {"url": "https://example.com/"},
    )

    assert found(store, url="example.com") == [plain.id, nul.id]


def test_labels_must_match_to_the_letter_and_all_of_them(store: Database) -> None:
    labels = [
        {"team": "web", "tier": "1"},
        {"team": "Web"},
        {"team": "we"},
        {"x": 'team":"web', "y": "wéb%_"},
    ]
    jobs = [make_job(labels=each) for each in labels]
    store.write(submissions.insert_jobs, jobs)

    assert found(store, labels=[("team", "web")]) == [jobs[0].id]
    assert found(store, labels=[("team", "web"), ("tier", "1")]) == [jobs[0].id]
    assert found(store, labels=[("team", "web"), ("tier", "2")]) == []
    assert found(store, labels=[("y", "wéb%_")]) == [jobs[3].id]
    assert found(store, labels=[("team", "w_b")]) == found(store, labels=[("team", "%")]) == []


def test_filters_are_joined_whichever_an_index_holds(store: Database) -> None:
    batch = make_batch()
    of_batch = [
        make_job(host=f"{letter}.example", kind=kind) for letter in "ab" for kind in ("check", "fetch")
    ]
    store.write(submissions.insert_batch, batch, of_batch)
    single = make_job(host="a.example", lane=Lane.BULK)
    store.write(submissions.insert_jobs, [single])
    store.write(
        recording.record_reports, [make_report(of_batch[0].id, JobState.PARKED, reason="http_503")], now=NOON
    )

    assert found(store, host="a.example", kind="check") == [single.id, of_batch[0].id]
    assert found(store, state=JobState.PARKED, reason="http_503") == [of_batch[0].id]
    assert found(store, reason="http_5") == []
    assert found(store, batch_id=batch.id, state=JobState.ACCEPTED, kind="check") == [of_batch[2].id]
    assert found(store, batch_id=batch.id, host="b.example", url="B.EX") == [of_batch[3].id, of_batch[2].id]
    assert found(store, kind="fetch", state=JobState.PARKED) == []


def test_a_search_goes_on_from_window_to_window_without_gap_or_double(store: Database) -> None:
    # One of seven matches; the windows hold five rows, so pages are short, and one is empty.
    jobs = stored(store, *({"url": f"https://a.example/{'hit' if n % 7 == 0 else 'no'}"} for n in range(40)))
    hits = [job.id for n, job in enumerate(jobs) if n % 7 == 0][::-1]

    in_windows = pages(store, JobFilter(url="HIT", host="example.com"), limit=100, window_rows=5)

    assert [*chain(*in_windows)] == hits
    assert [] in in_windows and all(len(page) <= 1 for page in in_windows)
    assert pages(store, JobFilter(url="hit"), limit=2, window_rows=1_000) == [hits[:2], hits[2:4], hits[4:]]
    assert [*chain(*pages(store, JobFilter(url="hit"), limit=1, window_rows=15))] == hits
    # Without anything to be asked row by row there are no windows.
    assert [len(page) for page in pages(store, JobFilter(), limit=20, window_rows=5)] == [20, 20]


@pytest.mark.parametrize(
    "asked",
    [
        {"labels": [("team", "web")]},
        {"url": "example"},
        {"kind": "check", "state": JobState.PARKED},
        {"kind": "check", "host": "a.example", "reason": "timeout", "state": JobState.PARKED},
        {"batch_id": UUID(int=1), "host": "a.example"},
        {"batch_id": UUID(int=1), "ref": "row 7"},
    ],
    ids=str,
)
def test_sqlite_reads_a_window_by_its_index_and_sorts_nothing(tmp_path: Path, asked: dict[str, Any]) -> None:
    url = f"sqlite:///{tmp_path / 'retriever.db'}"
    migrate(url)
    engine = open_engine(url)
    search = _job_search(JobFilter(**asked), None)
    window = sa.select(schema.jobs.c.id).where(*search.driving).order_by(schema.jobs.c.id.desc())

    with engine.connect() as connection:
        finding, scanning = (
            connection.exec_driver_sql(
                f"EXPLAIN QUERY PLAN {query.compile(engine, compile_kwargs={'literal_binds': True})}"
            ).all()
            for query in (window, _scan(search, window, engine.dialect.name))
        )
    engine.dispose()

    # One step each, by the same index.
    assert [index_of(step.detail) for step in scanning] == [index_of(step.detail) for step in finding]
    assert len(scanning) == 1


def test_a_ref_is_found_by_its_index(store: Database) -> None:
    with store.reading() as connection:
        is_sqlite = connection.dialect.name == "sqlite"
        if not is_sqlite:
            # The table is empty, and reading it is cheaper than any index.
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        explain = "EXPLAIN QUERY PLAN" if is_sqlite else "EXPLAIN"
        query = sa.text(f"{explain} SELECT id FROM jobs WHERE ref = :ref ORDER BY id DESC")
        plan = connection.execute(query, {"ref": "row 7"}).all()

    assert "ix_jobs_ref_id" in str(plan)


def test_jobs_made_while_a_search_goes_on_are_not_in_its_way(store: Database) -> None:
    old = stored(store, *({"url": f"https://a.example/{n}"} for n in range(6)))
    job_filter = JobFilter(url="a.example")
    with store.reading() as connection:
        first = search_jobs(connection, job_filter, limit=100, after=None, window_rows=4, project=None)
    stored(store, *({"url": "https://a.example/new"} for _ in range(9)))

    with store.reading() as connection:
        second = search_jobs(
            connection, job_filter, limit=100, after=first.following, window_rows=4, project=None
        )

    ids = [record.id for page in (first, second) for record in page.records]
    assert (ids, second.following) == ([job.id for job in old][::-1], None)


def id_at(at: datetime, number: int = 0) -> UUID:
    """Return an id made at a time (RFC 9562 section 5.7)."""
    milliseconds = int(at.timestamp() * 1_000)
    return UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62 | number)


@pytest.mark.parametrize(
    ("after", "before", "numbers"),
    [
        (None, None, [2, 1, 0]),
        (NOON, None, [2, 1]),
        (None, NOON + timedelta(seconds=1), [1, 0]),
        (NOON, NOON + timedelta(seconds=1), [1]),
        (NOON + timedelta(days=1), None, []),
        (datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC), [2, 1, 0]),
    ],
)
def test_the_time_of_creation_is_a_range_of_ids(
    store: Database, after: datetime | None, before: datetime | None, numbers: Sequence[int]
) -> None:
    times = [NOON + timedelta(seconds=number - 1, milliseconds=1) for number in range(3)]
    jobs = [make_job(job_id=id_at(at, number)) for number, at in enumerate(times)]
    store.write(submissions.insert_jobs, jobs)

    assert found(store, created_after=after, created_before=before) == [jobs[number].id for number in numbers]


def test_batches_are_listed_newest_first_by_their_labels(store: Database) -> None:
    batches = [make_batch() for _ in range(5)]
    for batch in batches:
        store.write(submissions.insert_batch, batch, [])

    def ids(labels: list[tuple[str, str]], after: UUID | None = None, limit: int = 10) -> list[UUID]:
        return [
            record.id
            for record in store.read(
                queries.search_batches, labels, limit=limit, after=after, project=None
            ).records
        ]

    newest_first = [batch.id for batch in batches][::-1]
    assert ids([]) == ids([("team", "web")]) == newest_first
    assert ids([("team", "WEB")]) == ids([("team", "web"), ("tier", "1")]) == []
    assert ids([], after=newest_first[1], limit=2) == newest_first[2:4]
    with store.reading() as connection:
        page = search_batches(connection, [("team", "x")], limit=2, after=None, window_rows=2, project=None)
    assert (page.records, page.following) == ([], newest_first[1])
