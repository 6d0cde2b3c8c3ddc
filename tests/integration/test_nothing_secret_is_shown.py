"""A password in every place that takes one, and nothing that the service shows has it."""

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.local.broker import Broker
from producer.api.contract import load_contract
from producer.dashboard.drawing import NAVIGATION
from producer.dashboard.mount import PREFIX
from shared.broker.topology import JOBS, PARKED_QUEUE
from shared.identity import new_id
from shared.messages import RAW_TYPE
from tests.support.client import Client
from tests.support.keys import bearer
from tests.support.system import LocalSystem, running_system
from tests.support.waiting import eventually

MARK = "s3cr3tmarked"
PASSWORD = f"p4ss-{MARK}"
MASK_KEY = bytes(range(32))
RAW = "a\n12:00:00 ERROR \x1b[2J\x9b1m\u2028\u202e"
ONCE = {"max_attempts": 1}
EXPORTS = [
    {"format": format_, **more}
    for format_ in ("ndjson", "csv", "junit")
    for more in ({}, {"state": "rejected"}, {"state": "parked"})
]


@pytest.fixture
def system(broker: Broker, tmp_path: Path) -> Iterator[LocalSystem]:
    """Yield a service that logs all that it can."""
    settings = {
        "RETRIEVER_LOG_LEVEL": "DEBUG",
        "RETRIEVER_LOG_FORMAT": "console",
        "RETRIEVER_ENCRYPTION_KEYS": base64.b64encode(bytes(32)).decode(),
        "RETRIEVER_MASK_KEY": base64.b64encode(MASK_KEY).decode(),
    }
    database_url = f"sqlite:///{tmp_path / 'retriever.db'}"
    with running_system(
        LocalSystem, broker, database_url, tmp_path, name="secrets", settings=settings
    ) as running:
        yield running


@pytest.fixture
async def client(system: LocalSystem) -> AsyncIterator[Client]:
    async with httpx.AsyncClient(base_url=system.api_url, timeout=30.0) as http:
        client = Client(system, http)
        yield client
        client.management.close()


