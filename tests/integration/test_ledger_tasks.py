"""What ledgers do for tasks, of which the broker has nothing but the copies of parked ones."""

import asyncio
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry

from producer.ledger.leader import Lease
from producer.ledger.metrics import LedgerMetrics
from producer.ledger.parked_reconciler import PARKED_WALK, ParkedReconciler
from producer.ledger.recovery import adopt_parked, chosen_queues
from producer.ledger.task_keeper import TaskKeeper
from producer.records import JobRecord, NewJob, UnfinishedPage
from producer.store import (
    outbox,
    parking,
    queries,
    submissions,
    tasks,
    unfinished,
)
from producer.store.database import Database, RetryingStore, Store
from producer.store.schema import jobs, metadata
from producer.tasks import PickedTask, PickRequest, TaskStanding, expired_report
from shared.broker.topology import PARKED_QUEUE
from shared.clock import utc_now
from shared.errors import LeaseLost
from shared.kinds.registry import BROKERED_KINDS
from shared.messages import Report
from shared.outcomes import Failed
from shared.retry import RetryPolicy
from shared.settings import Settings
from shared.states import JobState, position
from tests.support.amqp import message_count, open_channel, running, running_publisher
from tests.support.factories import NOON, TOKENS, make_batch, make_job, make_report, make_task
from tests.support.waiting import eventually

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
TRANSIENT = Failed("agent_failed", "The disk was full.", transient=True)
PERMANENT = Failed("agent_failed", "There is no such film.", transient=False)


def pick(
    store: Database, *, queue: str = "default", limit: int = 9, now: datetime = NOON
) -> list[PickedTask]:
    asked = PickRequest(queue=queue, agent="agent-1", limit=limit, lease_seconds=60, project="default")
    return store.write(tasks.pick, asked, now=now)


def get(store: Database, job_id: UUID) -> JobRecord:
    return store.read(queries.get_job, job_id, project=None)


def keeper(store: Database, metrics: LedgerMetrics | None = None) -> TaskKeeper:
    return TaskKeeper(store=RetryingStore(store), metrics=metrics or LedgerMetrics())


def expired_of(registry: CollectorRegistry, queue: str) -> float | None:
    return registry.get_sample_value("retriever_task_leases_expired_total", {"queue": queue})


def park(store: Database, *, queue: str = "films") -> NewJob:
    task = make_task(queue=queue)
    store.write(submissions.insert_jobs, [task])
    (picked,) = pick(store, queue=queue)
    store.write(tasks.finish, task.id, picked.token, PERMANENT, now=NOON, project=None)
    return task


async def test_a_keeper_does_all_that_is_due_and_nothing_else(store: Database) -> None:
    metrics = LedgerMetrics()
    failing, held, later = make_task(queue="mail"), make_task(queue="mail"), make_task(queue="mail")
    store.write(submissions.insert_jobs, [failing, held])
    failed, _ = pick(store, queue="mail")
    store.write(tasks.finish, failing.id, failed.token, TRANSIENT, now=NOON, project=None)
    store.write(submissions.insert_jobs, [later])
    pick(store, queue="mail", now=NOON + 30 * SECOND)

    assert await keeper(store, metrics).tick(NOON + MINUTE) == 2

    again = [each.job.id for each in pick(store, queue="mail", now=NOON + MINUTE)]
    assert again == [failing.id, held.id]
    assert get(store, later.id).state is JobState.RUNNING
    assert expired_of(metrics.registry, "mail") == 1


async def test_a_running_keeper_lets_a_task_be_picked_soon_after_its_lease(store: Database) -> None:
    store.write(submissions.insert_jobs, [make_task(created_at=utc_now())])
    asked = PickRequest(queue="default", agent="agent-1", lease_seconds=0.3, project="default")
    (first,) = store.write(tasks.pick, asked, now=utc_now())

    async def is_picked_again() -> list[PickedTask]:
        return await asyncio.to_thread(store.write, tasks.pick, asked, now=utc_now())

    threads = RetryingStore(store)
    async with running(TaskKeeper(store=threads, metrics=LedgerMetrics()).run()):
        (second,) = await eventually(is_picked_again)
    # Its last look is over before the connections are closed.
    threads.close()

    assert (second.job.id, second.job.attempt) == (first.job.id, 2)


