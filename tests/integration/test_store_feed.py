"""The feed of ends on both stores: in the order of the commits, resumed anywhere, nothing left out."""

import threading
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import Connection

from producer.feed import FeedFilter, Place
from producer.records import BatchRecord, JobRecord, NewJob
from producer.store import batches as store_batches
from producer.store import endings, feed, parking, queries, recording, submissions
from producer.store.database import Database
from producer.store.feed import read_feed
from producer.store.schema import batches
from shared.clock import utc_now
from shared.identity import new_id
from shared.states import JobState
from tests.support.factories import NOON, make_batch, make_job, make_report

EVERYTHING = FeedFilter()


def store_jobs(store: Database, *jobs: NewJob) -> list[UUID]:
    store.write(submissions.insert_jobs, list(jobs))
    return [job.id for job in jobs]


def end(store: Database, *job_ids: UUID, state: JobState = JobState.SUCCEEDED) -> None:
    store.write(recording.record_reports, [make_report(each, state) for each in job_ids], now=utc_now())


def told(
    store: Database,
    asked: FeedFilter = EVERYTHING,
    *,
    project: str | None = None,
    after: Place = Place(0),  # noqa: B008 - it is frozen
    limit: int = 100,
    window_rows: int = 1_000,
) -> list[tuple[Place, JobRecord | BatchRecord]]:
    """Return all ends behind a place, read page by page."""
    ends: list[tuple[Place, JobRecord | BatchRecord]] = []
    while True:
        page = store.read(
            read_feed, asked, project=project, after=after, limit=limit, window_rows=window_rows
        )
        ends += page.ends
        after = page.following
        if page.is_last:
            return ends


def ids(ends: Sequence[tuple[Place, JobRecord | BatchRecord]]) -> list[UUID]:
    return [record.id for _, record in ends]


@pytest.mark.parametrize(("limit", "window_rows"), [(100, 1_000), (1, 1_000), (2, 3), (100, 1)])
def test_ends_are_told_in_the_order_in_which_they_were_recorded_however_small_the_pages(
    store: Database, limit: int, window_rows: int
) -> None:
    first, second, third, fourth = store_jobs(store, *(make_job() for _ in range(4)))
    for together in ([third], [first, fourth], [second]):
        end(store, *together)

    ends = told(store, limit=limit, window_rows=window_rows)

    assert ids(ends) == [third, first, fourth, second]
    assert [place.number for place, _ in ends] == sorted(place.number for place, _ in ends)


def test_a_reader_goes_on_behind_any_place_and_hears_of_each_end_once(store: Database) -> None:
    jobs = store_jobs(store, *(make_job() for _ in range(5)))
    end(store, *jobs[:3])
    end(store, *jobs[3:])
    all_ends = told(store)

    for number, (place, _) in enumerate(all_ends, start=1):
        assert ids(told(store, after=Place.of(str(place)))) == ids(all_ends)[number:]
    assert ids(told(store, after=Place(all_ends[0][0].number))) == ids(all_ends)[3:]


def test_the_completion_of_a_batch_comes_behind_the_ends_of_its_jobs_and_once(store: Database) -> None:
    batch, jobs = make_batch(), [make_job() for _ in range(3)]
    store.write(submissions.insert_batch, batch, jobs)
    end(store, jobs[0].id, jobs[1].id)
    end(store, jobs[2].id, state=JobState.PARKED)

    assert ids(told(store)) == [*(job.id for job in jobs), batch.id]

    store.write(parking.redrive, jobs[2].id, project=None, now=utc_now())
    assert ids(told(store)) == [jobs[0].id, jobs[1].id, batch.id]
    last, now = Place(told(store)[-1][0].number), utc_now()
    store.write(recording.record_reports, [make_report(jobs[2].id, JobState.SUCCEEDED, run=2)], now=now)
    assert [
        (record.id, record.state) for _, record in told(store, after=last) if isinstance(record, JobRecord)
    ] == [(jobs[2].id, JobState.SUCCEEDED)]
    assert ids(told(store, after=last)) == [jobs[2].id]


