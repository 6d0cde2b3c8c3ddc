"""Projects in the store, on SQLite and on PostgreSQL: what follows from a job of one is of that one too."""

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from alembic import command

from producer.callers import scoped
from producer.ledger.relay_messages import job_messages
from producer.parking import NewOperation, OperationAction, ParkedFilter
from producer.records import IdempotencyKey, JobFilter, KeyScope, NewJob, SubmissionStatus
from producer.scheduling import decide_step
from producer.store import (
    audit,
    bulk_actions,
    endings,
    events,
    idempotency,
    outbox,
    parking,
    queries,
    queues,
    recording,
    schedule_runs,
    schedules,
    submissions,
    tasks,
)
from producer.store import migrate as migrating
from producer.store.database import Database
from producer.store.engine import open_engine, writing
from producer.store.migrate import migrate
from producer.store.schema import jobs
from producer.store.sql import POSTGRESQL
from producer.tasks import PickRequest, TaskQueue
from shared.errors import JobNotFound
from shared.events import EventType
from shared.identity import new_id
from shared.messages import JobMessage, KnownCopy
from shared.outcomes import Succeeded
from shared.states import JobState
from tests.support.factories import NOON, TOKENS, make_batch, make_job, make_report, make_schedule, make_task

PROJECTS = ("acme", "default", "zeta")
# Far more than a window of a search.
CROWD = 20_000


def jobs_of(store: Database, project: str | None, **asked: Any) -> list[UUID]:
    found = store.read(queries.search_jobs, JobFilter(**asked), project=project, limit=1_000, after=None)
    assert found.following is None
    return [record.id for record in found.records]


def with_key(job: NewJob, said: bytes) -> NewJob:
    key = IdempotencyKey(KeyScope.JOB, "once", said * 32, NOON + timedelta(days=1), project=job.project)
    return replace(job, idempotency=key)


def test_one_key_of_several_projects_is_several_keys_though_one_commit_takes_them(store: Database) -> None:
    made = [make_job(project=project) for project in PROJECTS]
    keyed = [with_key(job, bytes([place])) for place, job in enumerate(made)]
    again = [with_key(make_job(project=job.project), bytes([place])) for place, job in enumerate(made)]

    first = store.write(submissions.admit_jobs, keyed)
    second = store.write(submissions.admit_jobs, again)

    assert {first[job.id].status for job in keyed} == {SubmissionStatus.STORED}
    assert [second[job.id].id for job in again] == [job.id for job in made]
    for job in made:
        taken = store.read(idempotency.find_key, KeyScope.JOB, "once", project=job.project, now=NOON)
        assert taken is not None and taken.resource_id == job.id
    assert store.read(idempotency.find_key, KeyScope.JOB, "once", project="nobody", now=NOON) is None


def test_a_fetch_builds_on_no_copy_of_another_project(store: Database) -> None:
    args = {"url": "https://a.example/", "if_changed": True}
    seen = [make_job(kind="fetch", args=args, project=project) for project in PROJECTS[:2]]
    store.write(submissions.insert_jobs, seen)
    hop = {"url": args["url"], "status": 200, "seconds": 0.1}
    told = {"status": 200, "final_url": args["url"], "hops": [hop], "total_seconds": 0.1}
    for number, job in enumerate(seen):
        result = {**told, "etag": f'"{number}"'}
        report = make_report(job.id, JobState.SUCCEEDED, kind="fetch", result=result)
        store.write(recording.record_reports, [report], now=NOON)
    asking = [make_job(kind="fetch", args=args, project=project) for project in PROJECTS]
    store.write(submissions.insert_jobs, asking)

    claimed = store.write(outbox.claim_accepted, limit=10, lease_seconds=60, now=NOON)

    known = {job.project: job.known for job in claimed}
    assert known == {
        "acme": KnownCopy(job_id=seen[0].id, etag='"0"'),
        "default": KnownCopy(job_id=seen[1].id, etag='"1"'),
        "zeta": None,
    }


def test_what_tells_of_an_end_says_whose_it_is_and_webhooks_are_of_that_project(store: Database) -> None:
    url = "https://hooks.example/"
    for project in PROJECTS[:2]:
        job = make_job(callback_url=url, project=project)
        batch = make_batch(callback_url=url, project=project)
        store.write(submissions.insert_jobs, [job])
        store.write(submissions.insert_batch, batch, [make_job(project=project, batch_id=batch.id)])
        for job_id in jobs_of(store, project, kind="check"):
            report = make_report(job_id, JobState.SUCCEEDED)
            store.write(recording.record_reports, [report], now=NOON)

    claimed = store.write(events.claim_events, limit=100, lease_seconds=60, now=NOON)
    told = [each.body.get("project") for each in claimed if each.type is not EventType.CANCELLATION]
    assert sorted(told, key=str) == [None] * 3 + ["acme"] * 3
    for project, said in (("acme", "acme"), ("default", None)):
        webhooks = store.read(
            queries.search_jobs, JobFilter(kind="webhook"), project=project, limit=9, after=None
        ).records
        assert [record.args["data"].get("project") for record in webhooks] == [said, said]


