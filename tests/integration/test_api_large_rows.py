"""Lists and exports of rows with megabytes: each row once, in pages by bytes, in little memory."""

import csv
import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID
from xml.etree import ElementTree as ET

import httpx
import pytest
import sqlalchemy as sa

from deploy.local.ports import free_port
from producer.parking import AuditAction
from producer.records import NewJob
from producer.store import audit, results, schedules, submissions
from producer.store.database import Database
from producer.store.page_bytes import PAGE_BYTES
from producer.store.schema import jobs as jobs_table
from tests.support.api import RunningApi
from tests.support.environment import clean_environment
from tests.support.factories import NOON, make_batch, make_job, make_schedule

ROOT = Path(__file__).resolve().parents[2]
# Each is a megabyte of JSON that takes twenty or thirty as objects of Python.
NODES = "[" + "[]," * 350_000 + "[]]"
JOBS = 40
GROWTH_BYTES = 60 * 1_048_576
START_SECONDS = 60.0
# What a row has beside its result, and what joins rows.
MARGIN_BYTES = 65_536


class ApiProcess:
    """An API in a process of its own."""

    def __init__(self, popen: "subprocess.Popen[bytes]", url: str) -> None:
        self.client = httpx.Client(base_url=url, timeout=60)
        self._pid = popen.pid
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            assert popen.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)

    def peak_bytes(self) -> int:
        """Return the most memory that it has held so far."""
        status = Path(f"/proc/{self._pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1_024

    def _is_ready(self) -> bool:
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture
def large_api(database_url: str, tmp_path: Path) -> Iterator[ApiProcess]:
    """Yield an API that has answered nobody else."""
    port = free_port()
    settings = {"RETRIEVER_DATABASE_URL": database_url, "RETRIEVER_API_PORT": str(port)}
    with (tmp_path / "api.log").open("wb") as log:
        popen = subprocess.Popen(
            [sys.executable, "-m", "producer", "api"],
            cwd=ROOT,
            env=clean_environment() | settings,
            stdout=log,
            stderr=log,
        )
    try:
        api = ApiProcess(popen, f"http://127.0.0.1:{port}")
        yield api
        api.client.close()
    finally:
        popen.kill()
        popen.wait()


def store_fetches(store: Database, datas: list[str]) -> tuple[UUID, list[str]]:
    """Store a batch of fetches that have succeeded with data, given as JSON; return the ids."""
    batch = make_batch(kind="fetch")
    jobs = [
        make_job(kind="fetch", args={"url": f"https://example.com/{place}"}, line=place)
        for place in range(1, len(datas) + 1)
    ]
    store.write(submissions.insert_batch, batch, jobs)
    for job, data in zip(jobs, datas, strict=True):
        end(store, job, f'{{"status":200,"final_url":"{job.args["url"]}","hops":[],"data":{data}}}')
    return batch.id, [str(job.id) for job in jobs]


def end(store: Database, job: NewJob, result: str) -> None:
    """Let a job have succeeded with a result, given as JSON, without the cost of a report so large."""
    with store.writing() as connection:
        value = "CAST(:result AS JSON)" if connection.dialect.name == "postgresql" else ":result"
        change = f"UPDATE jobs SET state = 'succeeded', attempt = 1, result = {value} WHERE id = :id"
        id_ = sa.bindparam("id", job.id, jobs_table.c.id.type)
        connection.execute(sa.text(change).bindparams(id_), {"result": result})


def test_large_results_make_no_list_or_export_large(store: Database, large_api: ApiProcess) -> None:
    batch_id, ids = store_fetches(store, [NODES] * JOBS)
    client, results_path = large_api.client, f"/batches/{batch_id}/results"
    before = large_api.peak_bytes()

    table = client.get(results_path, params={"format": "csv"})
    with ThreadPoolExecutor(3) as readers:
        lists = list(readers.map(lambda _: client.get("/jobs?limit=1000"), range(3)))
    suite = client.get(results_path, params={"format": "junit"})
    with client.stream("GET", results_path) as export:
        lines = [line[len('{"id":"') :][: len(ids[0])] for line in export.iter_lines()]
    one = client.get(f"/jobs/{ids[0]}")
    growth = large_api.peak_bytes() - before

    assert [row["id"] for row in csv.DictReader(io.StringIO(table.text))] == lines == ids
    assert {row["status"] for row in csv.DictReader(io.StringIO(table.text))} == {"200"}
    assert len(table.content) < 20_000
    assert len(ET.fromstring(suite.content)) == JOBS  # noqa: S314
    assert all(len(each.content) <= PAGE_BYTES + MARGIN_BYTES for each in lists)
    assert not any(each.text.endswith('"next":null}') for each in lists)
    assert NODES in one.text
    assert growth < GROWTH_BYTES


MIXED = [1, 1_500_000, 1, 1, PAGE_BYTES + 1, 1, 2_000_000, 2_000_000, 2_000_000, 1]


def test_a_search_goes_through_rows_of_all_sizes_once_in_pages_by_bytes(api: RunningApi) -> None:
    _, ids = store_fetches(api.store, [f'"{"x" * size}"' for size in MIXED])

    pages: list[list[str]] = []
    cursor: dict[str, str] = {}
    while True:
        answer = api.client.get("/jobs", params={"limit": 7, "host": "example.com", **cursor})
        page = answer.json()
        pages.append([job["id"] for job in page["items"]])
        assert len(answer.content) <= PAGE_BYTES + MARGIN_BYTES or len(page["items"]) == 1
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}

    assert [job_id for page in pages for job_id in page] == ids[::-1]
    assert [len(page) for page in pages] == [3, 2, 1, 4]
    # A cursor is the id of any job, as it always was.
    assert api.client.get("/jobs", params={"cursor": ids[2]}).json()["items"][0]["id"] == ids[1]


