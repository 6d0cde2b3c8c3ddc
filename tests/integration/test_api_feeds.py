"""Waiting for ends over HTTP, and the stream of ends: resumed, filtered, closed in time; on both stores."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import pytest

from producer.api import feeds
from producer.store import recording
from shared.clock import utc_now
from shared.settings import Settings
from shared.states import JobState
from tests.support.api import RunningApi, running_api
from tests.support.factories import make_report
from tests.support.keys import bearer, make_key
from tests.support.waiting import eventually

# Far longer than any test: whoever is answered sooner was woken.
LONG = 60


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream; without data it only says where to go on."""

    id: str
    name: str
    data: dict[str, Any] | None


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(20) as pool:
        yield pool


def submit(api: RunningApi, **fields: Any) -> dict[str, Any]:
    document = {"kind": "check", "args": {"url": "https://example.com/"}} | fields
    answer = api.client.post("/jobs", json=document)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def submit_batch(api: RunningApi, size: int = 2, **fields: Any) -> tuple[dict[str, Any], list[str]]:
    items = [{"url": f"https://example.com/{number}"} for number in range(size)]
    answer = api.client.post("/batches", json={"kind": "check", "items": items} | fields)
    assert answer.status_code == 202, answer.text
    batch: dict[str, Any] = answer.json()
    listed = api.client.get("/jobs", params={"batch_id": batch["id"], "limit": 1_000}).json()["items"]
    return batch, [job["id"] for job in reversed(listed)]


def end(api: RunningApi, *ids: str, state: JobState = JobState.SUCCEEDED) -> None:
    reports = [make_report(UUID(each), state) for each in ids]
    api.store.write(recording.record_reports, reports, now=utc_now())


def read_events(lines: Iterator[str]) -> Iterator[Event]:
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = fields.get(name, "") + value.removeprefix(" ")
            continue
        if not fields:
            continue
        data = json.loads(fields["data"]) if "data" in fields else None
        yield Event(fields.get("id", ""), fields.get("event", ""), data)
        fields = {}


def events_of(api: RunningApi, headers: dict[str, str] | None = None, **params: Any) -> list[Event]:
    """Return all that has ended so far, and the last word on where to go on."""
    answer = api.client.get("/events", params={"follow": "false", "after": "0"} | params, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    return list(read_events(iter(answer.text.split("\n"))))


def told(events: list[Event]) -> list[tuple[str, str]]:
    return [(event.name, event.data["id"]) for event in events if event.data is not None]


def waiting(api: RunningApi, threads: ThreadPoolExecutor, path: str) -> "Future[httpx.Response]":
    return threads.submit(api.client.get, path, params={"wait": LONG}, timeout=LONG)


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.PARKED])
def test_who_waits_for_a_job_is_answered_at_its_end(
    api: RunningApi, threads: ThreadPoolExecutor, state: JobState
) -> None:
    job = submit(api)
    answer = waiting(api, threads, f"/jobs/{job['id']}")
    # Whether it waits by now or not: it must not miss the end.
    end(api, job["id"], state=state)

    found = answer.result(20).json()
    assert (found["id"], found["state"]) == (job["id"], state)


def test_a_hundred_wait_at_once_and_each_is_answered_at_the_end_of_its_own(api: RunningApi) -> None:
    batch, ids = submit_batch(api, 100)
    with (
        ThreadPoolExecutor(101) as pool,
        httpx.Client(
            base_url=api.client.base_url, timeout=LONG, limits=httpx.Limits(max_connections=200)
        ) as client,
    ):
        answers = [pool.submit(client.get, f"/jobs/{each}", params={"wait": LONG}) for each in ids]
        whole = pool.submit(client.get, f"/batches/{batch['id']}", params={"wait": LONG})
        end(api, *ids[:50])
        first = [answer.result(20).json() for answer in answers[:50]]
        assert {each["state"] for each in first} == {"succeeded"}
        end(api, *ids[50:])

        assert {answer.result(20).json()["state"] for answer in answers} == {"succeeded"}
        assert whole.result(20).json()["finished_at"] is not None