def test_the_runs_of_a_schedule_and_what_the_log_says_of_them_are_of_its_project(store: Database) -> None:
    batch = {"kind": "check", "items": [{"url": "https://a.example/"}]}
    schedule, of_batches = (
        make_schedule(project="acme"),
        make_schedule(template={"batch": batch}, project="acme"),
    )
    for each in (schedule, of_batches):
        store.write(schedules.insert_schedule, each)
    due = store.read(schedule_runs.read_due, [schedule.id, of_batches.id], now=NOON)

    steps = [decide_step(record, now=NOON, has_unfinished_run=False) for record, _ in due]
    store.write(schedule_runs.take_steps, steps, now=NOON)

    assert len(jobs_of(store, "acme", schedule_id=schedule.id)) == 1
    (made,) = store.read(queries.search_batches, [], project="acme", limit=9, after=None).records
    assert (made.schedule_id, made.project) == (of_batches.id, "acme")
    assert jobs_of(store, "default") == jobs_of(store, "zeta") == []
    noted = store.read(audit.list_audit, project="acme", target=None, limit=9, after=None).records
    assert sorted(entry.action for entry in noted) == ["schedule_created"] * 2 + ["schedule_run_made"] * 2
    assert store.read(audit.list_audit, project="zeta", target=None, limit=9, after=None).records == []


def test_an_agent_is_given_tasks_of_its_project_alone(store: Database) -> None:
    queued = {project: make_task(queue="films", project=project) for project in PROJECTS}
    store.write(submissions.insert_jobs, [*queued.values()])
    asked = [PickRequest("films", "agent", limit=9, project=project) for project in (*PROJECTS, "nobody")]

    waiting = store.read(tasks.waiting_queues, [TaskQueue(each.project, "films") for each in asked], now=NOON)
    picked = store.write(tasks.pick_all, asked, now=NOON)

    assert waiting == {TaskQueue(project, "films") for project in PROJECTS}
    assert [[each.job.id for each in given] for given in picked] == [
        *([queued[project].id] for project in PROJECTS),
        [],
    ]
    task = picked[0][0]
    for project in ("default", "zeta"):
        with pytest.raises(JobNotFound):
            store.write(tasks.extend, task.job.id, task.token, project=project, lease_seconds=60, now=NOON)
        with pytest.raises(JobNotFound):
            store.write(tasks.finish, task.job.id, task.token, Succeeded({}), project=project, now=NOON)
    ended = store.write(tasks.finish, task.job.id, task.token, Succeeded({}), project="acme", now=NOON)
    assert ended.state is JobState.SUCCEEDED


def test_a_task_queue_is_known_by_its_project(store: Database) -> None:
    mine, theirs = make_task(queue="films", project="acme"), make_task(queue="films")
    store.write(submissions.insert_jobs, [mine, theirs, make_task(queue="films")])
    store.write(queues.note_asked, scoped("films", "acme"), agent="ann", now=NOON)

    seen = []
    for job in (mine, theirs):
        record = store.read(queries.get_job, job.id, project=job.project)
        known = store.read(queues.circumstances, now=NOON, around=[record])
        seen.append(known.task_queues[scoped("films", job.project)])

    assert [(each.waiting, each.agent) for each in seen] == [(1, "ann"), (2, None)]


def test_an_operation_of_a_project_is_on_its_jobs_and_one_of_an_operator_on_all(store: Database) -> None:
    for project in PROJECTS:
        parked = [make_job(project=project) for _ in range(3)]
        store.write(submissions.insert_jobs, parked)
        reports = [make_report(job.id, JobState.PARKED) for job in parked]
        store.write(recording.record_reports, reports, now=NOON)

    expected: dict[str | None, int] = {"acme": 3, "default": 3, "zeta": 3, "nobody": 0, None: 9}
    for caller, number in expected.items():
        new = NewOperation(new_id(), OperationAction.DISCARD, {}, 1_000, "ann", NOON, project=caller)
        groups = store.read(parking.list_groups, ParkedFilter(), project=caller, limit=9)
        assert store.write(bulk_actions.count_listed, new, jobs_of(store, None)) == number
        assert store.write(bulk_actions.start_operation, new, ParkedFilter()).total == number
        assert groups.total_jobs == number

    seen: dict[str | None, int] = {"acme": 1, "nobody": 1, "stranger": 0, None: 5}
    for caller, number in seen.items():
        listed = store.read(bulk_actions.list_operations, project=caller, limit=9, after=None)
        assert len(listed.records) == number


def test_cancelling_by_the_id_of_another_project_changes_nothing(store: Database) -> None:
    job, batch = make_job(project="acme"), make_batch(project="acme")
    store.write(submissions.insert_jobs, [job])
    store.write(submissions.insert_batch, batch, [make_job(project="acme")])

    with pytest.raises(JobNotFound):
        store.write(endings.cancel_job, job.id, project="zeta", now=NOON)

    assert store.read(queries.get_job, job.id, project="acme").state is JobState.ACCEPTED
    assert endings.cancel_batch(store, batch.id, project="acme", now=NOON).cancelled_at == NOON


