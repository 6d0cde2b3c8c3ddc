"""The parking lot on both stores: groups, operations page by page, crashes, two ledgers, the audit log."""

import re
import secrets
import threading
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa

from producer.parking import (
    AuditAction,
    GroupKey,
    NewOperation,
    Operation,
    OperationAction,
    OperationState,
    ParkedFilter,
)
from producer.records import JobFilter, NewJob
from producer.store import audit, bulk_actions, leader, outbox, parking, queries, recording, submissions
from producer.store import bulk_actions as operations
from producer.store import parking as parked
from producer.store.database import Database
from producer.store.engine import open_engine
from producer.store.migrate import migrate
from shared.errors import JobNotFound, JobNotParked, OperationFinished, OperationNotFound, StoreUnavailable
from shared.identity import new_id
from shared.states import JobState
from tests.support.factories import NOON, make_batch, make_job, make_report

LATER = NOON + timedelta(hours=1)
PAGE = timedelta(seconds=0.5)
# The ends of the calendar, where UTC is a day that there is not.
FIRST_TIME = datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))
LAST_TIME = datetime.max.replace(tzinfo=timezone(-timedelta(hours=14)))


def park(store: Database, count: int, *, host: str = "a.example", reason: str = "http_503") -> list[NewJob]:
    """Store jobs and record them as parked; each a second after the one before."""
    jobs = sorted((make_job(host=host) for _ in range(count)), key=lambda job: job.id)
    store.write(submissions.insert_jobs, jobs)
    reports = [
        make_report(
            job.id,
            JobState.PARKED,
            reason=reason,
            explanation=f"{reason} {number}",
            ended_at=NOON + timedelta(seconds=number),
        )
        for number, job in enumerate(jobs)
    ]
    store.write(recording.record_reports, reports, now=NOON)
    return jobs


def start(
    store: Database,
    parked_filter: ParkedFilter,
    *,
    action: OperationAction = OperationAction.REDRIVE,
    rate: int = 20,
) -> Operation:
    """Start an operation at LATER."""
    new = NewOperation(new_id(), action, {"host": "a.example"}, rate, "ann", LATER, project=None)
    return store.write(bulk_actions.start_operation, new, parked_filter)


def states(store: Database, jobs: Sequence[NewJob]) -> list[JobState]:
    return [store.read(queries.get_job, job.id, project=None).state for job in jobs]


def test_parked_jobs_are_grouped_by_kind_reason_and_host(store: Database) -> None:
    park(store, 2, host="b.example")
    jobs = park(store, 3)
    park(store, 1, reason="x" * 150)
    store.write(submissions.insert_jobs, [make_job(host="a.example")])

    groups = store.read(parking.list_groups, ParkedFilter(), limit=10, project=None)

    assert (groups.total_groups, groups.total_jobs) == (3, 6)
    assert [(group.key, group.count) for group in groups.largest] == [
        (GroupKey("check", "http_503", "a.example"), 3),
        (GroupKey("check", "http_503", "b.example"), 2),
        (GroupKey("check", "x" * 100, "a.example"), 1),
    ]
    first = groups.largest[0]
    assert (first.first_parked_at, first.last_parked_at) == (NOON, NOON + timedelta(seconds=2))
    assert (first.sample_job_id, first.sample_explanation) == (jobs[2].id, "http_503 2")
    assert len(store.read(parking.list_groups, ParkedFilter(), limit=1, project=None).largest) == 1
    assert store.read(parking.list_groups, ParkedFilter(), limit=1, project=None).total_groups == 3