def test_a_wait_ends_when_its_time_is_over_and_shows_what_there_is(api: RunningApi) -> None:
    job, (batch, _) = submit(api), submit_batch(api)

    assert api.client.get(f"/jobs/{job['id']}", params={"wait": 1}).json()["state"] == "accepted"
    assert api.client.get(f"/batches/{batch['id']}", params={"wait": 1}).json()["finished_at"] is None


def test_what_has_ended_is_not_waited_for(api: RunningApi) -> None:
    batch, ids = submit_batch(api)
    end(api, *ids)

    # The client would give up before.
    job = api.client.get(f"/jobs/{ids[0]}", params={"wait": LONG}, timeout=20)
    assert job.json()["state"] == "succeeded"
    found = api.client.get(f"/batches/{batch['id']}", params={"wait": LONG}, timeout=20)
    assert found.json()["finished_at"] is not None


@pytest.mark.parametrize("path", ["/jobs/{}", "/batches/{}"])
def test_nobody_waits_for_what_is_not_there(api: RunningApi, path: str) -> None:
    unknown = path.format("0199aa3e-7c1b-7d4e-9f00-3b1f6c2a9d10")

    assert api.client.get(unknown, params={"wait": LONG}, timeout=20).status_code == 404


@pytest.mark.parametrize("wait", ["-1", "61", "1.5", "x", ""])
def test_a_wrong_wait_is_refused_by_name(api: RunningApi, wait: str) -> None:
    answer = api.client.get(f"/jobs/{submit(api)['id']}", params={"wait": wait})

    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (400, "/query/wait")


def test_who_waits_and_who_listens_is_let_go_when_the_service_stops(
    database_url: str, threads: ThreadPoolExecutor
) -> None:
    with httpx.Client(timeout=LONG) as client:
        with running_api(Settings(database_url=database_url)) as api:
            url = str(api.client.base_url)
            answer = threads.submit(client.get, f"{url}/jobs/{submit(api)['id']}", params={"wait": LONG})
            stream = threads.submit(client.get, f"{url}/events")
            with api.client.stream("GET", "/events") as other:
                # Those before it are served by now.
                assert next(read_events(other.iter_lines())).id

        assert answer.result(20).json()["state"] == "accepted"
        assert stream.result(20).status_code == 200


def test_ends_are_told_with_their_documents(api: RunningApi) -> None:
    batch, (first, second) = submit_batch(api)
    end(api, first)
    end(api, second, state=JobState.PARKED)

    events = events_of(api)

    assert told(events) == [
        ("job.succeeded", first),
        ("job.parked", second),
        ("batch.completed", batch["id"]),
    ]
    listed = {job["id"]: job for job in api.client.get("/jobs").json()["items"]}
    assert [event.data for event in events if event.name.startswith("job.")] == [
        listed[first],
        listed[second],
    ]
    assert [event.data for event in events if event.name.startswith("batch.")] == [
        api.client.get(f"/batches/{batch['id']}").json() | {"estimated_end_at": None}
    ]


@pytest.mark.parametrize("resume", ["after", "Last-Event-ID"])
def test_a_stream_goes_on_where_the_last_one_broke_off(api: RunningApi, resume: str) -> None:
    _, ids = submit_batch(api, 5)
    end(api, *ids[:3])
    first = events_of(api)
    end(api, *ids[3:])

    def behind(place: str) -> list[Event]:
        if resume == "after":
            return events_of(api, after=place)
        # It goes before what the query says.
        return events_of(api, {"Last-Event-ID": place})

    assert told(behind(first[2].id))[:1] == [("job.succeeded", ids[2])]
    assert [each for _, each in told(behind(first[-1].id))][:2] == ids[3:]
    last = behind(events_of(api)[-1].id)
    assert told(last) == []


