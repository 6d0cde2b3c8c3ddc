"""Two transactions that change the same rows on PostgreSQL: neither waits while the other waits for it."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from producer.hosts import HostLimits
from producer.quotas import LimitName
from producer.store import endings, outbox, pages, quotas, recording, submissions, tasks
from producer.store.database import Database
from producer.store.hosts import HostTurns
from producer.tasks import FinishRequest, PickRequest
from shared.hosts import HostLimit
from shared.kinds.pages import PagePlace, PageReport
from shared.messages import Report
from shared.outcomes import Succeeded
from shared.states import JobState
from tests.support.factories import NOON, make_batch, make_job, make_report, make_task
from tests.support.waiting import eventually

HOOK = "https://receiver.example/hook"
IS_WAITING = sa.text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


@pytest.fixture
def store(postgres_url: str) -> Iterator[Database]:
    opened = Database.open(postgres_url)
    yield opened
    opened.close()


def race(
    store: Database,
    monkeypatch: pytest.MonkeyPatch,
    *,
    stop_before: str,
    first: Callable[[], object],
    second: Callable[[], object],
) -> None:
    """Stop the first transaction before a step of its ends until the second is done, or waits for a lock."""
    real, is_stopped, is_done = getattr(endings, stop_before), threading.Event(), threading.Event()

    async def is_over() -> bool:
        with store.reading() as connection:
            return is_done.is_set() or bool(connection.scalar(IS_WAITING))

    def stopping(*args: Any, **named: Any) -> Any:
        if not is_stopped.is_set():
            is_stopped.set()
            asyncio.run(eventually(is_over))
        return real(*args, **named)

    monkeypatch.setattr(endings, stop_before, stopping)
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(first)
        assert is_stopped.wait(20)
        other = pool.submit(second)
        other.add_done_callback(lambda _: is_done.set())
        one.result(30)
        other.result(30)


def record(store: Database, *reports: Report) -> None:
    store.write(recording.record_reports, list(reports), now=NOON)


def test_ends_that_are_called_back_of_one_limited_project(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {LimitName.STORED_JOBS: 100}
    store.write(quotas.set_limits, "web", limits, by="ann", now=NOON)
    batch = make_batch(callback_url=HOOK, project="web")
    line = make_job(batch_id=batch.id, project="web")
    single = make_job(callback_url=HOOK, project="web")
    store.write(submissions.insert_batch, batch, [line])
    store.write(submissions.insert_jobs, [single])

    race(
        store,
        monkeypatch,
        stop_before="next_number",
        first=lambda: record(store, make_report(line.id, JobState.SUCCEEDED)),
        second=lambda: record(store, make_report(single.id, JobState.SUCCEEDED)),
    )

    assert (
        store.read(quotas.read_usage, ["web"])["web"].jobs == store.read(quotas.count_jobs, "web").jobs == 4
    )


def test_a_page_that_ends_beside_another_of_its_fetch_and_of_its_host(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = {"url": "https://a.example/", "pages": {"by": "page", "total": "total"}}
    root = make_job(kind="fetch", args=args, host="a.example")
    store.write(submissions.insert_jobs, [root])
    record(store, page_report(root.id, PagePlace(index=1, last=2, size=2, total=6)))
    turns = HostTurns(HostLimits(HostLimit(10)))
    page, other = (
        job.id for job in store.write(outbox.claim_accepted, limit=9, lease_seconds=60, now=NOON, turns=turns)
    )

    race(
        store,
        monkeypatch,
        stop_before="count_moves",
        first=lambda: record(store, make_report(other, JobState.PARKED, kind="fetch", reason="http_404")),
        second=lambda: record(store, page_report(page)),
    )

    counted = store.read(pages.get_pages, root.id, project=None).batch
    assert counted is not None
    assert counted.counts == {JobState.SUCCEEDED: 1, JobState.PARKED: 1}


def test_a_task_that_ends_by_the_second_word_of_a_group(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = make_batch(kind="task"), make_batch(kind="task")
    line, wrong, beside = (make_task(batch_id=each.id) for each in (one, two, two))
    store.write(submissions.insert_batch, one, [line])
    store.write(submissions.insert_batch, two, [wrong, beside])
    asked = PickRequest("default", limit=3, lease_seconds=60, agent="ann", project="default")
    token = store.write(tasks.pick, asked, now=NOON)[0].token

    def words(*said: tuple[Any, str]) -> None:
        told = [FinishRequest(job.id, said_token, Succeeded({}), project=None) for job, said_token in said]
        store.write(tasks.finish_all, told, now=NOON)

    race(
        store,
        monkeypatch,
        stop_before="next_number",
        first=lambda: words((beside, token)),
        second=lambda: words((line, token), (wrong, "another"), (wrong, token)),
    )

    states = sa.text("SELECT DISTINCT state FROM jobs")
    with store.reading() as connection:
        assert connection.scalars(states).all() == [JobState.SUCCEEDED]


def page_report(job_id: Any, following: PagePlace | None = None) -> Report:
    report = make_report(
        job_id, JobState.SUCCEEDED, kind="fetch", result={"data": [1, 2], "page": {"items": 2}}
    )
    return report.model_copy(update={"page": PageReport(items=2, following=following)})