def test_a_reason_of_any_length_is_stored_and_told_apart_by_its_beginning(store: Database) -> None:
    beginning = "x" * 100
    # As long as a report may say.
    endless = beginning + secrets.token_hex(450)
    for reason in (beginning, beginning + "y", endless, endless):
        park(store, 1, reason=reason)
    none = park(store, 1, reason="")

    groups = store.read(parking.list_groups, ParkedFilter(), limit=10, project=None)

    assert [(group.key.reason, group.count) for group in groups.largest] == [(beginning, 4), ("http_503", 1)]
    assert store.read(parking.count_matching, ParkedFilter(reason=endless), project=None) == 4
    assert groups.largest[1].sample_job_id == none[0].id
    operation = start(store, ParkedFilter(reason=endless), rate=1_000)
    assert operation.total == 4


def test_a_batch_has_its_parked_jobs_whatever_the_length_of_their_reasons(store: Database) -> None:
    batch, jobs = make_batch(), [make_job(host="a.example") for _ in range(3)]
    store.write(submissions.insert_batch, batch, jobs)
    reasons = ("timeout", "x" * 101, "x" * 101)
    reports = [
        make_report(job.id, JobState.PARKED, reason=reason, ended_at=LATER)
        for job, reason in zip(jobs, reasons, strict=True)
    ]
    store.write(recording.record_reports, reports, now=LATER)
    park(store, 2, reason="x" * 101)

    groups = store.read(parking.list_groups, ParkedFilter(batch_id=batch.id), limit=9, project=None)

    assert [(group.key.reason, group.count) for group in groups.largest] == [("x" * 100, 2), ("timeout", 1)]
    assert (
        store.read(parking.count_matching, ParkedFilter(batch_id=batch.id, reason="x" * 100), project=None)
        == 2
    )


@pytest.mark.parametrize(
    ("asked", "index"),
    [
        (ParkedFilter(), "ix_jobs_parked_short"),
        (ParkedFilter(kind="a"), "ix_jobs_parked_short"),
        (ParkedFilter(host="a"), "ix_jobs_parked_short"),
        (ParkedFilter(reason="a"), "ix_jobs_parked_short"),
        (ParkedFilter(batch_id=UUID(int=1)), "ix_jobs_parked_short_of_batch"),
        (ParkedFilter(batch_id=UUID(int=1), kind="a", host="a"), "ix_jobs_parked_short_of_batch"),
    ],
    ids=str,
)
def test_sqlite_reads_groups_from_an_index_alone(tmp_path: Path, asked: ParkedFilter, index: str) -> None:
    url = f"sqlite:///{tmp_path / 'retriever.db'}"
    migrate(url)
    engine = open_engine(url)
    query = parked._groups(asked, None, 9).compile(engine, compile_kwargs={"literal_binds": True})

    with engine.connect() as connection:
        plan = str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}").all())
    engine.dispose()

    assert re.search(rf"USING COVERING INDEX {index}\b", plan)
    assert "USING INDEX ix_jobs_parked_long" in plan


def test_a_filter_takes_what_matches_all_its_fields(store: Database) -> None:
    jobs = park(store, 3)
    park(store, 2, reason="dns_failed")
    batch = make_batch()
    of_batch = make_job(host="a.example")
    store.write(submissions.insert_batch, batch, [of_batch])
    store.write(
        recording.record_reports,
        [make_report(of_batch.id, JobState.PARKED, reason="http_503", ended_at=LATER)],
        now=LATER,
    )
    expected = {
        ParkedFilter(): 6,
        ParkedFilter(group=GroupKey("check", "http_503", "a.example")): 4,
        ParkedFilter(group=GroupKey("check", "", "a.example")): 0,
        ParkedFilter(kind="check", host="a.example", reason="http_503"): 4,
        ParkedFilter(kind="fetch"): 0,
        ParkedFilter(host="b.example"): 0,
        ParkedFilter(reason="nul\0"): 0,
        ParkedFilter(batch_id=batch.id): 1,
        # Two of each reason were parked within the first two seconds; the times of the third are not before.
        ParkedFilter(parked_before=NOON + timedelta(seconds=2)): 4,
        ParkedFilter(parked_after=NOON + timedelta(seconds=2)): 2,
        ParkedFilter(parked_after=NOON + timedelta(seconds=1), parked_before=LATER): 3,
        ParkedFilter(parked_after=LATER, batch_id=batch.id): 1,
        ParkedFilter(parked_after=FIRST_TIME, parked_before=LAST_TIME): 6,
        ParkedFilter(parked_after=LAST_TIME): 0,
        ParkedFilter(ids=(jobs[0].id, jobs[1].id, new_id())): 2,
        ParkedFilter(ids=(jobs[0].id,), reason="timeout"): 0,
        ParkedFilter(ids=(jobs[0].id, of_batch.id), batch_id=batch.id): 1,
    }

    counted = {each: store.read(parking.count_matching, each, project=None) for each in expected}

    assert counted == expected
    for each, count in expected.items():
        assert store.read(parking.list_groups, each, limit=9, project=None).total_jobs == count