@pytest.mark.parametrize("chosen", ["ndjson", "csv", "junit"])
@pytest.mark.parametrize("wanted", [{}, {"state": "succeeded"}])
def test_every_export_has_rows_of_all_sizes_once_and_in_order(
    api: RunningApi, chosen: str, wanted: dict[str, str]
) -> None:
    batch_id, ids = store_fetches(api.store, [f'"{"x" * size}"' for size in MIXED])

    text = api.client.get(f"/batches/{batch_id}/results", params={"format": chosen, **wanted}).text

    match chosen:
        case "ndjson":
            shown = [json.loads(line)["id"] for line in text.splitlines()]
        case "csv":
            shown = [row["id"] for row in csv.DictReader(io.StringIO(text))]
        case _:
            shown = [ids[int(case.attrib["line"]) - 1] for case in ET.fromstring(text)]  # noqa: S314
    assert shown == ids


def test_a_page_of_a_batch_holds_no_more_than_a_page_may(store: Database) -> None:
    batch_id, ids = store_fetches(store, [f'"{"x" * size}"' for size in MIXED])

    pages, after = [], None
    while True:
        found = store.read(results.batch_jobs, batch_id, after=after, limit=500, project=None)
        pages.append([str(job.id) for job in found.records])
        if (after := found.following) is None:
            break

    assert [job_id for page in pages for job_id in page] == ids
    assert [len(page) for page in pages] == [4, 1, 3, 2]


def test_schedules_with_large_templates_are_listed_in_pages_by_bytes(api: RunningApi) -> None:
    made = [
        make_schedule(template={"job": {"kind": "task", "args": {"payload": ["x" * 1_000_000, "\ud800"]}}})
        for _ in range(6)
    ]
    for schedule in made:
        api.store.write(schedules.insert_schedule, schedule)

    first = api.client.get("/schedules")
    second = api.client.get("/schedules", params={"cursor": first.json()["next"]})

    shown = [[each["id"] for each in answer.json()["items"]] for answer in (first, second)]
    assert shown == [[str(each.id) for each in made[:1:-1]], [str(made[1].id), str(made[0].id)]]
    assert first.json()["items"][0]["job"] == made[0].template["job"]
    assert first.json()["items"][0]["batch"] is None
    assert second.json()["next"] is None


def test_an_audit_log_with_large_arguments_is_read_in_pages_by_bytes(api: RunningApi) -> None:
    for number in range(6):
        details = {"old_args": {"number": number, "payload": "x" * 1_000_000}}
        api.store.write(
            audit.write_audit,
            AuditAction.JOB_REDRIVEN,
            target="job/x",
            by="ann",
            details=details,
            now=NOON,
            project=None,
        )

    first = api.client.get("/audit")
    second = api.client.get("/audit", params={"cursor": first.json()["next"]})

    numbers = [
        [entry["details"]["old_args"]["number"] for entry in answer.json()["items"]]
        for answer in (first, second)
    ]
    assert numbers == [[5, 4, 3, 2], [1, 0]]


def test_tasks_with_large_payloads_and_outputs_are_listed_in_pages_by_bytes(api: RunningApi) -> None:
    payload = {"nodes": [[]] * 100_000, "text": "\ud800 é"}
    tasks = [make_job(kind="task", args={"payload": payload}, host="") for _ in range(20)]
    api.store.write(submissions.insert_jobs, tasks)
    output = "x" * 1_000_000
    end(api.store, tasks[0], f'{{"output":"{output}","exit_code":3,"stdout":{{"text":"done"}}}}')

    pages = []
    cursor: dict[str, str] = {}
    while True:
        page = api.client.get("/tasks", params=cursor).json()
        pages.append(page["items"])
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    one = api.client.get(f"/tasks/{tasks[0].id}").json()

    listed = [task for page in pages for task in page]
    assert [task["id"] for task in listed] == [str(task.id) for task in reversed(tasks)]
    assert len(pages) == 2
    assert listed[-1]["exit_code"] == 3 and "output" not in listed[-1]
    assert (listed[0]["payload"], listed[0]["command"]) == (payload, None)
    assert (one["output"], one["stdout"]["text"], one["exit_code"]) == (output, "done", 3)
