"""The client without a service: what it sends, when it sends it again, and what it makes of answers."""

import asyncio
import base64
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import httpx2
import pytest
import standardwebhooks

import retriever_client
from producer.api.contract import load_contract
from retriever_client import (
    ApiError,
    AsyncRetriever,
    Conflict,
    ConnectionFailed,
    Invalid,
    NotAllowed,
    NotFound,
    Retriever,
    RetrieverError,
    TooManyRequests,
    Unavailable,
    WebhookInvalid,
    _fake_operators,
    models,
    testing,
    webhooks,
)
from retriever_client._core import LONGEST_RETRY_AFTER_SECONDS, pause_seconds, read_retry_after
from retriever_client._sync import resources, transport
from retriever_client.models import Job, read

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = load_contract()["components"]["schemas"]
# The models, and what the contract calls the same.
SHOWN = {
    models.Attempt: "Attempt",
    models.AuditEntry: "AuditEntryDocument",
    models.Batch: "Batch",
    models.Extension: "Extension",
    models.Host: "HostDocument",
    models.HostLimit: "HostLimitDocument",
    models.Job: "Job",
    models.Key: "KeyDocument",
    models.Kind: "KindDocument",
    models.Lease: "LeaseDocument",
    models.LeasedTask: "LeasedTask",
    models.Limit: "LimitDocument",
    models.ProjectLimits: "ProjectLimits",
    models.NewKey: "NewKeyDocument",
    models.NewSecret: "NewSecretDocument",
    models.Operation: "OperationDocument",
    models.Output: "Output",
    models.OutputText: "OutputText",
    models.PageCounts: "PageCounts",
    models.PagedFetch: "PagedFetch",
    models.ParkedGroup: "ParkedGroupDocument",
    models.ParkedGroups: "ParkedGroupList",
    models.Queue: "QueueDocument",
    models.RejectedLine: "RejectedLine",
    models.Rejections: "Rejections",
    models.Retention: "Retention",
    models.Schedule: "Schedule",
    models.ScheduleRun: "LastRun",
    models.Secret: "SecretDocument",
    models.Stats: "Stats",
    models.Task: "Task",
}
# What it is, is said by the name of an event; its document is a job or a batch.
UNSHOWN = {models.Shown, models.Event}
JOB = {
    "id": "0199aa3e-7c1b-7d4e-9f00-3b1f6c2a9d10",
    "kind": "check",
    "args": {"url": "https://example.com/"},
    "lane": "interactive",
    "state": "accepted",
    "run": 1,
    "attempt": 0,
    "host": "example.com",
    "labels": {},
    "project": "default",
    "created_at": "2026-01-02T12:00:00.250000Z",
}
Answer = httpx2.Response | Exception | Callable[[httpx2.Request], httpx2.Response]


class Script:
    """A service that answers as it is told, one request after the other."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[httpx2.Request] = []
        self.bodies: list[bytes] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        self.bodies.append(request.read())
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer(request) if callable(answer) else answer

    def client(self, **settings: Any) -> Retriever:
        http = httpx2.Client(transport=httpx2.MockTransport(self))
        return Retriever("http://service.test", http_client=http, **settings)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return how long was waited; nobody waits."""
    seconds: list[float] = []
    for module in (transport, resources):
        monkeypatch.setattr(module, "sleep", seconds.append)
    return seconds


def ok(document: object = JOB, **more: Any) -> httpx2.Response:
    return httpx2.Response(200, json=document, **more)