def test_an_operation_takes_a_page_at_a_time_at_its_rate(store: Database) -> None:
    park(store, 5, host="b.example")
    jobs = park(store, 25)
    operation = start(store, ParkedFilter(host="a.example"), rate=20)
    assert (operation.state, operation.total, operation.done) == (OperationState.RUNNING, 25, 0)

    progress = []
    for page in range(4):
        now = LATER + page * PAGE
        assert page == 3 or store.read(bulk_actions.next_page_at, now=now) == now
        made = store.write(bulk_actions.make_page, now=now)
        assert store.write(bulk_actions.make_page, now=now) is None
        if made is not None:
            progress.append((made.operation.done, made.operation.state.value, len(made.moved)))

    assert progress == [(10, "running", 10), (20, "running", 10), (25, "done", 5)]
    assert states(store, jobs) == [JobState.ACCEPTED] * 25
    assert {store.read(queries.get_job, job.id, project=None).run for job in jobs} == {2}
    assert len(store.read(parking.pending_redrives, 100)) == 25
    assert store.read(parking.count_matching, ParkedFilter(), project=None) == 5
    assert store.read(bulk_actions.get_operation, operation.id, project=None).finished_at == LATER + 2 * PAGE
    assert store.read(bulk_actions.next_page_at, now=LATER) is None


def test_a_late_ledger_catches_up_by_one_page_only(store: Database) -> None:
    park(store, 100)
    start(store, ParkedFilter(host="a.example"), rate=20)
    store.write(bulk_actions.make_page, now=LATER)
    much_later = LATER + timedelta(minutes=5)

    made = [store.write(bulk_actions.make_page, now=much_later) for _ in range(5)]

    assert [page.operation.done if page else None for page in made] == [20, 30, None, None, None]


