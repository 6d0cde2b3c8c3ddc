"""The client while the service fails: it ends right, and nothing is done twice."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import httpx2
import pytest

from retriever_client import Retriever
from tests.support.stores import on_one_store
from tests.support.system import LocalSystem, System

JOBS = 1_500
LONG = 120.0


class _LosesAnswers(httpx2.HTTPTransport):
    """Loses the answer to the first POST of each path, when the service has given it."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: set[str] = set()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = super().handle_request(request)
        if request.method == "POST" and request.url.path not in self.lost:
            response.read()
            self.lost.add(request.url.path)
            raise httpx2.ReadError("lost")
        return response


@pytest.fixture
def local(system: System) -> LocalSystem:
    if not isinstance(system, LocalSystem):
        pytest.skip("It kills a process of this machine.")
    return system


@on_one_store
def test_answers_that_are_lost_make_no_second_job_batch_schedule_or_operation(local: LocalSystem) -> None:
    transport, labels = _LosesAnswers(), {"lost": uuid4().hex}
    url = f"{local.site_url}/ok"
    with httpx2.Client(transport=transport) as http:
        retriever = Retriever(local.api_url, http_client=http)
        job = retriever.jobs.submit("check", {"url": url}, labels=labels)
        batch = retriever.batches.submit("check", [f"{url}?{n}" for n in range(10)], labels=labels)
        task = retriever.tasks.submit(queue=labels["lost"], payload=1, labels=labels)
        schedule = retriever.schedules.create(
            every_seconds=86_400, job={"kind": "check", "args": {"url": url}}, labels=labels
        )
        run = retriever.schedules.run(schedule)
        parked = retriever.jobs.wait(retriever.jobs.submit("fetch", {"url": f"{local.site_url}/missing"}))
        again = retriever.jobs.redrive(parked)
        operation = retriever.parked.discard(ids=[again.id])

        assert {"/jobs", "/batches", "/tasks", "/schedules", f"/jobs/{parked.id}/redrive"} <= transport.lost
        assert [each.id for each in retriever.batches.list(labels=labels)] == [batch.id]
        assert [each.id for each in retriever.schedules.list() if each.labels == labels] == [schedule.id]
        singles = [each.id for each in retriever.jobs.list(labels=labels) if each.batch_id is None]
        assert run.last_run is not None
        assert sorted(singles) == sorted([job.id, task.id, str(run.last_run.job_id)])
        assert (again.run, run.runs) == (2, 1)
        assert next(each.id for each in retriever.operations.list()) == operation.id
        retriever.schedules.delete(schedule)


@on_one_store
def test_the_api_killed_in_mid_batch_costs_the_client_nothing(local: LocalSystem) -> None:
    urls = [f"{local.site_url}/ok?{number}" for number in range(JOBS)]
    labels = {"killed": uuid4().hex}
    has_begun, some_have_come = threading.Event(), threading.Event()

    def items() -> Iterator[str]:
        yield from urls
        has_begun.set()

    def work() -> tuple[str, list[str], int]:
        with Retriever(local.api_url, retries=12) as retriever:
            batch = retriever.batches.submit("check", items(), labels=labels)
            came: list[str] = []
            for job in retriever.batches.results(batch, as_they_end=True):
                came.append(job.args["url"])
                if len(came) == JOBS // 10:
                    some_have_come.set()
            done = retriever.batches.wait(batch, timeout_seconds=LONG)
            return batch.id, came, done.counts["succeeded"]

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        assert has_begun.wait(LONG)
        local.kill_api()
        assert some_have_come.wait(LONG)
        local.kill_api()
        batch_id, came, succeeded = working.result(LONG)

    assert succeeded == JOBS
    assert Counter(came) == Counter(urls)
    with Retriever(local.api_url) as retriever:
        assert [each.id for each in retriever.batches.list(labels=labels)] == [batch_id]
        assert {job.verdict for job in retriever.batches.results(batch_id)} == {"ok"}
