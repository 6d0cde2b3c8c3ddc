"""What one caller may store and occupy: each bound is said to whoever meets it, and nobody else feels it."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import sqlalchemy as sa

from producer.api.batch_bodies import BatchSpool
from producer.records import JobFilter
from producer.store import queries, recording, submissions
from producer.store.schema import rejected_lines
from shared.settings import Settings
from shared.states import JobState
from tests.support.api import RunningApi, running_api
from tests.support.factories import NOON, make_job, make_report
from tests.support.keys import bearer, make_key

MEBIBYTE = 1_048_576
GOOD = b'{"url":"http://a.example/"}'
JOB = {"kind": "check", "args": {"url": "https://example.com/"}}
# The API believes proxies on this machine, so this is another caller.
STRANGER = {"X-Forwarded-For": "127.0.9.7"}


@contextmanager
def api_with(tmp_path: Path, **settings: Any) -> Iterator[RunningApi]:
    with running_api(Settings(database_url=f"sqlite:///{tmp_path / 'retriever.db'}", **settings)) as api:
        yield api


def post_json(api: RunningApi, items: bytes) -> httpx.Response:
    body = b'{"items":[' + items + b'],"kind":"check"}'
    return api.client.post("/batches", content=body, headers={"Content-Type": "application/json"})


def stored_rejections(api: RunningApi) -> int:
    with api.store.reading() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(rejected_lines)) or 0


def stored_jobs(api: RunningApi) -> int:
    return len(
        api.store.read(queries.search_jobs, JobFilter(), limit=1_000, after=None, project=None).records
    )


@contextmanager
def peak_growth() -> Iterator[list[int]]:
    """Yield a list that has, after the block, by how many bytes the memory of this process grew at most."""
    grown: list[int] = []
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    yield grown
    grown.append(_status("VmHWM") - before)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1_024


def test_all_rejected_items_are_counted_and_the_first_ten_thousand_listed(api: RunningApi) -> None:
    batch = post_json(api, GOOD + b",0" * 12_000)

    assert batch.status_code == 202, batch.text
    said = batch.json()["rejected"]
    assert (batch.json()["total"], said["count"], said["listed"]) == (1, 12_000, 10_001)
    assert api.client.get(batch.headers["location"]).json()["rejected"] == said
    assert stored_rejections(api) == 10_001
    (last,) = api.client.get(f"{batch.headers['location']}/rejected?cursor=10001").json()["items"]
    assert (last["number"], last["loc"]) == (10_002, "/items/10001")
    assert last["msg"].endswith("1,999 more became no job: they are counted and not listed")
    # Whoever reads the results alone hears of it too.
    results = api.client.get(f"{batch.headers['location']}/results?format=csv").text.splitlines()
    assert (len(results), "1,999 more became no job" in results[-1]) == (1 + 1 + 10_001, True)


def test_eight_megabytes_of_items_that_are_nothing_are_refused_in_flat_memory(tmp_path: Path) -> None:
    with api_with(tmp_path) as api:
        post_json(api, b"0," * 50_000 + b"0")
        with peak_growth() as grown:
            refused = post_json(api, b"{}," * 2_790_000 + b"{}")

        assert (refused.status_code, refused.json()["type"]) == (422, "urn:retriever:batch-invalid")
        assert "100,000 of the first 100,000 items are not valid" in refused.json()["detail"]
        assert (stored_jobs(api), stored_rejections(api)) == (0, 0)
    assert grown[0] < 90 * MEBIBYTE


def test_a_list_that_is_half_bad_keeps_its_good_lines(tmp_path: Path) -> None:
    lines = b"http://a.example/\nnonsense\n" * 15_000
    with api_with(tmp_path) as api:
        batch = api.client.post("/batches", content=lines, headers={"Content-Type": "text/plain"})

        assert batch.status_code == 202
        assert (batch.json()["total"], batch.json()["rejected"]["count"]) == (15_000, 15_000)
        assert stored_rejections(api) == 10_001


@pytest.mark.parametrize("media_type", ["text/plain", "application/json"])
def test_a_batch_of_too_many_jobs_is_refused_whole(tmp_path: Path, media_type: str) -> None:
    with api_with(tmp_path, max_batch_jobs=3) as api:
        if media_type == "text/plain":
            lines = b"http://a.example/\n" * 4
            refused = api.client.post("/batches", content=lines, headers={"Content-Type": media_type})
        else:
            refused = post_json(api, b",".join([GOOD] * 4))
        fits = post_json(api, b",".join([GOOD] * 3))

    place = "/lines" if media_type == "text/plain" else "/items"
    assert (refused.status_code, refused.json()["errors"][0]["loc"]) == (413, place)
    assert "may have 3 jobs" in refused.json()["detail"]
    assert fits.status_code == 202


class Dripping:
    """A batch that arrives and does not end."""

    def __init__(self, api: RunningApi, address: str, *, key: str = "") -> None:
        shown = "".join(f"{name}: {value}\r\n" for name, value in bearer(key).items()) if key else ""
        self.socket: socket.socket = api.connect()
        self.socket.sendall(
            b"POST /batches HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
            + f"Content-Length: 1000\r\nX-Forwarded-For: {address}\r\n{shown}\r\n".encode()
            + b"http://a.example/\n"
        )


def test_batches_at_once_are_capped_and_one_caller_has_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.api.batches._WAIT_SECONDS", 0.2)
    text = {"Content-Type": "text/plain"}

    def post(address: str) -> httpx.Response:
        headers = {**text, "X-Forwarded-For": address}
        return api.client.post("/batches", content=b"http://a.example/\n", headers=headers)

    with api_with(tmp_path, max_batches_at_once=4) as api, ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(Dripping(api, "127.0.9.1").socket)
        until(lambda: post("127.0.9.1").status_code == 429)
        own = post("127.0.9.1")
        other = post("127.0.9.2")
        for _ in range(2):
            stack.enter_context(Dripping(api, "127.0.9.3").socket)
        until(lambda: post("127.0.9.2").status_code == 503)
        full = post("127.0.9.2")

    assert (own.status_code, own.headers["retry-after"]) == (429, "5")
    assert own.json()["detail"].startswith("2 batches of yours")
    assert other.status_code == 202
    assert (full.status_code, full.headers["retry-after"]) == (503, "5")
    assert full.json()["detail"].startswith("4 batches arrive already")


def test_keys_behind_one_proxy_have_places_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.api.batches._WAIT_SECONDS", 0.2)

    def post(key: str, address: str) -> int:
        headers = {"Content-Type": "text/plain", "X-Forwarded-For": address, **bearer(key)}
        return api.client.post("/batches", content=b"http://a.example/\n", headers=headers).status_code

    with api_with(tmp_path, max_batches_at_once=4) as api, ExitStack() as stack:
        busy, other = make_key(api.store, "busy"), make_key(api.store, "other")
        for _ in range(2):
            stack.enter_context(Dripping(api, "203.0.113.1", key=busy).socket)
        until(lambda: post(busy, "203.0.113.1") == 429)

        assert post(other, "203.0.113.1") == 202
        assert post(busy, "203.0.113.2") == 429


def until(condition: Any) -> None:
    """Ask again until it is so; each request waits by itself."""
    for _ in range(100):
        if condition():
            return
    raise AssertionError("it never was")


def test_slow_batches_of_one_caller_hold_up_nothing_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, kept = threading.Event(), BatchSpool.add_all
    slow = threading.Semaphore(0)

    def wait(spool: BatchSpool, items: Any) -> int:
        if spool.valid == 0 and spool.default_bytes > 2:
            slow.release()
            goes_on.wait(60)
        return kept(spool, items)

    monkeypatch.setattr(BatchSpool, "add_all", wait)
    blocked = {"kind": "check", "defaults": {"timeout_seconds": 5}, "items": [orjson.loads(GOOD)]}
    large = {"kind": "task", "args": {"payload": "x" * 100_000}}
    with api_with(tmp_path) as api, ThreadPoolExecutor(8) as pool:
        batches = [pool.submit(api.client.post, "/batches", json=blocked) for _ in range(8)]
        assert slow.acquire(timeout=30)
        try:
            answers = [
                api.client.get("/metrics", timeout=20),
                api.client.get("/readyz", timeout=20),
                api.client.post("/jobs", json=JOB, timeout=20),
                api.client.post("/jobs", json=large, headers=STRANGER, timeout=20),
                api.client.post(
                    "/batches", json={"kind": "check", "items": [orjson.loads(GOOD)]}, headers=STRANGER
                ),
            ]
        finally:
            goes_on.set()

        assert [answer.status_code for answer in answers] == [200, 200, 202, 202, 202]
        assert [batch.result().status_code for batch in batches] == [202] * 8


def test_there_are_so_many_schedules_and_no_more(database_url: str) -> None:
    body = {"every_seconds": 60, "job": JOB}
    with (
        running_api(Settings(database_url=database_url, max_schedules=3), migrated=False) as api,
        ThreadPoolExecutor(8) as pool,
    ):
        answers = list(pool.map(lambda _: api.client.post("/schedules", json=body), range(8)))
        stored = [answer for answer in answers if answer.status_code == 201]
        refused = next(answer for answer in answers if answer.status_code == 409)
        api.client.delete(f"/schedules/{stored[0].json()['id']}")
        again = api.client.post("/schedules", json=body)

    assert len(stored) == 3
    assert refused.json()["type"] == "urn:retriever:quota-reached"
    assert refused.json()["detail"].startswith("There are 3 schedules, which is the most")
    assert again.status_code == 201


@pytest.mark.parametrize(
    ("fields", "loc", "says"),
    [
        ({"every_seconds": 59}, "/every_seconds", "every 59 s; the shortest period here is 60 s"),
        ({"cron": "* * * * *"}, None, None),
        (
            {"cron": "* * * * *", "items": 601},
            "/cron",
            "every 60 s; the shortest period for 601 jobs a run is 61 s",
        ),
        ({"cron": "*/2 * * * *", "items": 601}, None, None),
        ({"cron": "0,1 0 * * *", "items": 601}, "/cron", "every 60 s"),
    ],
)
def test_a_schedule_runs_as_often_as_the_operator_and_its_jobs_allow(
    tmp_path: Path, fields: dict[str, Any], loc: str | None, says: str | None
) -> None:
    items = [{"url": "http://a.example/"}] * fields.get("items", 1)
    times = {name: value for name, value in fields.items() if name != "items"}
    with api_with(tmp_path, min_schedule_seconds=60, schedule_jobs_per_second=10) as api:
        answer = api.client.post("/schedules", json={**times, "batch": {"kind": "check", "items": items}})

    if loc is None or says is None:
        assert answer.status_code == 201, answer.text
    else:
        assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (400, loc)
        assert says in answer.json()["errors"][0]["msg"]


def test_so_many_operations_run_and_no_more(tmp_path: Path) -> None:
    with api_with(tmp_path, max_operations=1) as api:
        job = make_job()
        api.store.write(submissions.insert_jobs, [job])
        api.store.write(recording.record_reports, [make_report(job.id, JobState.PARKED)], now=NOON)
        body = {"filter": {"older_than_seconds": 0}}
        first = api.client.post("/parked/redrive", json=body)
        refused = api.client.post("/parked/discard", json=body)
        counted = api.client.post("/parked/discard", json={**body, "dry_run": True})
        api.client.post(f"/operations/{first.json()['id']}/cancel")
        again = api.client.post("/parked/discard", json=body)

    assert (first.status_code, refused.status_code, again.status_code) == (202, 409, 202)
    assert refused.json()["type"] == "urn:retriever:quota-reached"
    assert counted.json() == {"matching": 1}