def test_a_message_says_whose_job_it_asks_for(store: Database) -> None:
    store.write(submissions.insert_jobs, [make_job(project=project) for project in PROJECTS])

    claimed = store.write(outbox.claim_accepted, limit=10, lease_seconds=60, now=NOON)
    sent = [message.body for message, _ in job_messages(claimed, tokens=TOKENS, bundle_jobs=1)]

    assert sorted(str(JobMessage.decode(body).project) for body in sent) == ["None", "acme", "zeta"]
    # What versions before read is as it was.
    assert sum(b"project" in body for body in sent) == 2


@pytest.mark.parametrize("asked", [{}, {"kind": "check"}, {"host": "example.com"}, {"ref": "row 7"}], ids=str)
def test_lists_of_a_small_project_read_nothing_of_a_large_one(store: Database, asked: dict[str, Any]) -> None:
    large, small = make_job(ref="row 7"), [make_job(ref="row 7", project="acme") for _ in range(5)]
    store.write(submissions.insert_jobs, [large, *small])
    with store.writing() as connection:
        _multiply(connection, large)
        connection.exec_driver_sql("ANALYZE jobs")

    found = jobs_of(store, "acme", **asked)
    plan = _plan_of_search(store, JobFilter(**asked), "acme")

    assert found == sorted((job.id for job in small), reverse=True)
    index = "ix_jobs_project_ref_id" if "ref" in asked else "ix_jobs_project_id"
    assert index in plan, plan


def test_what_was_stored_before_there_were_projects_is_the_default_project_s(empty_database_url: str) -> None:
    engine = open_engine(empty_database_url)
    job_id, batch_id = new_id(), new_id()
    with writing(engine).begin() as connection:
        config = migrating._config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0006")
        is_postgresql = connection.dialect.name == POSTGRESQL
        at: object = NOON if is_postgresql else int(NOON.timestamp() * 1_000_000)
        job, batch = (job_id, batch_id) if is_postgresql else (job_id.hex, batch_id.hex)
        later: object = NOON + timedelta(days=1) if is_postgresql else 9 * 10**15
        common = {"kind": "check", "labels": "{}", "created_at": at}
        place = {"state": "parked", "position": 1, "run": 1, "attempt": 0, "updated_at": at}
        asked = {"lane": "bulk", "args": "{}", "retry": "{}", "host": "", "batch_id": batch}
        key = {"scope": "job", "key": "once", "fingerprint": b"", "resource_id": job, "expires_at": later}
        _insert(connection, "batches", {"id": batch, "total": 1, **common})
        _insert(connection, "jobs", {"id": job, **common, **place, **asked})
        _insert(connection, "idempotency_keys", key)
    engine.dispose()

    migrate(empty_database_url)

    store = Database.open(empty_database_url)
    for project, seen in (("default", [job_id]), (None, [job_id]), ("acme", [])):
        assert jobs_of(store, project) == seen
        assert len(
            store.read(queries.search_batches, [], project=project, limit=9, after=None).records
        ) == len(seen)
        assert store.read(parking.count_matching, ParkedFilter(), project=project) == len(seen)
    taken = store.read(idempotency.find_key, KeyScope.JOB, "once", project="default", now=NOON)
    assert taken is not None and taken.resource_id == job_id
    store.close()


def _insert(connection: sa.Connection, table: str, row: dict[str, object]) -> None:
    values = ", ".join(f":{name}" for name in row)
    connection.execute(sa.text(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({values})"), row)


def _multiply(connection: sa.Connection, job: NewJob) -> None:
    """Make many jobs out of one."""
    is_postgresql = connection.dialect.name == POSTGRESQL
    names = [column.name for column in jobs.c]
    new = "gen_random_uuid()" if is_postgresql else "lower(hex(randomblob(16)))"
    counting = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {CROWD})"
    numbers = f"generate_series(1, {CROWD})" if is_postgresql else f"({counting} SELECT i FROM n)"
    columns, here = ", ".join([new, *names[1:]]), job.id if is_postgresql else job.id.hex
    connection.exec_driver_sql(
        f"INSERT INTO jobs ({', '.join(names)}) SELECT {columns} FROM jobs, {numbers} AS numbers "
        f"WHERE id = '{here}'"
    )


def _plan_of_search(store: Database, asked: JobFilter, project: str) -> str:
    statements: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "FROM jobs" in statement:
            statements.append((statement, parameters))

    engine = store._reader
    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        store.read(queries.search_jobs, asked, project=project, limit=100, after=None)
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)
    explain = "EXPLAIN" if engine.dialect.name == POSTGRESQL else "EXPLAIN QUERY PLAN"
    with store.reading() as connection:
        return str(connection.exec_driver_sql(f"{explain} {statements[0][0]}", statements[0][1]).all())
