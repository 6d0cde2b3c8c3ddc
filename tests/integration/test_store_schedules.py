"""Schedules on both stores: a run and the next time are one change, and only one ledger makes it."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from threading import Barrier
from uuid import UUID

import pytest
import sqlalchemy as sa

from producer.ledger.metrics import LedgerMetrics
from producer.ledger.scheduler import Scheduler
from producer.records import (
    JobFilter,
    JobRecord,
    NewSchedule,
    Overlap,
    RunEffect,
    ScheduleRecord,
    ScheduleStep,
)
from producer.scheduling import scheduled_run
from producer.store import audit as store_audit
from producer.store import queries, recording, retention, schedule_runs, submissions
from producer.store import schedules as store_schedules
from producer.store.database import Database, RetryingStore
from producer.store.schema import jobs as jobs_table
from producer.store.schema import schedules as schedules_table
from producer.timetable import CatchUp, Cron, Every
from shared.errors import ScheduleNotFound
from shared.identity import new_id
from shared.states import JobState
from tests.support.factories import NOON, make_job, make_report, make_schedule

MINUTE = timedelta(minutes=1)
BATCH = {"batch": {"kind": "check", "items": [{"url": "http://a.example/"}, {"url": "http://b.example/"}]}}


def stored(store: Database, schedule: NewSchedule) -> ScheduleRecord:
    store.write(store_schedules.insert_schedule, schedule)
    return store.read(store_schedules.get_schedule, schedule.id, project=None)


def jobs_of(store: Database, schedule: NewSchedule) -> Sequence[JobRecord]:
    return store.read(
        queries.search_jobs, JobFilter(schedule_id=schedule.id), limit=1_000, after=None, project=None
    ).records


def tick(store: Database, now: datetime) -> int:
    return asyncio.run(Scheduler(store=RetryingStore(store), metrics=LedgerMetrics()).tick(now))


def make_run(store: Database, schedule: ScheduleRecord) -> bool:
    run = scheduled_run(schedule, run_at=NOON, now=NOON)
    step = ScheduleStep(schedule, NOON + MINUTE, RunEffect.MADE, run.facts, run)
    return bool(store.write(schedule_runs.take_steps, [step], now=NOON))


def test_a_stored_schedule_comes_back_as_it_was_given(store: Database) -> None:
    every = make_schedule()
    cron = make_schedule(timetable=Cron("0 9 * * *", "Europe/Berlin", NOON), template=BATCH)

    first, second = stored(store, every), stored(store, cron)

    assert (first.timetable, first.template, first.overlap) == (
        every.timetable,
        every.template,
        every.overlap,
    )
    assert (second.timetable, second.template, second.next_run_at) == (cron.timetable, BATCH, NOON)
    assert (first.runs, first.skipped, first.revision, first.last_run_at) == (0, 0, 0, None)
    page = store.read(store_schedules.list_schedules, limit=1, after=None, project=None).records
    rest = store.read(store_schedules.list_schedules, limit=9, after=page[0].id, project=None).records
    assert [each.id for each in [*page, *rest]] == [cron.id, every.id]
    assert store.read(store_schedules.next_due_at) == NOON


def test_a_due_schedule_makes_its_run_and_moves_on(store: Database) -> None:
    schedule = make_schedule()
    stored(store, schedule)

    assert tick(store, NOON - timedelta(microseconds=1)) == 0
    assert tick(store, NOON) == 1
    assert tick(store, NOON) == 0

    (job,) = jobs_of(store, schedule)
    after = store.read(store_schedules.get_schedule, schedule.id, project=None)
    assert (job.state, job.schedule_id, job.kind) == (JobState.ACCEPTED, schedule.id, "check")
    assert (after.next_run_at, after.last_run_at, after.last_job_id) == (NOON + MINUTE, NOON, job.id)
    assert (after.runs, after.skipped) == (1, 0)


def test_a_run_of_a_batch_is_a_batch(store: Database) -> None:
    schedule = make_schedule(template=BATCH)
    stored(store, schedule)

    tick(store, NOON)

    after = store.read(store_schedules.get_schedule, schedule.id, project=None)
    assert after.last_batch_id is not None and after.last_job_id is None
    batch = store.read(queries.get_batch, after.last_batch_id, project=None)
    assert (batch.total, batch.schedule_id) == (2, schedule.id)
    assert {job.batch_id for job in jobs_of(store, schedule)} == {batch.id}


def test_a_run_is_made_by_one_of_those_that_decided_on_it(store: Database) -> None:
    schedule = stored(store, make_schedule())
    at_once = Barrier(6)

    def race(_: int) -> bool:
        at_once.wait()
        return make_run(store, schedule)

    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(race, range(6)))

    assert made.count(True) == 1
    assert len(jobs_of(store, schedule)) == 1


async def test_two_schedulers_on_one_store_make_each_run_once(store: Database) -> None:
    schedules = [make_schedule(catch_up=CatchUp.ALL) for _ in range(5)]
    for schedule in schedules:
        store.write(store_schedules.insert_schedule, schedule)
    ledgers = [Scheduler(store=RetryingStore(store), metrics=LedgerMetrics()) for _ in range(2)]

    for minutes in (0, 1, 2, 30):
        await asyncio.gather(*(ledger.tick(NOON + minutes * MINUTE) for ledger in ledgers))

    assert [len(jobs_of(store, schedule)) for schedule in schedules] == [31] * 5
    assert {
        store.read(store_schedules.get_schedule, schedule.id, project=None).runs for schedule in schedules
    } == {31}


@pytest.mark.parametrize(("catch_up", "runs"), [(CatchUp.NONE, 1), (CatchUp.ONE, 2), (CatchUp.ALL, 11)])
def test_what_a_downtime_missed_is_made_up_for(store: Database, catch_up: CatchUp, runs: int) -> None:
    schedule = make_schedule(catch_up=catch_up)
    stored(store, schedule)
    tick(store, NOON)

    tick(store, NOON + 10.5 * MINUTE)

    after = store.read(store_schedules.get_schedule, schedule.id, project=None)
    assert (len(jobs_of(store, schedule)), after.runs, after.next_run_at) == (runs, runs, NOON + 11 * MINUTE)


@pytest.mark.parametrize("template", [None, BATCH])
def test_a_run_is_skipped_while_the_last_one_is_unfinished(
    store: Database, template: dict[str, object] | None
) -> None:
    schedule = make_schedule(overlap=Overlap.SKIP, template=template)
    stored(store, schedule)
    tick(store, NOON)
    first = jobs_of(store, schedule)

    tick(store, NOON + MINUTE)
    skipped = store.read(store_schedules.get_schedule, schedule.id, project=None)
    store.write(
        recording.record_reports, [make_report(job.id, JobState.SUCCEEDED) for job in first], now=NOON
    )
    tick(store, NOON + 2 * MINUTE)

    after = store.read(store_schedules.get_schedule, schedule.id, project=None)
    assert (skipped.runs, skipped.skipped, skipped.last_run_at) == (1, 1, NOON)
    assert (after.runs, after.skipped, after.last_run_at) == (2, 1, NOON + 2 * MINUTE)
    assert len(jobs_of(store, schedule)) == 2 * len(first)


def test_a_run_that_cannot_be_made_says_why_and_holds_up_nobody(store: Database) -> None:
    broken = make_schedule(template={"job": {"kind": "gone", "args": {}}})
    sound = make_schedule()
    for schedule in (broken, sound):
        store.write(store_schedules.insert_schedule, schedule)

    tick(store, NOON)

    after = store.read(store_schedules.get_schedule, broken.id, project=None)
    assert after.last_error is not None and "/job/kind" in after.last_error
    assert (after.runs, after.next_run_at) == (0, NOON + MINUTE)
    assert len(jobs_of(store, sound)) == 1


def test_a_paused_schedule_makes_no_runs_until_it_is_resumed(store: Database) -> None:
    schedule = make_schedule()
    decided_before = stored(store, schedule)

    paused = store.write(store_schedules.pause_schedule, schedule.id, now=NOON, project=None)
    again = store.write(store_schedules.pause_schedule, schedule.id, now=NOON + MINUTE, project=None)

    assert (paused.paused_at, again.paused_at, again.next_run_at) == (NOON, NOON, None)
    assert (tick(store, NOON + MINUTE), store.read(store_schedules.next_due_at)) == (0, None)
    assert make_run(store, decided_before) is False
    resumed = store.write(
        store_schedules.resume_schedule, schedule.id, next_run_at=NOON + 5 * MINUTE, now=NOON, project=None
    )
    unchanged = store.write(
        store_schedules.resume_schedule, schedule.id, next_run_at=NOON + 9 * MINUTE, now=NOON, project=None
    )
    assert resumed.paused_at is None
    assert resumed.next_run_at == unchanged.next_run_at == NOON + 5 * MINUTE
    assert make_run(store, decided_before) is False


def test_a_run_now_leaves_the_times_as_they_are_and_counts_as_the_last(store: Database) -> None:
    schedule = stored(store, make_schedule(overlap=Overlap.SKIP))
    run = scheduled_run(schedule, run_at=NOON - MINUTE, now=NOON - MINUTE)

    after = store.write(store_schedules.run_now, schedule.id, run, now=NOON, project=None)
    tick(store, NOON)

    assert (after.last_job_id, after.next_run_at, after.runs) == (run.jobs[0].id, NOON, 1)
    assert store.read(store_schedules.get_schedule, schedule.id, project=None).skipped == 1


def test_a_deleted_schedule_is_gone_and_its_jobs_stay(store: Database) -> None:
    schedule = stored(store, make_schedule())
    tick(store, NOON)

    store.write(store_schedules.delete_schedule, schedule.id, now=NOON, project=None)

    assert (tick(store, NOON + MINUTE), len(jobs_of(store, schedule))) == (0, 1)
    assert make_run(store, schedule) is False


def audited(store: Database, schedule: NewSchedule) -> list[tuple[str, str]]:
    """Return what the audit log says of a schedule, oldest first, as (action, who)."""
    target = f"schedule/{schedule.id}"
    entries = store.read(store_audit.list_audit, target=target, limit=100, after=None, project=None).records
    return [(entry.action, entry.by) for entry in reversed(entries)]


def test_the_audit_log_has_what_is_done_to_a_schedule_once(store: Database) -> None:
    schedule = make_schedule()
    store.write(store_schedules.insert_schedule, schedule, by="ann")
    run = scheduled_run(
        store.read(store_schedules.get_schedule, schedule.id, project=None), run_at=NOON, now=NOON
    )
    store.write(store_schedules.run_now, schedule.id, run, by="bob", now=NOON, project=None)
    for _ in range(2):
        store.write(store_schedules.pause_schedule, schedule.id, by="cid", now=NOON, project=None)
    for _ in range(2):
        store.write(
            store_schedules.resume_schedule,
            schedule.id,
            next_run_at=NOON + MINUTE,
            by="dan",
            now=NOON,
            project=None,
        )
    store.write(store_schedules.delete_schedule, schedule.id, by="eve", now=NOON, project=None)

    assert audited(store, schedule) == [
        ("schedule_created", "ann"),
        ("schedule_run_made", "bob"),
        ("schedule_paused", "cid"),
        ("schedule_resumed", "dan"),
        ("schedule_deleted", "eve"),
    ]


def test_the_audit_log_has_what_a_schedule_does_by_itself(store: Database) -> None:
    schedule = make_schedule(overlap=Overlap.SKIP, catch_up=CatchUp.NONE)
    broken = make_schedule(template={"job": {"kind": "gone", "args": {}}})
    stored(store, schedule)
    stored(store, broken)

    # Its run; the next while that is unfinished; then an hour in which no ledger ran.
    tick(store, NOON)
    tick(store, NOON + MINUTE)
    tick(store, NOON + 60 * MINUTE + timedelta(seconds=30))

    assert [action for action, by in audited(store, schedule) if by == "scheduler"] == [
        "schedule_run_made",
        "schedule_run_skipped",
        "schedule_runs_missed",
    ]
    assert ("schedule_run_failed", "scheduler") in audited(store, broken)
    # What the scheduler did goes with the retention; what people did stays.
    entries = store.read(store_audit.list_audit, target=None, limit=100, after=None, project=None).records
    mine = [entry for entry in entries if entry.by != "scheduler"]
    assert store.write(retention.forget_runs, before=NOON, limit=100) == 0
    later = max(entry.at for entry in entries) + timedelta(days=999)
    assert store.write(retention.forget_runs, before=later, limit=100) == len(entries) - len(mine)
    assert (
        store.read(store_audit.list_audit, target=None, limit=100, after=None, project=None).records == mine
    )


def test_the_labels_of_a_schedule_reach_its_jobs_and_batches(store: Database) -> None:
    job = {"kind": "check", "args": {"url": "http://a.example/"}, "labels": {"team": "own", "page": "home"}}
    single = stored(store, make_schedule(template={"job": job}))
    batch = stored(store, make_schedule(template=BATCH))

    tick(store, NOON)

    # Those of the template win.
    assert [each.labels for each in jobs_of(store, single)] == [{"team": "own", "page": "home"}]
    assert [each.labels for each in jobs_of(store, batch)] == [{"team": "web"}] * 2
    (made,) = store.read(queries.search_batches, [("team", "web")], limit=9, after=None, project=None).records
    assert made.schedule_id == batch.id


def test_an_unknown_schedule_is_not_found(store: Database) -> None:
    unknown = new_id()
    run = scheduled_run(stored(store, make_schedule()), run_at=NOON, now=NOON)

    for change in (
        lambda: store.read(store_schedules.get_schedule, unknown, project=None),
        lambda: store.write(store_schedules.pause_schedule, unknown, now=NOON, project=None),
        lambda: store.write(
            store_schedules.resume_schedule, unknown, next_run_at=NOON, now=NOON, project=None
        ),
        lambda: store.write(store_schedules.run_now, unknown, run, now=NOON, project=None),
        lambda: store.write(store_schedules.delete_schedule, unknown, now=NOON, project=None),
    ):
        with pytest.raises(ScheduleNotFound):
            change()
    assert store.read(queries.search_jobs, JobFilter(), limit=1, after=None, project=None).records == []


def scheduler(store: Database, metrics: LedgerMetrics | None = None) -> Scheduler:
    return Scheduler(store=RetryingStore(store), metrics=metrics or LedgerMetrics())


def in_order(store: Database) -> list[UUID | None]:
    """Return which schedule made each job, in the order in which they were made."""
    with store.reading() as connection:
        return list(connection.scalars(sa.select(jobs_table.c.schedule_id).order_by(jobs_table.c.id)))


def insert_many(store: Database, new: Sequence[NewSchedule]) -> None:
    with store.writing() as connection:
        for schedule in new:
            store_schedules.insert_schedule(connection, schedule)


def commits(store: Database, work: Callable[[], object]) -> int:
    """Return how many transactions that write are made by some work."""
    count = 0

    def note(_connection: object) -> None:
        nonlocal count
        count += 1

    sa.event.listen(store._writer.engine, "commit", note)
    work()
    return count


def test_no_schedule_makes_a_second_run_before_each_has_made_its_first(store: Database) -> None:
    # More than a page of them, each with five runs that it missed.
    late = [make_schedule(timetable=Every(1, NOON), catch_up=CatchUp.ALL) for _ in range(120)]
    innocent = make_schedule(next_run_at=NOON + timedelta(seconds=4))
    insert_many(store, [*late, innocent])

    tick(store, NOON + timedelta(seconds=4))

    made = in_order(store)
    assert len(made) == 120 * 5 + 1
    assert made.index(innocent.id) <= 120
    assert len(set(made[:121])) == 121


def test_hundreds_of_schedules_that_are_due_take_a_few_transactions(store: Database) -> None:
    insert_many(store, [make_schedule(timetable=Every(1, NOON)) for _ in range(600)])

    taken = commits(store, lambda: tick(store, NOON))

    assert len(set(in_order(store))) == 600
    assert taken < 60


async def test_a_flood_of_due_jobs_holds_up_no_schedule(store: Database) -> None:
    schedule = make_schedule()
    stored(store, schedule)
    store.write(submissions.insert_jobs, [make_job(due_at=NOON) for _ in range(1_200)])

    await scheduler(store).step(NOON)

    assert len(jobs_of(store, schedule)) == 1
    assert store.read(queries.count_unfinished)[JobState.SCHEDULED] == 700


async def test_large_templates_have_their_turns_after_the_small_ones_and_one_after_the_other(
    store: Database,
) -> None:
    items = [{"url": f"http://a.example/{number}"} for number in range(600)]
    large = [make_schedule(template={"batch": {"kind": "check", "items": items}}) for _ in range(3)]
    small = [make_schedule(timetable=Every(1, NOON)) for _ in range(3)]
    insert_many(store, [*large, *small])
    it = scheduler(store)
    with pytest.MonkeyPatch.context() as patch:
        # Nobody has time for a second large one.
        patch.setattr("producer.ledger.scheduler._HEAVY_SECONDS", 0)
        for seconds in range(4):
            await it.step(NOON + timedelta(seconds=seconds))

    assert [len(jobs_of(store, each)) for each in small] == [4, 4, 4]
    assert [store.read(store_schedules.get_schedule, each.id, project=None).runs for each in large] == [
        1,
        1,
        1,
    ]
    made = in_order(store)
    assert set(made[:3]) == {each.id for each in small}


def test_a_schedule_that_cannot_be_read_is_put_aside_and_the_others_run(
    store: Database, caplog: pytest.LogCaptureFixture
) -> None:
    spoilt, sound = make_schedule(), make_schedule()
    insert_many(store, [spoilt, sound])
    with store.writing() as connection:
        spoil = schedules_table.update().where(schedules_table.c.id == spoilt.id)
        connection.execute(spoil.values(overlap=sa.text("'never'")))

    with caplog.at_level(logging.ERROR):
        tick(store, NOON)

    assert len(jobs_of(store, sound)) == 1
    put_aside = [entry for entry in caplog.records if entry.message == "row_put_aside"]
    assert [vars(entry)["schedule_id"] for entry in put_aside] == [str(spoilt.id)]
