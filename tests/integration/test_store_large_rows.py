"""What ledgers and agents read of rows with megabytes: pages by bytes, each row once and in order."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from uuid import UUID

import pytest

from producer.records import NewJob
from producer.store import events as store_events
from producer.store import outbox, parking, recording, repeats, submissions, tasks, unfinished
from producer.store import pages as store_pages
from producer.store.database import Database
from producer.store.page_bytes import PAGE_BYTES
from producer.tasks import PickRequest
from shared.kinds.pages import PagePlace, PageReport
from shared.kinds.registry import Lane
from shared.kinds.task import PickOrder
from shared.states import JobState
from tests.support.factories import NOON, make_batch, make_job, make_report, make_task

LATER = NOON + timedelta(hours=1)
SIZES = [1, 1_500_000, 1, 1_500_000, 1_500_000, PAGE_BYTES + 1, 1, 1_500_000]
# Until they reach a page, and as many as fit into one.
REACHING = [5, 1, 2]
FITTING = [4, 1, 1, 2]


def stored(store: Database, *, kind: str = "webhook", lane: Lane = Lane.BULK) -> list[NewJob]:
    made = [
        make_job(kind=kind, lane=lane, args={"url": "https://example.com/", "data": {"x": "x" * size}})
        for size in SIZES
    ]
    store.write(submissions.insert_jobs, made)
    return made


def walked(read: Callable[[UUID | None], tuple[Sequence[UUID], UUID | None]]) -> list[Sequence[UUID]]:
    pages, after = [], None
    while True:
        page, after = read(after)
        pages.append(page)
        if after is None:
            return pages


@pytest.mark.parametrize("lane", list(Lane))
def test_accepted_jobs_are_claimed_until_they_fill_a_page(store: Database, lane: Lane) -> None:
    made = stored(store, lane=lane)

    pages = []
    while page := store.write(outbox.claim_accepted, limit=1_000, lease_seconds=60, now=NOON):
        pages.append([job.id for job in page])
        assert sum(job.claimed_bytes for job in page[:-1]) < PAGE_BYTES

    assert [job_id for page in pages for job_id in page] == [job.id for job in made]
    assert [len(page) for page in pages] == REACHING


def test_events_with_results_are_claimed_until_they_fill_a_page(store: Database) -> None:
    made = stored(store)
    for job, size in zip(made, SIZES, strict=True):
        report = make_report(job.id, JobState.SUCCEEDED, kind="webhook", result={"x": "x" * size})
        store.write(recording.record_reports, [report], now=NOON)

    pages = []
    while page := store.write(store_events.claim_events, limit=1_000, lease_seconds=60, now=NOON):
        pages.append([event.body["job_id"] for event in page])

    assert [job_id for page in pages for job_id in page] == [str(job.id) for job in made]
    assert [len(page) for page in pages] == REACHING


def test_jobs_that_are_sent_again_are_read_in_pages_by_bytes(store: Database) -> None:
    made = stored(store)
    store.write(outbox.mark_queued, [(job.id, 1) for job in made], now=NOON)

    def read(after: UUID | None) -> tuple[Sequence[UUID], UUID | None]:
        lanes = [("webhook", Lane.BULK)]
        page = store.read(
            unfinished.read_page, JobState.QUEUED, lanes, heard_before=LATER, after=after, window_jobs=6
        )
        return [job.message.id for job in page.jobs], page.following

    pages = walked(read)

    assert [job_id for page in pages for job_id in page] == [job.id for job in made]
    assert [len(page) for page in pages] == FITTING


def test_parked_jobs_whose_messages_are_missing_are_read_in_pages_by_bytes(store: Database) -> None:
    made = stored(store)
    parked = [make_report(job.id, JobState.PARKED, kind="webhook", result={"x": 1}) for job in made]
    store.write(recording.record_reports, parked, now=NOON)

    pages: list[list[UUID]] = []
    while page := store.read(
        parking.parked_page, recorded_before=LATER, after=pages[-1][-1] if pages else None, limit=500
    ):
        pages.append([job.id for job in page])
        assert all(job.result is None for job in page)

    assert [job_id for page in pages for job_id in page] == [job.id for job in made]
    assert [len(page) for page in pages] == FITTING


def test_repeats_of_large_answers_are_ended_a_page_at_a_time(store: Database) -> None:
    batch = make_batch()
    originals, waiting = [], []
    for number in range(6):
        original = make_job(args={"url": f"https://example.com/{number}"})
        job = make_job(job_id=original.id, args=original.args, same_as=original.id)
        originals.append(job)
        waiting.append(make_job(args=original.args, same_as=original.id, due_at=LATER))
    store.write(submissions.insert_batch, batch, [*originals, *waiting])
    for job in originals:
        result = {"verdict": "ok", "reason": "ok", "final_url": job.args["url"], "title": "x" * 1_500_000}
        report = make_report(job.id, JobState.SUCCEEDED, result=result)
        store.write(recording.record_reports, [report], now=NOON)

    ended: list[int] = []
    while ids := store.read(repeats.ended_originals, limit=250):
        ended.append(len(store.write(repeats.answer_repeats, ids, now=NOON)))

    assert sum(ended) == len(waiting) and max(ended) == 2


def test_pages_that_follow_one_with_large_arguments_are_made_in_small_chunks(store: Database) -> None:
    root = make_job(
        kind="fetch",
        args={
            "url": "https://example.com/items",
            "method": "POST",
            "body": "x" * 250_000,
            "pages": {"by": "page", "total": "total"},
        },
    )
    store.write(submissions.insert_jobs, [root])
    page = PageReport(items=2, following=PagePlace(index=1, last=40, size=2, total=82))
    report = make_report(root.id, JobState.SUCCEEDED, kind="fetch", result={"data": [1, 2]})

    store.write(recording.record_reports, [report.model_copy(update={"page": page})], now=NOON)

    assert store.read(store_pages.get_pages, root.id, project=None).planned == 41


def pick(order: PickOrder = PickOrder.OLDEST, limit: int = 100) -> PickRequest:
    return PickRequest(
        queue="default", agent="ann", limit=limit, lease_seconds=60, order=order, project="default"
    )


@pytest.mark.parametrize("order", list(PickOrder))
def test_agents_that_pick_large_tasks_get_a_megabyte_each_and_nobody_comes_away_empty(
    store: Database, order: PickOrder
) -> None:
    made = [make_job(kind="task", args={"payload": "x" * 400_000}, host="") for _ in range(11)]
    store.write(submissions.insert_jobs, made)

    picked = store.write(tasks.pick_all, [pick(order), pick(order, 1), pick(order)], now=NOON)
    rest = [
        store.write(tasks.pick, pick(order), now=NOON),
        store.write(tasks.pick, pick(order), now=NOON),
    ]

    given = [[each.job.id for each in one] for one in [*picked, *rest]]
    in_order = [job.id for job in made]
    assert [job_id for one in given for job_id in one] == (
        in_order[::-1] if order is PickOrder.NEWEST else in_order
    )
    assert [len(one) for one in given] == [3, 1, 3, 3, 1]


def test_small_tasks_are_picked_by_number_as_ever(store: Database) -> None:
    made = [make_task() for _ in range(250)]
    store.write(submissions.insert_jobs, made)

    picked = store.write(tasks.pick_all, [pick(), pick(), pick()], now=NOON)

    assert [len(one) for one in picked] == [100, 100, 50]
