"""What projects may store, on both stores: counted with each change, refused at the limit, counted again."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from random import Random
from threading import Barrier
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from alembic import command

from producer.ledger.maintenance import Janitor, UsageKeeper
from producer.ledger.metrics import LedgerMetrics
from producer.ledger.scheduler import Scheduler
from producer.parking import AuditAction
from producer.quotas import LimitName, Limits
from producer.records import (
    AdoptedJob,
    IdempotencyKey,
    KeyScope,
    NewJob,
    Rejected,
    SubmissionResult,
    SubmissionStatus,
)
from producer.scheduling import scheduled_run
from producer.store import (
    audit,
    endings,
    pages,
    queries,
    quotas,
    recording,
    retention,
    schedules,
    submissions,
)
from producer.store import migrate as migrating
from producer.store.database import Database, RetryingStore
from producer.store.engine import open_engine, writing
from producer.store.migrate import migrate
from producer.store.schema import bodies, jobs, rejected_lines
from producer.store.sql import POSTGRESQL
from shared.clock import utc_now
from shared.errors import JobInvalid, ProjectLimitReached
from shared.identity import new_id
from shared.kinds.pages import PagePlace, PageReport, StopReason
from shared.kinds.webhook import WEBHOOK
from shared.settings import Settings
from shared.states import JobState
from tests.support.factories import (
    NOON,
    make_batch,
    make_job,
    make_report,
    make_schedule,
    make_task,
)
from tests.support.quotas import limit, usage_of

WEB = "web"


def of_web(count: int = 1, **given: Any) -> list[NewJob]:
    return [make_job(project=WEB, **given) for _ in range(count)]


def admit(store: Database, new_jobs: Sequence[NewJob]) -> list[bool]:
    """Store jobs, and return which of them were let in."""
    answers = store.write(submissions.admit_jobs, new_jobs)
    return [answers[job.id].refusal is None for job in new_jobs]


def with_key(job: NewJob, key: str) -> NewJob:
    return replace(
        job,
        idempotency=IdempotencyKey(
            KeyScope.JOB, key, b"f" * 32, NOON + timedelta(days=1), project=job.project
        ),
    )


def count(store: Database) -> int:
    with store.reading() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(jobs)) or 0


def test_jobs_are_let_in_up_to_the_limit_and_those_of_others_are_not_counted(store: Database) -> None:
    limit(store, WEB, stored_jobs=3)
    mixed = [*of_web(2), make_job(), make_job(project="other"), *of_web(3)]

    let_in = admit(store, mixed)

    assert let_in == [True, True, True, True, True, False, False]
    assert usage_of(store, WEB).jobs == 3
    refused = store.write(submissions.admit_jobs, [job := of_web()[0]])[job.id].refusal
    assert isinstance(refused, ProjectLimitReached)
    assert (refused.project, refused.name, refused.value, refused.used) == (WEB, "stored_jobs", 3, 3)
    assert str(refused).startswith("The project web may store 3 jobs, and stores 3 (stored_jobs).")
    assert list(store.read(quotas.read_usage)) == [WEB]


def test_what_is_stored_already_is_counted_when_the_first_limit_is_set(store: Database) -> None:
    store.write(submissions.insert_jobs, [*of_web(4), make_task(project=WEB), make_job()])

    limit(store, WEB, stored_jobs=6)

    assert (usage_of(store, WEB).jobs, usage_of(store, WEB).tasks) == (5, 1)
    assert admit(store, of_web(2)) == [True, False]


def test_the_default_project_is_counted_without_those_of_others(store: Database) -> None:
    store.write(submissions.insert_jobs, [make_job(), make_job(), make_task(), *of_web(3)])

    limit(store, "default", stored_jobs=4)

    assert (usage_of(store, "default").jobs, usage_of(store, "default").tasks) == (3, 1)
    assert admit(store, [make_job(), make_job()]) == [True, False]


def test_limits_of_every_project_hold_where_a_project_has_none_of_its_own(store: Database) -> None:
    store.write(submissions.insert_jobs, of_web(1))
    limit(store, "*", stored_jobs=2, labels=1)
    limit(store, "large", stored_jobs=3)

    assert admit(store, of_web(3)) == [True, False, False]
    assert admit(store, [make_job(project="large") for _ in range(4)]) == [True, True, True, False]
    assert usage_of(store, WEB).jobs == 2
    (job,) = [make_job(project="large", labels={"a": "1", "b": "2"})]
    assert isinstance(store.write(submissions.admit_jobs, [job])[job.id].refusal, JobInvalid)


def test_tasks_have_a_limit_of_their_own(store: Database) -> None:
    limit(store, WEB, stored_jobs=3, stored_tasks=1)

    tasks = [make_task(project=WEB) for _ in range(2)]
    assert admit(store, [*tasks, *of_web(3)]) == [True, False, True, True, False]
    assert (usage_of(store, WEB).jobs, usage_of(store, WEB).tasks) == (3, 1)


def test_a_repeated_request_is_answered_also_when_the_project_is_full(store: Database) -> None:
    limit(store, WEB, stored_jobs=2)
    unique = replace(of_web()[0], unique_key=b"u" * 16, unique_for_seconds=600)
    first = with_key(of_web()[0], "a")
    assert admit(store, [first, unique]) == [True, True]

    again, new, same = with_key(of_web()[0], "a"), with_key(of_web()[0], "b"), replace(unique, id=new_id())
    twin = with_key(of_web()[0], "b")
    answers = store.write(submissions.admit_jobs, [again, new, twin, same])

    assert answers[again.id] == SubmissionResult(first.id, SubmissionStatus.REPLAYED)
    assert answers[same.id] == SubmissionResult(unique.id, SubmissionStatus.DUPLICATE)
    assert isinstance(answers[new.id].refusal, ProjectLimitReached)
    assert answers[twin.id] == replace(answers[new.id], id=twin.id)
    # A refusal takes no key.
    limit(store, WEB, stored_jobs=3)
    assert admit(store, [with_key(of_web()[0], "b")]) == [True]
    assert usage_of(store, WEB).jobs == 3


def test_a_job_that_is_answered_with_another_leaves_its_place_to_the_next(store: Database) -> None:
    limit(store, WEB, stored_jobs=2)
    (first,) = [with_key(of_web()[0], "a")]
    admit(store, [first])

    assert admit(store, [with_key(of_web()[0], "a"), *of_web()]) == [True, True]
    assert usage_of(store, WEB).jobs == 2


@pytest.mark.parametrize("way", ["jobs", "batches"])
def test_of_many_who_race_for_the_last_places_as_many_get_in_as_there_are(store: Database, way: str) -> None:
    # Each with a pool and a knowledge of its own, as in two API processes.
    limit(store, WEB, stored_jobs=10)
    url = store._reader.url.render_as_string(hide_password=False)
    stores = [Database.open(url) for _ in range(2)]
    start = Barrier(8)

    def race(number: int) -> int:
        here = stores[number % 2]
        start.wait()
        if way == "jobs":
            return sum(sum(admit(here, of_web(3))) for _ in range(3))
        let_in = 0
        for _ in range(3):
            try:
                here.write(submissions.insert_batch, make_batch(project=WEB), of_web(3))
                let_in += 3
            except ProjectLimitReached:
                continue
        return let_in

    with ThreadPoolExecutor(8) as pool:
        let_in = sum(pool.map(race, range(8)))
    for each in stores:
        each.close()

    assert let_in == (10 if way == "jobs" else 9)
    assert (count(store), usage_of(store, WEB).jobs) == (let_in, let_in)


def test_a_batch_that_does_not_fit_is_refused_whole(store: Database) -> None:
    limit(store, WEB, stored_jobs=5)
    store.write(submissions.insert_batch, make_batch(project=WEB), of_web(3))

    # Found at its end, where nobody said how many there would be, and at its beginning.
    for wanted in (1, 3):
        with pytest.raises(ProjectLimitReached, match=r"may store 5 jobs, and stores 3 .* 3 more do not fit"):
            store.write(submissions.insert_batch, make_batch(project=WEB), of_web(3), jobs_wanted=wanted)

    assert (count(store), usage_of(store, WEB).jobs) == (3, 3)
    store.write(submissions.insert_batch, make_batch(project=WEB), of_web(2), jobs_wanted=2)


def test_so_many_batches_are_unfinished_and_the_end_of_one_makes_room(store: Database) -> None:
    limit(store, WEB, unfinished_batches=1)
    first = of_web()
    store.write(submissions.insert_batch, make_batch(project=WEB), first)
    with pytest.raises(ProjectLimitReached, match="may have 1 unfinished batches, and has 1"):
        store.write(submissions.insert_batch, make_batch(project=WEB), of_web())
    store.write(submissions.insert_batch, make_batch(), [make_job()])

    store.write(recording.record_reports, [make_report(first[0].id, JobState.SUCCEEDED)], now=NOON)

    store.write(submissions.insert_batch, make_batch(project=WEB), of_web())


def test_two_batches_cannot_both_be_the_last(store: Database) -> None:
    limit(store, WEB, unfinished_batches=1)
    start = Barrier(4)

    def race(_: int) -> bool:
        start.wait()
        try:
            store.write(submissions.insert_batch, make_batch(project=WEB), of_web())
        except ProjectLimitReached:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(race, range(4))) == 1
    assert store.read(quotas.count_unfinished, WEB) == 1


def test_a_project_has_so_many_schedules_and_deleting_one_makes_room(store: Database) -> None:
    limit(store, WEB, schedules=1)
    first = make_schedule(project=WEB)
    store.write(schedules.insert_schedule, first)
    with pytest.raises(ProjectLimitReached, match="may have 1 schedules, and has 1"):
        store.write(schedules.insert_schedule, make_schedule(project=WEB))
    store.write(schedules.insert_schedule, make_schedule())

    store.write(schedules.delete_schedule, first.id, project=None, now=NOON)

    store.write(schedules.insert_schedule, make_schedule(project=WEB))
    limit(store, WEB, labels=2)
    template = {"job": {"kind": "check", "args": {"url": "http://a.example/"}, "labels": {"a": "", "b": ""}}}
    with pytest.raises(JobInvalid, match="/labels: There are 3, and the project web may put 2 on one"):
        store.write(schedules.insert_schedule, make_schedule(project=WEB, template=template))


def test_a_run_that_does_not_fit_is_told_in_its_schedule_and_holds_up_no_other(store: Database) -> None:
    limit(store, WEB, stored_jobs=1)
    ours, other = make_schedule(project=WEB), make_schedule()
    for each in (ours, other):
        store.write(schedules.insert_schedule, each)
    metrics = LedgerMetrics()
    scheduler = Scheduler(store=RetryingStore(store), metrics=metrics)

    for hours in (1, 2):
        asyncio.run(scheduler.tick(NOON + timedelta(hours=hours)))

    full = store.read(schedules.get_schedule, ours.id, project=None)
    assert full.runs == 1 and full.last_error is not None
    assert full.last_error.startswith("The project web may store 1 jobs, and stores 1 (stored_jobs)")
    assert store.read(schedules.get_schedule, other.id, project=None).runs == 2
    effects = metrics.registry.get_sample_value
    assert effects("retriever_schedule_runs_total", {"effect": "failed"}) == 1
    assert usage_of(store, WEB).jobs == 1
    told = store.read(audit.list_audit, project=WEB, target=f"schedule/{ours.id}", limit=9, after=None)
    assert told.records[0].action == AuditAction.SCHEDULE_RUN_FAILED
    # Who asks for a run is told at once.
    record = store.read(schedules.get_schedule, ours.id, project=None)
    run = scheduled_run(record, run_at=NOON, now=NOON)
    with pytest.raises(ProjectLimitReached):
        store.write(schedules.run_now, ours.id, run, project=None, now=NOON)


@pytest.mark.parametrize("limits", [{"batch_jobs": 1}, {"unfinished_batches": 0}, {"labels": 0}], ids=str)
def test_a_batch_of_a_schedule_that_its_project_may_not_make_fails_alone(
    store: Database, limits: dict[str, int]
) -> None:
    items = [{"url": "http://a.example/"}, {"url": "http://b.example/"}]
    template = {"batch": {"kind": "check", "items": items, "labels": {"a": "b"}}}
    ours, other = make_schedule(project=WEB, template=template), make_schedule()
    for each in (ours, other):
        store.write(schedules.insert_schedule, each)
    limit(store, WEB, **limits)

    asyncio.run(
        Scheduler(store=RetryingStore(store), metrics=LedgerMetrics()).tick(NOON + timedelta(hours=1))
    )

    failed = store.read(schedules.get_schedule, ours.id, project=None)
    assert failed.runs == 0 and "The project web may" in (failed.last_error or "").replace("the ", "The ")
    assert store.read(schedules.get_schedule, other.id, project=None).runs == 1


def test_a_callback_is_made_also_in_a_full_project_and_counted(store: Database) -> None:
    limit(store, WEB, stored_jobs=1)
    (job,) = of_web(callback_url="https://hooks.example/")
    admit(store, [job])

    store.write(recording.record_reports, [make_report(job.id, JobState.SUCCEEDED)], now=NOON)

    assert usage_of(store, WEB).jobs == 2
    with store.reading() as connection:
        kinds = set(connection.scalars(sa.select(jobs.c.kind).where(jobs.c.project == WEB)))
    assert kinds == {"check", WEBHOOK}


def planned(store: Database, last: int) -> NewJob:
    """Store a paged fetch, and let its first page lead to so many others."""
    args = {"url": "https://a.example/", "pages": {"by": "page", "items": "@", "total": "total"}}
    (root,) = of_web(kind="fetch", args=args)
    assert admit(store, [root]) == [True]
    told = PageReport(
        items=1, total=last + 1, following=PagePlace(index=1, last=last, size=1, total=last + 1)
    )
    report = make_report(root.id, JobState.SUCCEEDED, kind="fetch", result={"data": [1], "page": {}})
    store.write(recording.record_reports, [report.model_copy(update={"page": told})], now=NOON)
    return root


def test_a_page_leads_to_as_many_others_as_fit_and_the_fetch_says_that_it_was_cut(store: Database) -> None:
    limit(store, WEB, stored_jobs=4)

    root = planned(store, last=99)

    found = store.read(pages.get_pages, root.id, project=WEB)
    assert (found.planned, found.completeness.stopped_by) == (4, StopReason.PROJECT_FULL)
    assert not found.is_complete
    assert usage_of(store, WEB).jobs == 4


def test_a_page_that_finds_no_room_at_all_ends_its_fetch(store: Database) -> None:
    limit(store, WEB, stored_jobs=1)

    root = planned(store, last=9)

    found = store.read(pages.get_pages, root.id, project=WEB)
    assert (found.planned, found.batch) == (1, None)
    assert (found.completeness.stopped_by, found.is_complete) == (StopReason.PROJECT_FULL, False)


def test_pages_that_fit_are_not_cut(store: Database) -> None:
    limit(store, WEB, stored_jobs=10)

    root = planned(store, last=9)

    found = store.read(pages.get_pages, root.id, project=WEB)
    assert (found.planned, found.completeness.stopped_by) == (10, None)
    assert usage_of(store, WEB).jobs == 10


def test_what_a_third_party_published_is_stored_while_there_is_room(store: Database) -> None:
    limit(store, WEB, stored_jobs=2)
    known, *new = sorted(of_web(3), key=lambda job: job.id)
    admit(store, [known])
    published = [AdoptedJob(job, run=1, attempt=0) for job in (known, *new)]

    adoption = store.write(submissions.adopt_fitting, published)

    assert adoption.stored == {new[0].id}
    assert list(adoption.refused) == [new[1].id]
    assert usage_of(store, WEB).jobs == 2


async def test_the_retention_makes_room(store: Database) -> None:
    limit(store, WEB, stored_jobs=4)
    batch, single = of_web(2), of_web(2)
    store.write(submissions.insert_batch, make_batch(project=WEB), batch)
    admit(store, single)
    ends = [make_report(job.id, JobState.SUCCEEDED) for job in (*batch, single[0])]
    store.write(recording.record_reports, ends, now=NOON)
    assert admit(store, of_web()) == [False]
    janitor = Janitor(store=RetryingStore(store), metrics=LedgerMetrics(), settings=Settings())

    await janitor.clean(before=utc_now() + timedelta(hours=1))

    assert usage_of(store, WEB).jobs == 1
    assert admit(store, of_web(4)) == [True, True, True, False]


async def test_what_was_not_counted_is_counted_again(store: Database) -> None:
    limit(store, WEB, stored_jobs=5)
    # As a process of before stores: it knows of no limits.
    with store.writing() as connection:
        without = connection.execution_options(**{quotas.KNOWN_LIMITS: _knowing_nothing()})
        submissions.insert_jobs(without, [*of_web(3), make_task(project=WEB)])
    assert admit(store, of_web()) == [True]
    metrics, soon = LedgerMetrics(), utc_now() + quotas.RECOUNTED_SOON
    assert store.read(quotas.due_recounts, now=utc_now()) == []
    assert store.read(quotas.due_recounts, now=soon) == [WEB]

    assert store.write(quotas.recount, WEB, now=soon) == 4

    assert (usage_of(store, WEB).jobs, usage_of(store, WEB).tasks) == (5, 1)
    assert store.write(quotas.recount, WEB, now=soon) == 0
    await UsageKeeper(store=RetryingStore(store), metrics=metrics).look()
    full = metrics.registry.get_sample_value("retriever_projects_full", {"limit": "stored_jobs"})
    assert full == 1


def test_counting_again_loses_nothing_that_others_store_meanwhile(store: Database) -> None:
    limit(store, WEB, stored_jobs=1_000_000)
    stop = [False]

    def store_all(number: int) -> int:
        stored = 0
        while not stop[0] and stored < 200:
            store.write(submissions.admit_jobs, of_web(2))
            stored += 2
        return stored

    with ThreadPoolExecutor(3) as pool:
        storing = [pool.submit(store_all, number) for number in range(2)]
        wrong = [store.write(quotas.recount, WEB, now=utc_now()) for _ in range(50)]
        stop[0] = True
        stored = sum(each.result() for each in storing)

    assert wrong == [0] * 50
    assert usage_of(store, WEB).jobs == stored


def test_all_who_store_and_delete_at_once_are_counted_and_none_waits_in_vain(store: Database) -> None:
    names = ("acme", WEB, "zeta")
    limit(store, "*", stored_jobs=100_000, unfinished_batches=10_000)
    start = Barrier(6)

    def single(_: int) -> None:
        start.wait()
        for turn in range(40):
            admit(store, [make_job(project=names[(turn + place) % 3]) for place in range(3)])

    def batch(number: int) -> None:
        start.wait()
        for turn in range(20):
            project = names[(turn + number) % 3]
            store.write(
                submissions.insert_batch,
                make_batch(project=project),
                (make_job(project=project) for _ in "ab"),
            )

    def recorder(_: int) -> None:
        own = [make_job(project=name, callback_url="https://hooks.example/") for name in names * 10]
        store.write(submissions.insert_jobs, own)
        start.wait()
        for place in range(0, len(own), 3):
            ends = [make_report(job.id, JobState.SUCCEEDED) for job in reversed(own[place : place + 3])]
            store.write(recording.record_reports, ends, now=NOON)
            store.write(
                retention.delete_single_jobs,
                JobState.SUCCEEDED,
                before=utc_now() + timedelta(hours=1),
                after=None,
                limit=2,
            )

    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(work, number) for number in (0, 1) for work in (single, batch, recorder)]
        for each in running:
            each.result()

    assert sum(usage_of(store, name).jobs for name in names) == count(store) > 200


async def test_bytes_are_measured_and_a_project_that_has_too_many_stores_no_more(store: Database) -> None:
    limit(store, WEB, stored_bytes=50_000)
    (first,) = of_web()
    other = make_job(args={"url": f"https://other.example/{'x' * 60_000}"})
    store.write(submissions.insert_jobs, [other])
    admit(store, [first])
    keeper = UsageKeeper(store=RetryingStore(store), metrics=LedgerMetrics())
    await keeper.look()
    before = usage_of(store, WEB).stored_bytes
    assert before is not None and before < 1_000

    with store.writing() as connection:
        # Neither gets smaller: PostgreSQL compresses what it keeps.
        content = Random(7).randbytes(30_000)
        result = {"text": content[:12_000].hex()}
        connection.execute(jobs.update().where(jobs.c.id == first.id).values(result=result))
        body = {"job_id": first.id, "run": 1, "size": 40_000, "sha256": "", "content": content}
        connection.execute(bodies.insert().values(**body))
    await keeper.look()

    after = usage_of(store, WEB)
    assert after.stored_bytes is not None and after.stored_bytes > 50_000
    (job,) = of_web()
    refused = store.write(submissions.admit_jobs, [job])[job.id].refusal
    assert isinstance(refused, ProjectLimitReached)
    assert (refused.name, refused.used) == (LimitName.STORED_BYTES, after.stored_bytes)
    with pytest.raises(ProjectLimitReached, match="stored_bytes"):
        store.write(submissions.insert_batch, make_batch(project=WEB), of_web())
    assert admit(store, [make_job()]) == [True]


def test_bytes_are_measured_a_window_at_a_time(store: Database) -> None:
    store.write(submissions.insert_jobs, [*of_web(5), make_job()])
    whole, rest = store.read(quotas.measure_window, WEB, after=None, limit=100)
    assert rest is None

    total, after, windows = 0, None, 0
    while True:
        found, after = store.read(quotas.measure_window, WEB, after=after, limit=2)
        total, windows = total + found, windows + 1
        if after is None:
            break

    assert (total, windows) == (whole, 3)


async def test_the_audit_log_and_rejected_lines_of_a_project_go_before_those_of_others(
    store: Database,
) -> None:
    batches = {project: replace(make_batch(project=project), rejected=1) for project in (WEB, "default")}
    for project, batch in batches.items():
        (job,) = [make_job(project=project)]
        store.write(submissions.insert_batch, batch, [job], [Rejected(1, "/lines/1", "No")])
        store.write(endings.cancel_job, job.id, project=None, now=NOON)
    janitor = Janitor(store=RetryingStore(store), metrics=LedgerMetrics(), settings=Settings())

    limit(store, WEB, audit_days=1, rejected_days=1)
    before = audited(store)
    await janitor.apply_limits(now=utc_now() + timedelta(hours=23))
    assert audited(store) == before
    await janitor.apply_limits(now=(later := utc_now() + timedelta(days=1, minutes=1)))

    left = store.read(audit.list_audit, project=None, target=None, limit=99, after=None).records
    assert [entry.project for entry in left if entry.action == AuditAction.JOB_CANCELLED] == ["default"]
    with store.reading() as connection:
        kept = list(connection.scalars(sa.select(rejected_lines.c.batch_id)))
    assert len(kept) == 1
    for project, listed in ((WEB, 0), ("default", 1)):
        (record,) = store.read(queries.search_batches, [], project=project, limit=9, after=None).records
        assert (record.rejected, record.rejected_kept) == (1, listed)
    # Again there is nothing to do.
    await janitor.apply_limits(now=later)


def audited(store: Database) -> set[UUID]:
    found = store.read(audit.list_audit, project=None, target=None, limit=99, after=None)
    return {entry.id for entry in found.records}


def test_a_retention_of_every_project_is_that_of_all_who_have_something(store: Database) -> None:
    for project in (WEB, "zeta"):
        store.write(submissions.insert_batch, make_batch(project=project), [make_job(project=project)])
    job = make_job(project="acme")
    store.write(submissions.insert_jobs, [job])
    store.write(endings.cancel_job, job.id, project=None, now=NOON)
    limit(store, "*", audit_days=30)
    limit(store, "zeta", audit_days=7)

    found = store.read(retention.projects_with, LimitName.AUDIT_DAYS)

    assert found == {"acme": 30, WEB: 30, "zeta": 7}


def test_limits_that_are_taken_away_are_counted_no_more(store: Database) -> None:
    limit(store, WEB, stored_jobs=1)
    admit(store, of_web())

    limit(store, WEB, labels=3)

    assert store.read(quotas.read_usage) == {}
    assert admit(store, of_web(5)) == [True] * 5
    limit(store, WEB, stored_jobs=7)
    assert usage_of(store, WEB).jobs == 6


def test_who_sets_limits_is_in_the_audit_log(store: Database) -> None:
    limit(store, WEB, stored_jobs=1)
    limit(store, WEB, stored_jobs=1)
    limit(store, WEB, stored_jobs=2)

    told = store.read(audit.list_audit, project=WEB, target="project/web", limit=9, after=None).records

    assert [dict(entry.details) for entry in told] == [
        {"limits": {"stored_jobs": 2}, "before": {"stored_jobs": 1}},
        {"limits": {"stored_jobs": 1}, "before": {}},
    ]
    assert {(entry.action, entry.by) for entry in told} == {(AuditAction.LIMITS_SET, "a test")}


def test_nobody_pays_a_statement_for_limits_that_nobody_has_set(store: Database) -> None:
    store.write(submissions.admit_jobs, [make_job()])
    before = statements_of(store, lambda: admit(store, of_web(3)))

    assert not [each for each in before if "project_" in each]


def statements_of(store: Database, change: Callable[[], object]) -> list[str]:
    told: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        told.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        change()
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    return told


def test_a_store_of_before_is_migrated_and_what_it_has_counts(empty_database_url: str) -> None:
    engine = open_engine(empty_database_url)
    with writing(engine).begin() as connection:
        config = migrating._config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0008")
        is_postgresql = connection.dialect.name == POSTGRESQL
        at: object = NOON if is_postgresql else int(NOON.timestamp() * 1_000_000)
        for kind in ("check", "check", "task"):
            job_id = new_id()
            row = {
                "id": job_id if is_postgresql else job_id.hex,
                "kind": kind,
                "lane": "bulk",
                "args": "{}",
                "retry": "{}",
                "labels": "{}",
                "host": "",
                "state": "succeeded",
                "position": 1,
                "run": 1,
                "attempt": 0,
                "created_at": at,
                "updated_at": at,
                "project": WEB,
            }
            values = ", ".join(f":{name}" for name in row)
            connection.execute(sa.text(f"INSERT INTO jobs ({', '.join(row)}) VALUES ({values})"), row)
    engine.dispose()

    migrate(empty_database_url)

    store = Database.open(empty_database_url)
    limit(store, WEB, stored_jobs=4)
    assert (usage_of(store, WEB).jobs, usage_of(store, WEB).tasks) == (3, 1)
    assert admit(store, of_web(2)) == [True, False]
    store.close()


def _knowing_nothing() -> quotas.KnownLimits:
    known = quotas.KnownLimits()
    known.note(Limits(), read_at=float("inf"))
    return known