async def test_a_task_whose_lease_cannot_be_ended_holds_up_no_other(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd, fine = make_task(), make_task()
    store.write(submissions.insert_jobs, [odd, fine])
    pick(store)

    def report_but_one(task: TaskStanding, **kwargs: Any) -> Report:
        if task.id == odd.id:
            raise ValueError("nobody can read this")
        return expired_report(task, **kwargs)

    monkeypatch.setattr("producer.store.tasks.expired_report", report_but_one)
    it = keeper(store)
    assert await it.tick(NOON + MINUTE) == 1

    assert get(store, fine.id).state is JobState.DELAYED
    assert await it.tick(NOON + MINUTE) == 0
    # The next ledger looks at it once more.
    monkeypatch.undo()
    assert await keeper(store).tick(NOON + MINUTE) == 1


async def test_two_keepers_at_once_end_each_lease_once(store: Database) -> None:
    new = [make_task(retry=RetryPolicy(max_attempts=1)) for _ in range(200)]
    store.write(submissions.insert_jobs, new)
    pick(store, limit=200)

    both = await asyncio.gather(*(keeper(store).tick(NOON + MINUTE) for _ in range(2)))

    assert sum(both) == 200
    assert {len(get(store, task.id).attempts) for task in new} == {1}
    assert store.read(queries.count_unfinished) == {JobState.PARKED: 200}


def test_a_task_that_an_older_version_has_accepted_waits_for_agents_and_no_message_asks_for_it(
    store: Database,
) -> None:
    batch = make_batch(kind="task")
    task, check = make_task(queue="films"), make_job()
    store.write(submissions.insert_batch, batch, [task])
    store.write(submissions.insert_jobs, [check])
    (picked,) = pick(store, queue="films")
    store.write(tasks.finish, task.id, picked.token, PERMANENT, now=NOON, project=None)
    # As version 0.1.0 redrives it: it knows no kind whose jobs wait in the store.
    accepted = position(run=2, attempt=0, state=JobState.ACCEPTED)
    with store.writing() as connection:
        connection.execute(
            jobs.update()
            .where(jobs.c.id == task.id)
            .values(state=JobState.ACCEPTED, position=accepted, run=2, attempt=0)
        )

    claimed = store.write(outbox.claim_accepted, limit=9, lease_seconds=60, now=NOON)

    assert [job.id for job in claimed] == [check.id]
    assert get(store, task.id).state is JobState.QUEUED
    (picked,) = pick(store, queue="films")
    assert (picked.job.id, picked.job.run, picked.job.attempt) == (task.id, 2, 1)


def test_redriven_tasks_are_queued_at_once_and_picked_with_fresh_attempts(store: Database) -> None:
    one, edited, many = park(store), park(store), park(store)

    assert store.write(parking.redrive, one.id, now=NOON, project=None).state is JobState.QUEUED
    store.write(
        parking.redrive_edited,
        edited.id,
        args={"payload": 1, "queue": "mail"},
        host="",
        unique_key=b"key",
        by="me",
        now=NOON,
        project=None,
    )
    report = make_report(many.id, JobState.ACCEPTED, kind="task")
    moved = store.write(parking.redrive_moved, [report], now=NOON)

    assert [each.state for each in moved.transitions] == [JobState.QUEUED]
    assert [(each.job.id, each.job.run, each.job.attempt) for each in pick(store, queue="films")] == [
        (one.id, 2, 1),
        (many.id, 2, 1),
    ]
    assert [each.job.id for each in pick(store, queue="mail")] == [edited.id]
    assert store.write(parking.discard, park(store).id, now=NOON, project=None).state is JobState.CANCELLED
    assert pick(store, queue="films") == []


def test_an_end_that_is_told_again_after_a_redrive_is_refused(store: Database) -> None:
    task = make_task()
    store.write(submissions.insert_jobs, [task])
    (picked,) = pick(store)
    store.write(tasks.finish, task.id, picked.token, PERMANENT, now=NOON, project=None)
    store.write(parking.redrive, task.id, now=NOON, project=None)

    with pytest.raises(LeaseLost, match="Nobody holds a lease: the task is queued"):
        store.write(tasks.finish, task.id, picked.token, PERMANENT, now=NOON, project=None)


def test_waiting_tasks_are_neither_overdue_nor_lost_nor_markers_of_a_queue(store: Database) -> None:
    batch = make_batch(kind="task")
    store.write(submissions.insert_batch, batch, (make_task() for _ in range(3)))
    check = make_job()
    store.write(submissions.insert_jobs, [check, make_task(), make_task()])
    store.write(outbox.mark_queued, [(check.id, 1)], now=NOON)
    later = NOON + timedelta(hours=1)

    every = [(kind, lane) for kind, lane in chosen_queues(None, None)]
    page = store.read(unfinished.read_page, JobState.QUEUED, every, heard_before=later, after=None)

    assert "task" not in BROKERED_KINDS and "task" not in {kind for kind, _ in every}
    assert [job.message.id for job in page.jobs] == [check.id]
    assert store.read(unfinished.count_overdue, JobState.QUEUED, heard_before=later) == 1
    assert [job.id for job in store.read(unfinished.newest_waiting, now=utc_now() + MINUTE)] == [check.id]


def test_a_search_for_lost_jobs_passes_over_any_number_of_tasks_at_once(store: Database) -> None:
    tasks_before, tasks_after = ([make_task() for _ in range(20)] for _ in range(2))
    checks = [make_job() for _ in range(4)]
    store.write(submissions.insert_jobs, [*tasks_before, *checks, *tasks_after])
    store.write(outbox.mark_queued, [(check.id, 1) for check in checks], now=NOON)

    def page(after: UUID | None) -> UnfinishedPage:
        return store.read(
            unfinished.read_page,
            JobState.QUEUED,
            chosen_queues(None, None),
            heard_before=NOON + MINUTE,
            after=after,
            window_jobs=3,
        )

    first = page(None)
    assert [job.message.id for job in first.jobs] == [check.id for check in checks[:3]]
    last = page(first.following)
    assert ([job.message.id for job in last.jobs], last.following) == ([checks[3].id], None)
    assert page(checks[3].id) == UnfinishedPage([], None)


async def test_a_parked_task_has_its_message_leaves_with_it_and_comes_back_when_the_store_is_lost(
    store: Database, database_url: str, vhost_url: str
) -> None:
    settings = Settings(database_url=database_url, amqp_url=vhost_url, publish_timeout_seconds=30)
    redriven, kept = park(store), park(store)
    async with running_publisher(vhost_url) as publisher, open_channel(vhost_url) as channel:
        reconciler = ParkedReconciler(
            tokens=TOKENS,
            store=RetryingStore(store),
            publisher=publisher,
            lease=Lease(Store(store), PARKED_WALK, seconds=60),
            metrics=LedgerMetrics(),
            settings=settings,
        )

        await reconciler.mend(settled=timedelta())
        assert await message_count(channel, PARKED_QUEUE) == 2
        store.write(parking.redrive, redriven.id, now=NOON, project=None)
        await reconciler.sweep(set(store.read(parking.pending_redrives, 9)))
        assert await message_count(channel, PARKED_QUEUE) == 1

        with store.writing() as connection:
            for table in reversed(metadata.sorted_tables):
                connection.execute(table.delete())
        assert await adopt_parked(settings, store) == (1, 1, 0)

    back = get(store, kept.id)
    assert (back.state, back.reason, back.queue) == (JobState.PARKED, "agent_failed", "films")
    store.write(parking.redrive, kept.id, now=NOON, project=None)
    assert [each.job.id for each in pick(store, queue="films")] == [kept.id]