def problem(status: int, **headers: str) -> httpx2.Response:
    document = {"type": "urn:x", "title": "No", "status": status, "detail": "It is so.", "errors": []}
    return httpx2.Response(
        status, json=document, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


def test_the_client_for_threads_is_what_is_made_of_that_for_coroutines() -> None:
    made = subprocess.run(
        [sys.executable, "client/make_sync.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (made.returncode, made.stdout) == (0, "")


def imported_by(statement: str) -> set[str]:
    script = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    said = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT / "client/src",
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in said.stdout.split()}


def test_it_imports_nothing_of_the_service_and_nothing_heavy() -> None:
    imported = imported_by("from retriever_client import Retriever, AsyncRetriever, testing, webhooks")

    assert "httpx2" in imported
    assert not imported & {"producer", "consumer", "shared", "pydantic", "click", "rich", "httpx", "aiohttp"}


def test_what_is_not_used_is_not_loaded() -> None:
    assert not imported_by("import retriever_client") & {"httpx2", "asyncio", "dataclasses"}
    assert not imported_by("from retriever_client import Retriever") & {"asyncio", "standardwebhooks"}


def test_everything_that_is_promised_is_there() -> None:
    assert all(getattr(retriever_client, name) is not None for name in retriever_client.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = retriever_client.Nothing


def test_every_model_is_held_against_the_contract() -> None:
    shown = {
        each for each in vars(models).values() if isinstance(each, type) and issubclass(each, models.Shown)
    }

    assert shown == SHOWN.keys() | UNSHOWN


@pytest.mark.parametrize(("model", "name"), SHOWN.items(), ids=lambda each: getattr(each, "__name__", each))
def test_a_model_has_the_fields_of_the_contract(model: type[models.Shown], name: str) -> None:
    properties, hints = SCHEMAS[name]["properties"], get_type_hints(model)
    required = set(SCHEMAS[name].get("required", properties))

    assert {each.name for each in fields(model)} - {"raw"} == set(properties)
    wrong = {
        field: (hints[field], schema)
        for field, schema in properties.items()
        if not is_of(hints[field], schema, may_lack=field not in required)
    }
    assert wrong == {}


def is_of(hint: Any, schema: Mapping[str, Any], *, may_lack: bool = False) -> bool:
    """Return whether a type holds exactly what a schema allows."""
    if hint is Any:
        return "type" not in schema and "$ref" not in schema
    options = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    parts = schema.get("anyOf", schema.get("allOf", ()))
    is_null = schema.get("nullable", False) or any(each.get("enum") == [None] for each in parts)
    (inner,) = (each for each in options if each is not NoneType)
    if is_null != (NoneType in options) and not may_lack:
        return False
    return holds(inner, next((each for each in parts if each.get("enum") != [None]), schema))


def holds(inner: Any, schema: Mapping[str, Any]) -> bool:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return SHOWN[inner] == name if inner in SHOWN else holds(inner, SCHEMAS[name])
    if schema["type"] == "array":
        return get_origin(inner) is tuple and is_of(get_args(inner)[0], schema["items"])
    if schema["type"] == "object":
        return issubclass(get_origin(inner) or type, Mapping)
    plain = {"string": str, "integer": int, "number": float, "boolean": bool}[schema["type"]]
    return inner is (datetime if schema.get("format") == "date-time" else plain)


def public(thing: object) -> dict[str, Callable[..., Any]]:
    return {name: getattr(thing, name) for name in dir(thing) if not name.startswith("_")}


def call(function: Callable[..., Any]) -> None:
    """Call a method with whatever it must have, and read all that it yields."""
    task = read(models.LeasedTask, {"id": "1", "lease": {"token": "t"}})
    needed = [
        each
        for each in inspect.signature(function).parameters.values()
        if each.default is each.empty and each.kind is not each.VAR_KEYWORD
    ]
    values = {"task": task, "action": "cancel", "items": ["u"], "args": {}, "origins": [], "scopes": ["s"]}
    values |= {"concurrency": 1, "limits": {}}
    positional = [values.get(each.name, "1") for each in needed if each.kind is not each.KEYWORD_ONLY]
    named = {each.name: values.get(each.name, "1") for each in needed if each.kind is each.KEYWORD_ONLY}
    answer = function(*positional, **named)
    if isinstance(answer, AbstractContextManager):
        with answer:
            return
    if isinstance(answer, Iterator):
        list(answer)


def test_every_operation_of_the_contract_has_a_method_and_an_answer_in_memory() -> None:
    contract = {
        (method.upper(), re.sub(r"{\w+}", "[^/]+", path)): operation["operationId"]
        for path, operations in load_contract()["paths"].items()
        for method, operation in operations.items()
        if method in {"get", "post", "put", "delete"}
    }
    called: set[str] = set()

    def answer(request: httpx2.Request) -> httpx2.Response:
        told = [
            name
            for (method, path), name in contract.items()
            if method == request.method and re.fullmatch(path, request.url.path)
        ]
        # /tasks/pick has no id.
        called.update(told[:1] if len(told) == 1 else [each for each in told if each == "pick_tasks"])
        assert told, f"{request.method} {request.url.path} is nowhere in the contract."
        ended = {"id": "1", "state": "succeeded", "finished_at": "2026-01-02T12:00:00Z", "matching": 1}
        lists: dict[str, Any] = {"items": [], "next": None, "tasks": [], "status": "ok", "counts": {}}
        if request.url.path == "/events":
            return httpx2.Response(200, text="id: 0\n\n", headers={"Content-Type": "text/event-stream"})
        if request.url.path.endswith(("/results", "/items")):
            return httpx2.Response(200, text="")
        return httpx2.Response(200, json=ended | lists)

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    client = Retriever("http://service.test", http_client=http)
    parts = [each for each in vars(client).values() if isinstance(each, resources.Resource)]
    for part in (client, *parts):
        for name, method in public(part).items():
            if name == "events":
                list(method(follow=False))
            elif name not in {"close", "pages", "request", "url", *vars(client)}:
                call(method)
    client.limits.get("docs")

    assert called == set(contract.values())
    routes = (*testing._ROUTES, *_fake_operators.ROUTES)
    unanswered = [
        name
        for (method, path), name in contract.items()
        if not any(
            method == fake and re.fullmatch(pattern, path.replace("[^/]+", sample))
            for fake, pattern, _ in routes
            for sample in ("0", "pause")
        )
    ]
    assert unanswered == []


def test_a_newer_service_may_say_more_and_an_older_one_less() -> None:
    more = read(Job, {**JOB, "mood": "good", "state": "dreaming", "attempts": [{"number": 1, "run": 1}]})
    less = read(Job, {"id": "1"})

    assert (more.state, more.is_ended, more.raw["mood"]) == ("dreaming", False, "good")
    assert more.attempts[0].started_at is None
    assert (less.id, less.kind, less.attempts) == ("1", None, ())
    assert more.created_at == datetime(2026, 1, 2, 12, 0, 0, 250_000, UTC)
    with pytest.raises(AttributeError):
        more.state = "other"


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_a_request_is_sent_again_under_the_same_key_when_the_service_asks_to_come_back(
    status: int, slept: list[float]
) -> None:
    script = Script(problem(status, Retry_After="7"), httpx2.ReadError("lost"), ok())

    job = script.client().jobs.submit("check", {"url": "https://example.com/"})

    assert job.id == JOB["id"]
    assert len({request.headers["Idempotency-Key"] for request in script.requests}) == 1
    assert len(set(script.bodies)) == 1
    assert 7 <= slept[0] <= 8
    assert len(slept) == 2


def test_each_request_has_a_key_of_its_own() -> None:
    script = Script(ok(), ok())
    client = script.client()
    for _ in range(2):
        client.jobs.submit("check", {"url": "https://example.com/"})

    assert len({request.headers["Idempotency-Key"] for request in script.requests}) == 2


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, Invalid),
        (401, NotAllowed),
        (403, NotAllowed),
        (404, NotFound),
        (409, Conflict),
        (413, Invalid),
        (422, Invalid),
        (500, Unavailable),
    ],
)
def test_a_refusal_is_not_sent_again(status: int, error: type[ApiError], slept: list[float]) -> None:
    script = Script(problem(status))

    with pytest.raises(error, match="It is so") as raised:
        script.client().jobs.get("1")

    assert (raised.value.status, raised.value.problem.type, slept) == (status, "urn:x", [])