def test_a_completion_that_was_overlooked_is_told_when_the_counts_are_mended(store: Database) -> None:
    batch, jobs = make_batch(), [make_job()]
    store.write(submissions.insert_batch, batch, jobs)
    end(store, jobs[0].id)
    with store.writing() as connection:
        lost = {"succeeded": 0, "accepted": 1, "finished_at": None, "completed_at": None, "feed_number": None}
        connection.execute(batches.update().values(lost))

    store.write(store_batches.correct_counts, batch.id, now=utc_now())

    assert ids(told(store)) == [jobs[0].id, batch.id]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (FeedFilter(kind="fetch"), ["fetch"]),
        (FeedFilter(states=[JobState.PARKED]), ["labelled"]),
        (FeedFilter(labels=[("team", "docs")]), ["labelled"]),
        (FeedFilter(labels=[("team", "Docs")]), []),
        (FeedFilter(labels=[("team", "docs"), ("day", "1")]), []),
        (FeedFilter(batch_id=new_id()), []),
        (EVERYTHING, ["fetch", "labelled", "theirs"]),
    ],
)
def test_only_ends_that_match_are_told(store: Database, asked: FeedFilter, found: list[str]) -> None:
    fetch, labelled, theirs = store_jobs(
        store, make_job(kind="fetch"), make_job(labels={"team": "docs"}), make_job(project="theirs")
    )
    names = {fetch: "fetch", labelled: "labelled", theirs: "theirs"}
    end(store, fetch)
    end(store, labelled, state=JobState.PARKED)
    end(store, theirs)

    assert [names[each] for each in ids(told(store, asked))] == found


def test_ends_of_another_project_are_not_there(store: Database) -> None:
    ours, theirs = store_jobs(store, make_job(), make_job(project="theirs"))
    theirs_batch, theirs_jobs = make_batch(project="theirs"), [make_job(project="theirs")]
    store.write(submissions.insert_batch, theirs_batch, theirs_jobs)
    end(store, ours, theirs, theirs_jobs[0].id)

    assert ids(told(store, project="default")) == [ours]
    assert ids(told(store, project="theirs")) == [theirs, theirs_jobs[0].id, theirs_batch.id]
    assert ids(told(store, FeedFilter(batch_id=theirs_batch.id), project="default")) == []


def test_the_feed_of_a_batch_can_begin_with_the_batch(store: Database) -> None:
    before = store_jobs(store, make_job())
    end(store, *before)
    batch = make_batch(created_at=utc_now() + timedelta(hours=2))
    jobs = [make_job()]
    store.write(submissions.insert_batch, batch, jobs)
    asked = FeedFilter(batch_id=batch.id)

    first = store.read(feed.first_place, asked, project="default")

    assert first > told(store)[0][0]
    assert store.read(feed.first_place, FeedFilter(), project="default") == Place(0)
    assert store.read(feed.first_place, asked, project="theirs") == Place(0)


def test_cancelled_jobs_are_told_of(store: Database) -> None:
    (job_id,) = store_jobs(store, make_job())
    store.write(endings.cancel_job, job_id, project=None, now=NOON)

    ((_, record),) = told(store)

    assert isinstance(record, JobRecord)
    assert (record.id, record.state) == (job_id, JobState.CANCELLED)


def test_an_end_that_is_not_committed_holds_back_those_that_would_overtake_it(store: Database) -> None:
    slow, fast = store_jobs(store, make_job(), make_job())
    seen: list[list[UUID]] = []
    other = threading.Thread(target=end, args=(store, fast))

    def record_slowly(connection: Connection) -> None:
        recording.record_reports(connection, [make_report(slow, JobState.SUCCEEDED)], now=utc_now())
        other.start()
        # Long enough for it to overtake; whether it has, is what the reader sees.
        other.join(0.5)
        seen.append(ids(told(store)))

    store.write(record_slowly)
    other.join(30)

    assert seen == [[]]
    assert ids(told(store)) == [slow, fast]


def test_who_waits_is_told_which_of_many_have_ended(store: Database) -> None:
    ended, open_ = store_jobs(store, make_job(), make_job())
    done, going = make_batch(), make_batch()
    of_done, of_going = [make_job()], [make_job()]
    store.write(submissions.insert_batch, done, of_done)
    store.write(submissions.insert_batch, going, of_going)
    end(store, ended, of_done[0].id)
    unknown = new_id()

    assert store.read(feed.ended_jobs, [ended, open_, unknown]) == [ended]
    assert store.read(feed.finished_batches, [done.id, going.id, unknown]) == [done.id]
    assert store.read(queries.get_job, open_, project=None).state is JobState.ACCEPTED