def test_a_crash_in_the_middle_of_a_page_leaves_nothing_of_it(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = park(store, 15)
    operation = start(store, ParkedFilter(host="a.example"), rate=20)
    store.write(bulk_actions.make_page, now=LATER)

    def die(*_: object) -> None:
        raise sa.exc.OperationalError("the ledger died", None, OSError())

    with monkeypatch.context() as broken:
        broken.setattr(operations, "_change", die)
        with pytest.raises(StoreUnavailable):
            store.write(bulk_actions.make_page, now=LATER + PAGE)
    between = store.read(bulk_actions.get_operation, operation.id, project=None)
    left = store.read(parking.count_matching, ParkedFilter(), project=None)
    resumed = store.write(bulk_actions.make_page, now=LATER + PAGE)

    assert (between.done, left) == (10, 5)
    assert resumed is not None
    assert (resumed.operation.done, resumed.operation.skipped, resumed.operation.state) == (10 + 5, 0, "done")
    assert {store.read(queries.get_job, job.id, project=None).run for job in jobs} == {2}


def test_two_ledgers_do_no_job_twice_and_keep_the_rate(store: Database, database_url: str) -> None:
    jobs = park(store, 60)
    operation = start(store, ParkedFilter(host="a.example"), rate=20)
    ledgers = [store, Database.open(database_url)]
    moved: list[list[UUID]] = []
    for step in range(6):
        done: list[UUID] = []
        threads = [
            threading.Thread(target=_make_pages, args=(ledger, LATER + step * PAGE, done))
            for ledger in ledgers
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        moved.append(done)
    ledgers[1].close()

    assert [len(page) for page in moved] == [10] * 6
    assert sorted(job_id for page in moved for job_id in page) == [job.id for job in jobs]
    assert store.read(bulk_actions.get_operation, operation.id, project=None).done == 60


def _make_pages(store: Database, now: datetime, done: list[UUID]) -> None:
    while (page := store.write(bulk_actions.make_page, now=now)) is not None:
        done.extend(job.id for job in page.moved)


def test_jobs_dealt_with_since_are_skipped_and_new_ones_are_not_taken(store: Database) -> None:
    jobs = park(store, 4)
    operation = start(store, ParkedFilter(host="a.example"))
    store.write(parking.redrive, jobs[0].id, now=LATER, project=None)
    store.write(parking.redrive, jobs[1].id, now=LATER, project=None)
    # Parked again in its next run: that is for a person to look at afresh.
    store.write(recording.record_reports, [make_report(jobs[1].id, JobState.PARKED, run=2)], now=LATER)
    newer = park(store, 1)

    store.write(bulk_actions.make_page, now=LATER)

    ended = store.read(bulk_actions.get_operation, operation.id, project=None)
    assert (ended.state, ended.total, ended.done, ended.skipped) == (OperationState.DONE, 4, 2, 2)
    assert store.read(queries.get_job, jobs[1].id, project=None).run == 2
    assert states(store, [*jobs, *newer]) == ["accepted", "parked", "accepted", "accepted", "parked"]


def test_a_cancelled_operation_stops_where_it_is(store: Database) -> None:
    jobs = park(store, 30)
    operation = start(store, ParkedFilter(host="a.example"), rate=20)
    store.write(bulk_actions.make_page, now=LATER)

    cancelled = store.write(
        bulk_actions.cancel_operation, operation.id, by="bob", now=LATER + PAGE, project=None
    )
    again = store.write(
        bulk_actions.cancel_operation, operation.id, by="eve", now=LATER + 2 * PAGE, project=None
    )

    assert (cancelled.state, cancelled.done, cancelled.finished_at) == ("cancelled", 10, LATER + PAGE)
    assert again == cancelled
    assert store.write(bulk_actions.make_page, now=LATER + timedelta(hours=1)) is None
    assert states(store, jobs).count(JobState.PARKED) == 20
    entries = store.read(
        audit.list_audit, target=f"operation/{operation.id}", limit=10, after=None, project=None
    ).records
    assert [(entry.action, entry.by) for entry in entries] == [
        (AuditAction.OPERATION_CANCELLED, "bob"),
        (AuditAction.REDRIVE_STARTED, "ann"),
    ]
    assert entries[0].details == {"total": 30, "done": 10, "skipped": 0}


def test_an_operation_that_is_done_cannot_be_cancelled(store: Database) -> None:
    empty = start(store, ParkedFilter(host="nobody.example"))

    assert (empty.state, empty.total, empty.finished_at) == (OperationState.DONE, 0, LATER)
    with pytest.raises(OperationFinished):
        store.write(bulk_actions.cancel_operation, empty.id, by="ann", now=LATER, project=None)
    with pytest.raises(OperationNotFound):
        store.write(bulk_actions.cancel_operation, new_id(), by="ann", now=LATER, project=None)
    with pytest.raises(OperationNotFound):
        store.read(bulk_actions.get_operation, new_id(), project=None)
    assert [
        each.id
        for each in store.read(bulk_actions.list_operations, limit=5, after=None, project=None).records
    ] == [empty.id]


def test_a_discarded_job_has_ended_for_good(store: Database) -> None:
    (job,) = park(store, 1)

    discarded = store.write(parking.discard, job.id, now=LATER, by="ann", project=None)

    assert (discarded.state, discarded.reason, discarded.run) == (JobState.CANCELLED, "discarded", 2)
    assert (discarded.explanation, discarded.finished_at) == ("Discarded from the parking lot by ann.", LATER)
    assert [(each.run, each.reason) for each in discarded.attempts] == [(1, "http_503")]
    assert store.read(parking.pending_redrives, 10) == [(job.id, 1)]
    late = [make_report(job.id, state, attempt=2) for state in (JobState.SUCCEEDED, JobState.PARKED)]
    assert store.write(recording.record_reports, late, now=LATER).transitions == []
    for change in (parking.redrive, parking.discard):
        with pytest.raises(JobNotParked):
            store.write(change, job.id, now=LATER, project=None)
    with pytest.raises(JobNotFound):
        store.write(parking.discard, new_id(), now=LATER, project=None)


def test_a_mass_discard_ends_jobs_and_leaves_nothing_to_publish(store: Database) -> None:
    jobs = park(store, 3)

    start(store, ParkedFilter(host="a.example"), action=OperationAction.DISCARD)
    store.write(bulk_actions.make_page, now=LATER)

    assert states(store, jobs) == [JobState.CANCELLED] * 3
    assert store.write(outbox.claim_accepted, limit=10, lease_seconds=1, now=LATER) == []
    assert len(store.read(parking.pending_redrives, 10)) == 3


def test_an_edited_redrive_keeps_the_old_arguments_in_the_audit_log(store: Database) -> None:
    (job,) = park(store, 1)
    args = {"url": "https://b.example/nul\0"}

    edited = store.write(
        parking.redrive_edited,
        job.id,
        args=args,
        host="b.example",
        unique_key=b"k",
        by="ann",
        now=LATER,
        project=None,
    )

    assert (edited.state, edited.run, edited.args, edited.host) == ("accepted", 2, args, "b.example")
    (entry,) = store.read(
        audit.list_audit, target=f"job/{job.id}", limit=10, after=None, project=None
    ).records
    assert (entry.action, entry.by, entry.at) == (AuditAction.JOB_REDRIVEN, "ann", LATER)
    assert (entry.details["old_args"], entry.details["new_args"]) == (job.args, args)
    assert (
        store.read(queries.search_jobs, JobFilter(host="b.example"), limit=2, after=None, project=None)
        .records[0]
        .id
        == job.id
    )


def test_a_refused_action_is_not_in_the_audit_log(store: Database) -> None:
    job = make_job()
    store.write(submissions.insert_jobs, [job])

    with pytest.raises(JobNotParked):
        store.write(parking.redrive, job.id, now=LATER, project=None)

    assert store.read(audit.list_audit, target=None, limit=10, after=None, project=None).records == []


def test_the_audit_log_is_paged_newest_first(store: Database) -> None:
    jobs = park(store, 5)
    for job in jobs:
        store.write(parking.redrive, job.id, now=LATER, by="ann", project=None)

    seen, after = [], None
    while page := store.read(audit.list_audit, target=None, limit=2, after=after, project=None).records:
        seen += [entry.target for entry in page]
        after = page[-1].id

    assert seen == [f"job/{job.id}" for job in reversed(jobs)]


def test_a_lease_has_one_holder_until_it_runs_out(store: Database) -> None:
    def hold(holder: str, seconds_later: float) -> bool:
        now = NOON + timedelta(seconds=seconds_later)
        return store.write(leader.hold_lease, "walk", holder=holder, seconds=10, now=now)

    assert [hold("a", 0), hold("b", 5), hold("a", 8), hold("b", 15), hold("b", 19), hold("a", 20)] == [
        True,
        False,
        True,
        False,
        True,
        False,
    ]
    store.write(leader.release_lease, "walk", holder="a")
    assert not hold("a", 21)
    store.write(leader.release_lease, "walk", holder="b")
    assert hold("a", 21)