def test_a_stream_tells_of_what_ends_while_it_is_read(api: RunningApi) -> None:
    before, job = submit(api), submit(api, labels={"team": "docs"})
    end(api, before["id"])
    with api.client.stream("GET", "/events", timeout=LONG) as answer:
        events = read_events(answer.iter_lines())
        assert next(events).data is None
        end(api, job["id"])

        event = next(each for each in events if each.data)
        assert (event.name, event.data and event.data["id"]) == ("job.succeeded", job["id"])
        other = submit(api)
        end(api, other["id"])
        assert next(each.data for each in events if each.data)["id"] == other["id"]


def test_a_stream_that_has_nothing_to_tell_says_where_to_go_on(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "HEARTBEAT_SECONDS", 0.05)
    with api.client.stream("GET", "/events", timeout=LONG) as answer:
        events = read_events(answer.iter_lines())

        assert [next(events).data for _ in range(3)] == [None] * 3


def test_a_stream_ends_after_its_life(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(feeds, "LIFE_SECONDS", 0.1)

    assert api.client.get("/events", timeout=LONG).status_code == 200


def test_only_what_is_asked_for_is_told(api: RunningApi) -> None:
    batch, ids = submit_batch(api, labels={"team": "docs"})
    alone = submit(api, labels={"team": "web"})["id"]
    end(api, ids[0], alone)
    end(api, ids[1], state=JobState.PARKED)
    whole = ("batch.completed", batch["id"])

    assert told(events_of(api, batch_id=batch["id"])) == [
        ("job.succeeded", ids[0]),
        ("job.parked", ids[1]),
        whole,
    ]
    assert told(events_of(api, label="team:web")) == [("job.succeeded", alone)]
    assert told(events_of(api, kind="fetch")) == []
    assert told(events_of(api, state="parked")) == [("job.parked", ids[1]), whole]


def test_nothing_of_another_project_is_told(module_api: RunningApi) -> None:
    ours, theirs = (bearer(make_key(module_api.store, name, project=name)) for name in ("ours", "theirs"))
    document = {"kind": "check", "items": [{"url": "https://example.com/"}]}
    batch = module_api.client.post("/batches", json=document, headers=theirs).json()
    listed = module_api.client.get("/jobs", params={"batch_id": batch["id"]}, headers=theirs).json()
    end(module_api, listed["items"][0]["id"])

    assert [name for name, _ in told(events_of(module_api, theirs))] == ["job.succeeded", "batch.completed"]
    assert told(events_of(module_api, ours)) == []
    answer = module_api.client.get("/events", params={"batch_id": batch["id"]}, headers=ours)
    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("params", "loc"),
    [
        ({"after": "x"}, "/query/after"),
        ({"state": "running"}, "/query/state"),
        ({"batch_id": "x"}, "/query/batch_id"),
        ({"label": "x"}, "/query/label"),
        ({"follow": "maybe"}, "/query/follow"),
    ],
)
def test_a_wrong_question_is_refused_by_name(api: RunningApi, params: dict[str, str], loc: str) -> None:
    answer = api.client.get("/events", params=params)

    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (400, loc)


def test_there_are_so_many_streams_and_half_of_them_for_one_caller(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = [api.connect() for _ in range(feeds.MOST_STREAMS // 2)]
    try:
        for connection in held:
            connection.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for connection in held:
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
        answer = api.client.get("/events")
        assert answer.status_code == 429
        assert answer.headers["retry-after"]
        assert "streams of yours" in answer.json()["detail"]
    finally:
        for connection in held:
            connection.close()


async def test_places_of_who_left_are_free_again(api: RunningApi) -> None:
    async def is_free() -> bool:
        with api.client.stream("GET", "/events") as answer:
            return answer.status_code == 200

    await eventually(is_free)


def test_a_slow_reader_holds_one_page_and_misses_nothing(api: RunningApi) -> None:
    _, ids = submit_batch(api, 300)
    heard: list[str] = []
    started = threading.Event()
    with api.client.stream("GET", "/events", params={"after": "0"}, timeout=LONG) as answer:
        events = read_events(answer.iter_lines())
        started.set()
        for each in ids:
            end(api, each)
        while len(heard) < len(ids):
            event = next(events)
            if event.name == "job.succeeded" and event.data:
                heard.append(event.data["id"])

    assert heard == ids