class Shown:
    """What the service has shown so far, by what it was."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.texts: dict[str, str] = {}
        self.ids: dict[str, list[str]] = {}

    async def post(self, path: str, *, status: int, name: str | None = None, **more: Any) -> dict[str, Any]:
        answer = await self.client.http.post(path, **more)
        assert answer.status_code == status, answer.text
        self.add(f"POST {path} {len(self.texts)}", answer)
        document = dict(answer.json())
        if name:
            self.ids.setdefault(name, []).append(document["id"])
        return document

    def add(self, what: str, answer: httpx.Response) -> None:
        self.texts[what] = f"{answer.headers}\n{answer.text}"

    def with_secrets(self) -> list[str]:
        """Return what has the password, with a little of what is around it."""
        return [
            f"{what}: ...{text[max(0, text.index(MARK) - 200) : text.index(MARK) + 50]}"
            for what, text in self.texts.items()
            if MARK in text
        ]


async def test_a_password_is_shown_nowhere(client: Client, tmp_path: Path) -> None:
    shown, system = Shown(client), client.system
    site = system.site_url.replace("://", f"://user:{PASSWORD}@")
    hook = f"{system.site_url}/hooks/told"

    await _submit_jobs(shown, site, hook)
    await _submit_batches(shown, site, hook)
    await _submit_schedules(shown, site)
    await _submit_tasks(shown, site, hook)
    await _send_what_is_refused(shown, site)
    _publish_as_a_stranger(client, site)
    await eventually(lambda: _all_ended(client), deadline_seconds=60)
    await _redrive(shown, site)
    await eventually(lambda: _all_ended(client), deadline_seconds=60)
    await _read_everything(shown)
    calls = await eventually(lambda: client.webhook_calls("told"), deadline_seconds=30)
    shown.texts["webhooks"] = json.dumps(calls)
    logs = _logs(tmp_path)
    shown.texts |= logs
    for message in client.management.messages(system.vhost, PARKED_QUEUE):
        shown.texts[f"parked {len(shown.texts)}"] = _beside_arguments(message)

    assert len(shown.texts) > 60
    assert "job_id=" + ascii(RAW)[1:-1] in logs["worker-1.log"] + logs["worker-2.log"]
    assert [line for log in logs.values() for line in log.split("\n") if not line.isprintable()] == []
    assert not shown.with_secrets(), "\n".join(shown.with_secrets())
    key, login = _mask(PASSWORD), _mask(f"user:{PASSWORD}")
    for beginning in (
        "GET /jobs/",
        "GET /batches/",
        "GET /schedules/",
        "GET /tasks/",
        "GET /audit",
        "GET /dashboard/jobs/",
    ):
        assert any(key in text for what, text in shown.texts.items() if what.startswith(beginning)), beginning
    digests = [
        json.loads(text.split("\n", 1)[1])["digest"]
        for what, text in shown.texts.items()
        if "GET /secrets/" in what
    ]
    assert digests == [key.removeprefix("***")]
    for beginning in ("GET /jobs ", "webhooks", "POST /jobs"):
        assert any(login in text for what, text in shown.texts.items() if what.startswith(beginning)), (
            beginning
        )
    for export in ("ndjson", "csv", "junit"):
        assert any(login in text for what, text in shown.texts.items() if f"'{export}'" in what), export


def _mask(value: str) -> str:
    """Return what stands for a value in all that is shown."""
    return f"***{hashlib.blake2b(value.encode(), key=MASK_KEY, digest_size=3).hexdigest()}"


async def _submit_jobs(shown: Shown, site: str, hook: str) -> None:
    secret_fields = {"headers": {"X-Api-Key": PASSWORD, "Cookie": f"a={PASSWORD}"}}
    for args in (
        {"url": f"{site}/ok", "title": True, **secret_fields},
        {"url": f"{site}/moved"},
        {"url": f"{site}/missing"},
    ):
        more = {"callback_url": hook, "unique_for_seconds": 60}
        first = await shown.post(
            "/jobs", status=202, name="job_id", json={"kind": "check", "args": args, **more}
        )
        again = await shown.post("/jobs", status=200, json={"kind": "check", "args": args, **more})
        assert again["duplicate_of"] == first["id"]
    fetches: list[dict[str, Any]] = [
        {"url": f"{site}/missing"},
        {
            "url": f"{site}/post",
            "method": "POST",
            "json": {"password": PASSWORD, "at": site},
            **secret_fields,
        },
        {"url": f"{site}/api/items", "pages": {"by": "page", "items": "items", "total": "total"}},
        {"url": f"{site}/ok", "if_changed": True},
    ]
    for args in fetches:
        job = {
            "kind": "fetch",
            "args": args,
            "callback_url": hook,
            "retry": ONCE,
        }
        key = {"Idempotency-Key": f"key-{len(shown.texts)}"}
        await shown.post("/jobs", status=202, name="job_id", json=job, headers=key)
        await shown.post("/jobs", status=202, json=job, headers=key)
        await shown.post("/jobs", status=409, json={**job, "labels": {"a": "b"}}, headers=key)
    later = {"kind": "check", "args": {"url": f"{site}/later"}, "delay_seconds": 3_600}
    await shown.post("/jobs", status=202, name="job_id", json=later)
    command = {"argv": ["true", f"{site}/x"], "env": {"API_TOKEN": PASSWORD}}
    waits = {"kind": "command", "args": command, "delay_seconds": 3_600}
    await shown.post("/jobs", status=202, name="job_id", json=waits)


async def _submit_batches(shown: Shown, site: str, hook: str) -> None:
    bad = f"https://user:{PASSWORD} x@[::/"
    lines = (
        f"{site}/ok\n{site}/missing\n{bad}\nuser:{PASSWORD}@host.example/a\nhttps://user:{PASSWORD}@[::/\n"
    )
    csv = f'url,headers\n{site}/ok,\n"{bad}","{{""X-Api-Key"": ""{PASSWORD}""}}"\n'
    ndjson = "\n".join(
        json.dumps(item)
        for item in (
            {"url": f"{site}/ok", "headers": {"X-Api-Key": PASSWORD}},
            {"url": 7, "headers": {"X-Api-Key": PASSWORD}},
            {"url": bad},
        )
    )
    for media_type, body in (("text/plain", lines), ("text/csv", csv), ("application/x-ndjson", ndjson)):
        await shown.post(
            f"/batches?kind=check&callback_url={hook}",
            status=202,
            name="batch_id",
            content=body,
            headers={"Content-Type": media_type},
        )
    items = [
        {"url": f"{site}/ok"},
        {"url": bad},
        {"url": f"{site}/ok", "headers": {"Authorization": PASSWORD}},
    ]
    batch = {"kind": "check", "defaults": {"headers": {"X-Auth-Token": PASSWORD}}, "items": items}
    await shown.post("/batches", status=202, name="batch_id", json=batch)
    await shown.post("/batches", status=422, json={**batch, "strict": True})


async def _submit_schedules(shown: Shown, site: str) -> None:
    args = {"url": f"{site}/ok", "headers": {"X-Api-Key": PASSWORD}}
    for template in (
        {"job": {"kind": "check", "args": args}},
        {"batch": {"kind": "check", "defaults": args, "items": [args]}},
    ):
        made = await shown.post(
            "/schedules", status=201, name="schedule_id", json={"every_seconds": 3_600, **template}
        )
        await shown.post(f"/schedules/{made['id']}/run", status=202)


async def _submit_tasks(shown: Shown, site: str, hook: str) -> None:
    for task in (
        {"queue": "left", "payload": {"url": f"{site}/ok", "password": PASSWORD}},
        {
            "queue": "left",
            "command": {"argv": ["git", "clone", f"{site}/x"], "env": {"DB_PASSWORD": PASSWORD}},
        },
        {"queue": "done", "payload": {"url": f"{site}/ok"}},
        {"queue": "failed", "payload": {"url": f"{site}/ok"}, "retry": ONCE, "callback_url": hook},
    ):
        made = await shown.post("/tasks", status=202, name="task_id", json=task)
        shown.ids["job_id"].append(made["id"])
    # An agent gets what it needs.
    picked = await shown.client.http.post("/tasks/pick", json={"queue": "failed"})
    (lease,) = picked.json()["tasks"]
    assert PASSWORD in lease["payload"]["url"]
    said = {"token": lease["lease"]["token"], "explanation": f"cannot open {site}/ok", "transient": False}
    await shown.post(f"/tasks/{lease['id']}/fail", status=200, json=said)


async def _send_what_is_refused(shown: Shown, site: str) -> None:
    url = f"https://user:{PASSWORD}@host.example/"
    for body in (
        {"kind": "check", "args": {"url": f"https://user:{PASSWORD}@[::/"}},
        {"kind": "check", "args": {"url": f"user:{PASSWORD}@h.example/"}},
        {"kind": "check", "args": {"url": f"htps://user:{PASSWORD}@h.example/"}},
        {"kind": url, "args": {"url": url}},
        {"kind": "check", "args": {"url": url, url: 1}},
        {"kind": "check", "args": {"url": url, "headers": {"Authorization": PASSWORD}}},
        {"kind": "check", "args": {"url": url}, "callback_url": url},
        {"kind": "check", "args": {"url": url}, url: url},
    ):
        await shown.post("/jobs", status=400, json=body)
    for path in (f"/jobs/{url}", f"/jobs?state={url}", f"/jobs?{url}=1", f"/jobs?label={url}", f"/{url}"):
        shown.add(f"GET {path}".replace(PASSWORD, ""), await shown.client.http.get(path))
    headers = {"Content-Type": url, "Idempotency-Key": url, "Retriever-Actor": "me"}
    shown.add("POST with headers", await shown.client.http.post("/jobs", content="{}", headers=headers))
    shown.add("method", await shown.client.http.request("BREW", f"/jobs?x={url}"))


def _publish_as_a_stranger(client: Client, site: str) -> None:
    url = f"{site}/missing"
    for payload in (
        {"id": str(new_id()), "kind": "check", "args": {"url": url, "headers": {"X-Api-Key": PASSWORD}}},
        {"id": str(new_id()), "kind": "check", "args": {"url": url, "nonsense": url}},
        {"id": str(new_id()), "kind": "fetch", "args": {"url": url}, "retry": ONCE},
    ):
        key = f"{payload['kind']}.interactive"
        client.management.publish(client.system.vhost, JOBS, key, json.dumps(payload))
    # What nobody can read is known by what its sender calls it.
    unreadable = json.dumps({"id": url, url: url, "args": {url: f"{url}\x1b[2J"}})
    client.management.publish(client.system.vhost, JOBS, "check.interactive", unreadable, correlation_id=RAW)


async def _all_ended(client: Client) -> bool:
    """Return whether no job is under way but those that wait for their time, or for an agent."""
    for state in ("accepted", "queued", "running", "delayed"):
        found = (await client.http.get("/jobs", params={"state": state, "limit": 100})).json()["items"]
        if any(job["kind"] != "task" for job in found):
            return False
    return True


async def _redrive(shown: Shown, site: str) -> None:
    found = (await shown.client.http.get("/jobs", params={"state": "parked", "limit": 100})).json()["items"]
    fetches = [job for job in found if job["kind"] == "fetch"]
    assert len(fetches) > 1
    edited = {"args": {"url": f"{site}/missing", "headers": {"X-Api-Key": PASSWORD}}}
    await shown.post(f"/jobs/{fetches[0]['id']}/redrive", status=202, json=edited)
    # What was read comes back with its mask, and is refused.
    await shown.post(f"/jobs/{fetches[1]['id']}/redrive", status=400, json={"args": fetches[1]["args"]})
    await shown.post("/parked/redrive", status=202, name="operation_id", json={"filter": {"kind": "fetch"}})
    shown.ids["job_id"] += [job["id"] for job in found]


async def _read_everything(shown: Shown) -> None:
    """Read every GET operation of the contract, for everything that there is."""
    found = (await shown.client.http.get("/batches", params={"limit": 100})).json()["items"]
    shown.ids["batch_id"] += [batch["id"] for batch in found]
    secret = {"name": "crm", "origins": ["https://crm.example"], "value": PASSWORD}
    await shown.post("/secrets", status=201, name="secret_id", json=secret)
    # From then on the API asks for one.
    asked = {"name": "reader", "scopes": ["jobs:read", "keys:admin", "secrets:admin"]}
    made = (await shown.client.http.post("/keys", json=asked)).json()
    shown.ids |= {"key_id": [made["id"]], "project": ["default"], "host": ["example.com"]}
    shown.client.http.headers.update(bearer(made["key"]))
    for path, operations in load_contract()["paths"].items():
        if "get" not in operations:
            continue
        if path == "/events":
            # It has no end.
            shown.texts[f"GET {path}"] = await shown.client.first_events()
            continue
        name = next((name for name in shown.ids if f"{{{name}}}" in path), None)
        places = [path.replace(f"{{{name}}}", each) for each in set(shown.ids[name])] if name else [path]
        queries = EXPORTS if path.endswith("/results") else [{}]
        for place, query in product(places, queries):
            assert "{" not in place
            shown.add(f"GET {place} {query}", await shown.client.http.get(place, params=query))
    pages = [name for _, name, _ in NAVIGATION if "hosts" not in name]
    pages += [f"{PREFIX}jobs/{each}" for each in set(shown.ids["job_id"])]
    pages += [f"{PREFIX}batches/{each}" for each in set(shown.ids["batch_id"])]
    for page in pages:
        answer = await shown.client.http.get(page)
        assert answer.status_code == 200, page
        shown.add(f"GET {page}", answer)


def _logs(folder: Path) -> dict[str, str]:
    return {log.name: log.read_text(errors="replace") for log in folder.glob("*.log")}


def _beside_arguments(message: dict[str, Any]) -> str:
    """Return a parked message without its arguments, which a redrive and `adopt-parked` need as they are."""
    payload = json.loads(message["payload"])
    if message["properties"]["type"] == RAW_TYPE:
        # One that could not be read stays as it came, byte for byte.
        return json.dumps(message["properties"]["headers"])
    payload.pop("args")
    return json.dumps({**message, "payload": payload})
