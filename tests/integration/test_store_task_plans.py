"""What picks, and looks for what is due, read: their own index in its order, however many jobs there are."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from producer.store import submissions, tasks, unfinished
from producer.store.database import Database
from producer.store.schema import jobs
from producer.store.sql import POSTGRESQL, read_in_order
from producer.tasks import PickRequest, TaskQueue
from shared.kinds.registry import Lane
from shared.kinds.task import PickOrder
from shared.states import JobState
from tests.support.factories import NOON, make_job, make_task

# Of each of five sorts.
OTHERS = 5_000
Statements = list[tuple[str, Any]]


@pytest.fixture
def crowd(store: Database) -> Database:
    """Return a store with many jobs that are not asked for, and statistics from before they came."""
    store.write(submissions.insert_jobs, [make_task(queue="films") for _ in range(20)])
    with store.writing() as connection:
        connection.exec_driver_sql("ANALYZE jobs")
        for queue, state in (
            ("films", JobState.SUCCEEDED),
            ("films", JobState.CANCELLED),
            ("films", JobState.SCHEDULED),
            ("mail", JobState.QUEUED),
        ):
            _multiply(connection, "task", queue, state)
        _multiply(connection, "check", None, JobState.QUEUED)
    return store


def test_picks_and_what_is_due_are_read_from_indexes_that_hold_nothing_else(crowd: Database) -> None:
    def pick(connection: sa.Connection) -> None:
        for order in PickOrder:
            asked = PickRequest(
                queue="films", agent="agent-1", limit=3, lease_seconds=60, order=order, project="default"
            )
            assert len(tasks.pick(connection, asked, now=NOON)) == 3
        films, mail, none = (TaskQueue("default", name) for name in ("films", "mail", "none"))
        assert tasks.waiting_queues(connection, [films, mail, none], now=NOON) == {films, mail}

    def keep(connection: sa.Connection) -> None:
        tasks.next_due_at(connection, now=NOON)
        tasks.make_ready(connection, limit=500, now=NOON)
        tasks.expire_leases(connection, limit=500, now=NOON)
        tasks.expired_tasks(connection, limit=500, now=NOON)

    pickable = _plans(crowd, pick, "jobs.queue BETWEEN")
    unready = _plans(crowd, keep, "ready_at IS NULL")
    leased = _plans(crowd, keep, "'running'")

    assert (len(pickable), len(unready), len(leased)) == (3, 2, 10)
    for index, plans in (
        ("ix_jobs_pickable", pickable),
        ("ix_jobs_unready_tasks", unready),
        ("ix_jobs_leased_tasks", leased),
    ):
        for plan in plans:
            assert index in plan and not _has_sorted(plan)


def test_a_search_for_lost_jobs_reads_no_row_of_a_task(crowd: Database) -> None:
    queues = [("webhook", Lane.BULK)]

    def search(connection: sa.Connection) -> None:
        unfinished.read_page(connection, JobState.QUEUED, queues, heard_before=NOON, after=None)

    with crowd.writing() as connection:
        # As autovacuum does; with counts from before the crowd, PostgreSQL reads by the primary key.
        connection.exec_driver_sql("ANALYZE jobs")
    plans = _plans(crowd, search, "NOT IN")

    assert len(plans) == 2
    for plan in plans:
        assert "ix_jobs_state_id_kind" in plan and ("Index Only" in plan or "COVERING" in plan), plan


def _multiply(connection: sa.Connection, kind: str, queue: str | None, state: JobState) -> None:
    """Make many jobs out of one."""
    like = make_task(queue=queue) if queue else make_job()
    submissions.insert_jobs(connection, [like])
    is_postgresql = connection.dialect.name == POSTGRESQL
    own = {
        "id": "gen_random_uuid()" if is_postgresql else "lower(hex(randomblob(16)))",
        "state": f"'{state}'",
    }
    names = [column.name for column in jobs.c]
    counting = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {OTHERS})"
    numbers = f"generate_series(1, {OTHERS})" if is_postgresql else f"({counting} SELECT i FROM n)"
    columns = ", ".join(own.get(name, name) for name in names)
    connection.exec_driver_sql(
        f"INSERT INTO jobs ({', '.join(names)}) SELECT {columns} FROM jobs, {numbers} AS numbers "
        f"WHERE id = '{like.id if is_postgresql else like.id.hex}'"
    )
    assert kind == like.kind


def _plans(store: Database, work: Callable[[sa.Connection], None], of: str) -> list[str]:
    """Return the plans of the statements on jobs, of those that some work makes, that hold a text."""
    with _noted(store) as statements:
        store.write(work)
    explain = "EXPLAIN" if store._writer.dialect.name == POSTGRESQL else "EXPLAIN QUERY PLAN"
    with store.writing() as connection:
        read_in_order(connection)
        return [
            str(connection.exec_driver_sql(f"{explain} {statement}", values).all())
            for statement, values in statements
            if of in statement and " jobs" in statement
        ]


@contextmanager
def _noted(store: Database) -> Iterator[Statements]:
    statements: Statements = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        statements.append((statement, parameters))

    sa.event.listen(store._writer, "before_cursor_execute", note)
    yield statements
    sa.event.remove(store._writer, "before_cursor_execute", note)


def _has_sorted(plan: str) -> bool:
    return any(word in plan for word in ("TEMP B-TREE", "Sort", "Bitmap", "Seq Scan"))