def test_who_gets_no_answer_hears_so_after_all_tries(slept: list[float]) -> None:
    script = Script(*[httpx2.ConnectError("refused")] * 4)

    with pytest.raises(ConnectionFailed, match="4 tries: refused"):
        script.client().jobs.get("1")
    assert len(slept) == 3
    with pytest.raises(Unavailable):
        Script(*[problem(503)] * 3).client(retries=2).jobs.get("1")
    with pytest.raises(TooManyRequests):
        Script(problem(429, Retry_After=str(int(LONGEST_RETRY_AFTER_SECONDS) + 1))).client().jobs.get("1")


def test_an_answer_that_is_no_problem_document_is_an_error_all_the_same() -> None:
    with pytest.raises(Unavailable, match="HTTP 500"):
        Script(httpx2.Response(500, text="<html>")).client().jobs.get("1")
    with pytest.raises(Invalid):
        Script(httpx2.Response(400, json=["?"])).client().jobs.get("1")


def test_a_batch_that_is_sent_again_is_the_same_and_its_items_are_read_once(slept: list[float]) -> None:
    batch: dict[str, Any] = {**dict.fromkeys(SCHEMAS["Batch"]["properties"]), "id": "b", "counts": {}}
    script = Script(problem(503), ok(batch))
    read_items: list[int] = []

    def items() -> Iterator[str]:
        for number in range(20_000):
            read_items.append(number)
            yield f"https://example.com/{number}"

    script.client().batches.submit("check", items(), labels={"a": "b"})

    assert len(read_items) == 20_000
    assert script.bodies[0] == script.bodies[1]
    assert len(script.bodies[0].splitlines()) == 20_000
    assert json.loads(script.bodies[0].splitlines()[7]) == {"url": "https://example.com/7"}
    params = dict(script.requests[0].url.params)
    assert params == {"kind": "check", "labels": '{"a": "b"}'}


