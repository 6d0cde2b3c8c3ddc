"""Figures for the dashboard, on both stores: counted once, added up once, and read without counting."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from producer.figures import DelayDepth, Span
from producer.ledger.figures import FigureKeeper
from producer.parking import GroupKey
from producer.store import figures, parking, recording, submissions
from producer.store.database import Database, RetryingStore
from producer.store.schema import ended_hours, ended_minutes, jobs
from shared.broker.topology import QueueDepth, delay_queue
from shared.clock import utc_now
from shared.kinds.registry import Lane
from shared.states import JobState
from tests.support.factories import make_job, make_report


def keeper(store: Database, depths: dict[str, QueueDepth] | None = None) -> FigureKeeper:
    return FigureKeeper(store=RetryingStore(store), depths=lambda: depths or {})


def insert(store: Database, number: int, **fields: object) -> list[UUID]:
    made = [make_job(**{"created_at": utc_now(), **fields}) for _ in range(number)]  # type: ignore[arg-type]
    store.write(submissions.insert_jobs, made)
    return [job.id for job in made]


def end(store: Database, ids: list[UUID], state: JobState = JobState.SUCCEEDED, **said: str) -> None:
    reports = [make_report(each, state, started_at=utc_now(), **said) for each in ids]  # type: ignore[arg-type]
    store.write(recording.record_reports, reports, now=utc_now())


async def test_what_there_is_is_counted_by_project_state_kind_and_lane(store: Database) -> None:
    first = insert(store, 3)
    insert(store, 2, lane=Lane.BULK, kind="fetch", project="ours")
    parked = insert(store, 4, host="a.example")
    end(store, first[:1])
    end(store, parked, JobState.PARKED, reason="timeout")
    depths = {delay_queue(30): QueueDepth(delay_queue(30), 7, 0)}

    await keeper(store, depths).count()
    everything = store.read(figures.read_overview, project=None, now=utc_now())
    ours = store.read(figures.read_overview, project="ours", now=utc_now())

    assert everything.total(JobState.ACCEPTED) == 4
    assert everything.total(JobState.PARKED) == 4
    assert everything.total(JobState.SUCCEEDED) == 0
    assert [(each.kind, each.lane, each.jobs) for each in ours.jobs] == [("fetch", "bulk", 2)]
    assert [(each.key, each.jobs) for each in everything.groups] == [
        (GroupKey("check", "timeout", "a.example"), 4)
    ]
    assert everything.groups[0].newest == max(parked)
    assert everything.delays == [DelayDepth(30, 7)]
    assert (ours.groups, ours.delays) == ([], ())
    assert everything.counted_at is not None


async def test_a_count_replaces_the_one_before(store: Database) -> None:
    ids = insert(store, 2)
    counting = keeper(store, {delay_queue(30): QueueDepth(delay_queue(30), 7, 0)})
    await counting.count()
    end(store, ids, JobState.PARKED)
    await counting.count()
    with store.writing() as connection:
        connection.execute(jobs.delete())
    between = store.read(figures.read_overview, project=None, now=utc_now())

    await keeper(store).count()
    after = store.read(figures.read_overview, project=None, now=utc_now())

    assert (between.total(JobState.ACCEPTED), between.total(JobState.PARKED)) == (0, 2)
    assert (after.jobs, after.groups, after.delays) == ([], [], [])


async def test_ends_are_added_to_their_minutes_and_hours_once(store: Database) -> None:
    now = utc_now()
    began = now - timedelta(hours=2)
    end(store, insert(store, 5, created_at=now - timedelta(seconds=4)))
    end(store, insert(store, 2, created_at=now - timedelta(hours=1), project="ours"), JobState.PARKED)
    again = insert(store, 1)
    end(store, again, JobState.PARKED)

    await keeper(store).fold()
    await keeper(store).fold()
    store.write(parking.redrive, again[0], project=None, now=utc_now())
    end_again = make_report(again[0], JobState.SUCCEEDED, run=2, started_at=utc_now())
    store.write(recording.record_reports, [end_again], now=utc_now())
    await keeper(store).fold()
    spans = {
        step: store.read(
            figures.read_history,
            project=None,
            since=now - timedelta(hours=2),
            step_seconds=step,
            now=utc_now(),
        )
        for step in (60, 900, 3_600)
    }
    ours = store.read(
        figures.read_history, project="ours", since=now - timedelta(hours=1), step_seconds=60, now=utc_now()
    )

    for found in spans.values():
        assert sum(span.ended.get(JobState.SUCCEEDED, 0) for span in found) == 6
        assert sum(span.ended.get(JobState.PARKED, 0) for span in found) == 3
        assert found[0].began_at <= began
        assert len({span.began_at for span in found}) == len(found)
    assert 120 <= len(spans[60]) <= 122
    assert sum(span.total for span in ours) == 2
    last = next(span for span in reversed(ours) if span.total)
    assert last.within_seconds(0.5) == 21_600


async def test_many_ends_are_added_a_window_at_a_time(store: Database) -> None:
    ids = insert(store, 30)
    for each in ids:
        end(store, [each])

    windows = 1
    while store.write(figures.fold_ends, now=utc_now(), rows=7):
        windows += 1

    with store.reading() as connection:
        for table in (ended_minutes, ended_hours):
            assert connection.scalar(sa.select(sa.func.sum(table.c.jobs))) == 30
    assert windows >= 4
    assert not store.read(figures.has_new_ends)


def test_old_minutes_and_hours_are_forgotten(store: Database) -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    row = {"project": "default", "kind": "check", "lane": "bulk", "state": "parked", "bucket": 0, "jobs": 1}
    with store.writing() as connection:
        for age in (timedelta(hours=1), timedelta(hours=80), timedelta(days=100)):
            at = int((now - age).timestamp())
            connection.execute(ended_minutes.insert().values(span=at // 60, **row))
            connection.execute(ended_hours.insert().values(span=at // 3_600, **row))

    store.write(figures.forget_old, now=now)

    with store.reading() as connection:
        left = [
            connection.scalar(sa.select(sa.func.count()).select_from(table))
            for table in (ended_minutes, ended_hours)
        ]
    assert left == [1, 2]


@pytest.mark.parametrize(("share", "seconds"), [(0.5, 5), (0.95, 86_400), (1.0, 86_400)])
def test_a_share_of_ends_took_no_longer_than_their_bucket(share: float, seconds: float) -> None:
    span = Span(datetime(2026, 1, 2, tzinfo=UTC), {JobState.SUCCEEDED: 10}, {4: 2, 5: 6, 14: 2})

    assert span.within_seconds(share) == seconds
    assert Span(span.began_at).within_seconds(share) is None