def test_items_that_fail_send_nothing() -> None:
    script = Script()

    def items() -> Iterator[str]:
        yield "https://example.com/"
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        script.client().batches.submit("check", items())
    assert script.requests == []


def test_a_redrive_whose_answer_was_lost_is_not_an_error(slept: list[float]) -> None:
    script = Script(httpx2.ReadError("lost"), problem(409), ok({**JOB, "run": 2}))

    assert script.client().jobs.redrive("1").run == 2
    with pytest.raises(Conflict):
        Script(problem(409)).client().jobs.redrive("1")


def test_a_deletion_whose_answer_was_lost_is_not_an_error(slept: list[float]) -> None:
    Script(httpx2.ReadError("lost"), problem(404)).client().schedules.delete("1")
    with pytest.raises(NotFound):
        Script(problem(404)).client().schedules.delete("1")


def test_a_stream_of_events_comes_back_behind_the_last_one(slept: list[float]) -> None:
    def event(place: int) -> str:
        return f"id: {place}\nevent: job.succeeded\ndata: {json.dumps(JOB | {'id': str(place)})}\n\n"

    def stream(text: str) -> httpx2.Response:
        return httpx2.Response(200, text=text, headers={"Content-Type": "text/event-stream"})

    script = Script(
        stream("retry: 1\nid: 0\n\n" + event(1)),
        httpx2.ConnectError("refused"),
        stream("id: 1\n\n" + event(2) + "id: 5\n\n"),
        problem(503),
        stream(event(6)),
    )
    events = script.client().events(kind="check")

    assert [next(events).id for _ in range(3)] == ["1", "2", "6"]
    sent = [request.headers.get("Last-Event-ID") for request in script.requests]
    assert sent == [None, "1", "1", "5", "5"]


def test_a_stream_that_keeps_on_comes_back_however_long_the_service_is_away(slept: list[float]) -> None:
    def stream(text: str) -> httpx2.Response:
        return httpx2.Response(200, text=text, headers={"Content-Type": "text/event-stream"})

    event = f"id: 6\nevent: job.succeeded\ndata: {json.dumps(JOB)}\n\n"
    refused = httpx2.ConnectError("refused")
    script = Script(stream("id: 5\n\n"), *[refused] * 40, stream(event))

    assert next(script.client().events(keep_on=True)).id == "6"
    assert script.requests[-1].headers["Last-Event-ID"] == "5"
    with pytest.raises(ConnectionFailed):
        next(Script(stream("id: 5\n\n"), *[refused] * 40).client().events())
    with pytest.raises(ConnectionFailed):
        next(Script(*[refused] * 40).client().events(keep_on=True))


def test_results_as_they_end_are_over_when_the_batch_is_complete() -> None:
    batch: dict[str, Any] = {**dict.fromkeys(SCHEMAS["Batch"]["properties"]), "id": "b", "counts": {}}
    done = batch | {"finished_at": "2026-01-02T12:00:00Z"}

    class Endless(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield b"retry: 1\nid: 0\n\n"
            yield f"id: 1\nevent: job.succeeded\ndata: {json.dumps(JOB)}\n\n".encode()
            yield f"id: 2\nevent: batch.completed\ndata: {json.dumps(done)}\n\n".encode()
            raise AssertionError("It waits for more.")

    late = f"id: 3\nevent: job.parked\ndata: {json.dumps(JOB | {'id': 'late'})}\n\n"
    media_type = {"Content-Type": "text/event-stream"}
    script = Script(
        httpx2.Response(200, stream=Endless(), headers=media_type),
        ok(batch),
        httpx2.Response(200, text=late, headers=media_type),
    )

    found = [job.id for job in script.client().batches.results("b", as_they_end=True)]

    assert found == [JOB["id"], "late"]
    assert [request.url.path for request in script.requests] == ["/events", "/batches/b", "/events"]
    assert script.requests[2].headers["Last-Event-ID"] == "2"
    assert script.requests[2].url.params["follow"] == "false"


def test_results_go_on_where_they_broke_off(slept: list[float]) -> None:
    class Broken(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield lines("1", "2")
            raise httpx2.ReadError("lost")

    def lines(*ids: str) -> bytes:
        return b"".join(json.dumps(JOB | {"id": each}).encode() + b"\n" for each in ids)

    script = Script(httpx2.Response(200, stream=Broken()), httpx2.Response(200, content=lines("1", "2", "3")))

    assert [job.id for job in script.client().batches.results("b")] == ["1", "2", "3"]


def test_lists_are_read_page_by_page_also_where_a_page_is_empty() -> None:
    page = {"items": [JOB], "next": "2"}
    script = Script(ok(page), ok({"items": [], "next": "3"}), ok({"items": [JOB], "next": None}))

    jobs = script.client().jobs.list(labels={"team": "docs", "day": "1"}, page_size=1)

    assert next(jobs).id == JOB["id"]
    assert len(script.requests) == 1
    assert len([*jobs]) == 1
    assert script.requests[0].url.params.get_list("label") == ["team:docs", "day:1"]
    assert [request.url.params.get("cursor") for request in script.requests] == [None, "2", "3"]


def test_a_wait_is_a_long_poll_with_time_for_it() -> None:
    ended = JOB | {"state": "succeeded"}
    script = Script(ok(), ok(), ok(ended))

    assert script.client(timeout_seconds=5).jobs.wait("1").state == "succeeded"
    assert [request.url.params["wait"] for request in script.requests] == ["20"] * 3
    assert script.requests[0].extensions["timeout"]["read"] == 25
    assert script.requests[0].extensions["timeout"]["connect"] == 5


def test_every_request_has_time_limits() -> None:
    script = Script(ok(), ok({"status": "ok"}))
    client = script.client()
    client.jobs.cancel("1")
    client.is_ready()

    for request in script.requests:
        assert None not in request.extensions["timeout"].values()


def test_the_key_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"
    path.write_text("rtv_file\n")
    monkeypatch.setenv("RETRIEVER_KEY", "rtv_environment")

    def sent(**settings: Any) -> str | None:
        script = Script(ok())
        script.client(**settings).jobs.get("1")
        return script.requests[0].headers.get("Authorization")

    assert sent() == "Bearer rtv_environment"
    monkeypatch.setenv("RETRIEVER_KEY_FILE", str(path))
    assert sent() == "Bearer rtv_file"
    assert sent(key="rtv_given") == "Bearer rtv_given"
    assert sent(key="") is None
    monkeypatch.setenv("RETRIEVER_KEY_FILE", str(tmp_path / "missing"))
    with pytest.raises(RetrieverError, match="RETRIEVER_KEY_FILE"):
        Retriever()


def test_the_actor_is_a_note_on_what_changes_something() -> None:
    script = Script(ok(), ok())
    client = script.client(actor="ann")
    client.jobs.cancel("1")
    client.jobs.get("1")

    assert [request.headers.get("Retriever-Actor") for request in script.requests] == ["ann", None]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("soon", None),
        ("-3", None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("٣", 3.0),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_time(text: str | None, seconds: float | None) -> None:
    assert read_retry_after(text) == seconds


def test_pauses_double_with_full_jitter_up_to_a_limit() -> None:
    for tries in range(1, 12):
        assert 0 <= pause_seconds(tries, None) <= min(20, 0.5 * 2**tries)


async def test_the_client_for_coroutines_sends_again_too(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Answer] = [problem(503), ok()]
    keys: list[str] = []

    async def answer(request: httpx2.Request) -> httpx2.Response:
        keys.append(request.headers["Idempotency-Key"])
        found = answers.pop(0)
        assert isinstance(found, httpx2.Response)
        return found

    async def no_sleep(_seconds: float) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr("retriever_client._async.transport.sleep_async", no_sleep)
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http:
        client = AsyncRetriever("http://service.test", http_client=http)
        assert (await client.jobs.submit("check", {"url": "https://example.com/"})).id == JOB["id"]

    assert len(keys) == 2
    assert len(set(keys)) == 1


SECRETS = [f"whsec_{base64.b64encode(bytes([n]) * 24).decode()}" for n in (1, 2)]
BODY = json.dumps({"type": "job.parked", "timestamp": "2026-01-02T12:00:00Z", "data": {"job_id": "1"}})


def signed(secret: str, body: str = BODY, at: datetime | None = None) -> dict[str, str]:
    at = at or datetime.now(UTC)
    signature = standardwebhooks.Webhook(secret).sign("msg_1", at, body)
    return {
        "Webhook-Id": "msg_1",
        "Webhook-Timestamp": str(int(at.timestamp())),
        "Webhook-Signature": signature,
    }


@pytest.mark.parametrize("secret", SECRETS)
def test_a_webhook_signed_with_one_of_the_secrets_is_read(secret: str) -> None:
    webhook = webhooks.unwrap(BODY.encode(), signed(secret), SECRETS)

    assert (webhook.id, webhook.type, webhook.data) == ("msg_1", "job.parked", {"job_id": "1"})
    assert webhook.timestamp == datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("body", "headers", "secrets"),
    [
        (BODY + " ", signed(SECRETS[0]), SECRETS),
        (BODY, signed(SECRETS[0]), SECRETS[1]),
        (BODY, signed(SECRETS[0], at=datetime(2026, 1, 2, tzinfo=UTC)), SECRETS),
        (BODY, {}, SECRETS),
        (BODY, signed(SECRETS[0]), []),
        (BODY, signed(SECRETS[0]), "no secret"),
        ("[]", signed(SECRETS[0], "[]"), SECRETS),
    ],
)
def test_a_webhook_that_cannot_be_trusted_is_refused(
    body: str, headers: dict[str, str], secrets: list[str] | str
) -> None:
    with pytest.raises(WebhookInvalid):
        webhooks.unwrap(body, headers, secrets)
