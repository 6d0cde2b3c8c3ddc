"""Secrets planted in a whole running service: sent where they belong, and found nowhere else."""

import asyncio
import base64
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from standardwebhooks import Webhook

from deploy.local.broker import Broker
from producer.api.contract import load_contract
from producer.store.database import Database
from producer.store.migrate import migrate
from producer.store.schema import metadata
from shared.broker.topology import DEAD, DELAY, JOBS, OUTCOMES, PARKED_QUEUE, RESULTS
from shared.encryption import new_key
from tests.support.client import Client
from tests.support.documents import ROOT
from tests.support.environment import clean_environment
from tests.support.factories import make_webhook_secret
from tests.support.http_servers import RawServer, raw_server
from tests.support.system import LocalSystem, running_system
from tests.support.waiting import eventually

VALUE = "s3cr3t-planted-value"
SIGNING = make_webhook_secret()
KEYS = new_key()
# As they are, in base64 as somebody might have put them, and the key that a signing secret stands for.
PLANTED = [
    VALUE,
    base64.b64encode(VALUE.encode()).decode(),
    base64.b64encode(f"user:{VALUE}".encode()).decode(),
    SIGNING.removeprefix("whsec_"),
]
BODY = f'{{"you_sent": "{VALUE}"}}'
ANSWERS = {
    200: f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}",
    503: "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
}
LATER = {"max_attempts": 3, "first_delay_seconds": 3_000, "factor": 1, "max_delay_seconds": 3_600}


@pytest.fixture
def system(broker: Broker, database_url: str, tmp_path: Path) -> Iterator[LocalSystem]:
    """Yield a service that logs all that it can."""
    settings = {
        "RETRIEVER_LOG_LEVEL": "DEBUG",
        "RETRIEVER_ENCRYPTION_KEYS": KEYS,
        "RETRIEVER_MASK_KEY": new_key(),
    }
    with running_system(
        LocalSystem, broker, database_url, tmp_path, name="planted", settings=settings
    ) as running:
        yield running


@pytest.fixture
async def client(system: LocalSystem) -> AsyncIterator[Client]:
    async with httpx.AsyncClient(base_url=system.api_url, timeout=30.0) as http:
        client = Client(system, http)
        yield client
        client.management.close()


@pytest.fixture
async def target() -> AsyncIterator[RawServer]:
    """Yield a target that says again what it was told."""
    async with raw_server(ANSWERS[200].encode()) as server:
        yield server


@pytest.fixture
async def busy() -> AsyncIterator[RawServer]:
    async with raw_server(ANSWERS[503].encode()) as server:
        yield server


async def submit(client: Client, url: str, secret: str = "crm", **fields: Any) -> str:  # noqa: S107
    password = {"type": "basic", "username": "user", "password": {"secret": secret}}
    args = {"url": url, "headers": {"X-Api-Key": {"secret": secret}}, "auth": password}
    answer = await client.http.post("/jobs", json={"kind": "fetch", "args": args, **fields})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def test_a_planted_secret_is_sent_to_its_origin_and_found_nowhere(
    client: Client, target: RawServer, busy: RawServer, database_url: str, tmp_path: Path
) -> None:
    texts: dict[str, str] = {}
    listeners = [client.management.bind_queue(client.system.vhost, each, "#") for each in EXCHANGES]
    await keep(client, texts, {"name": "crm", "origins": [target.url, busy.url], "value": VALUE})
    signs = {"name": "hooks", "use": "webhook", "origins": [client.system.site_url], "value": SIGNING}
    await keep(client, texts, signs)

    hook = f"{client.system.site_url}/hooks/told"
    done = await submit(client, target.url, callback_url=hook)
    batch = {"kind": "fetch", "items": [{"url": target.url, "headers": {"X-Api-Key": {"secret": "crm"}}}] * 2}
    of_batch = (await client.http.post("/batches", json=batch)).json()["id"]
    delayed = await submit(client, busy.url, retry=LATER)
    elsewhere = await submit(client, client.site("/ok"))
    nobodys = await submit(client, target.url, "none")
    await client.job_in(done, "succeeded")
    await client.finished_batch(of_batch, deadline_seconds=30)
    await client.job_in(delayed, "delayed")
    parked = [await client.job_in(each, "parked") for each in (elsewhere, nobodys)]
    (call,) = await eventually(lambda: client.webhook_calls("told"), deadline_seconds=30)

    sent = [head for head in (*target.heads, *busy.heads) if f"X-Api-Key: {VALUE}" in head]
    assert len(sent) == 4 and sum(PLANTED[2] in head for head in sent) == 2
    assert [job["reason"] for job in parked] == ["secret_elsewhere", "secret_missing"]
    assert Webhook(SIGNING).verify(call["body"], call["headers"])["data"]["job_id"] == done
    texts["webhook"] = json.dumps(call)
    await read_everything(client, texts, {"job_id": done, "batch_id": of_batch})
    messages = all_messages(client, listeners)
    assert {"jobs", JOBS, DELAY, DEAD, RESULTS} <= {each["exchange"] for each in messages} | {"jobs"}
    assert sum('"sealed"' in each["payload"] for each in messages) >= 4
    texts |= {f"message {number}": json.dumps(each) for number, each in enumerate(messages)}
    texts |= logs(tmp_path) | stored(database_url)

    assert len(texts) > 40
    found = {what: mark for what, text in texts.items() for mark in PLANTED if mark in text}
    assert found == {}


async def test_what_a_job_says_itself_is_hidden_in_the_parking_queue_and_not_lost(
    client: Client, busy: RawServer, database_url: str, tmp_path: Path
) -> None:
    url = busy.url.replace("://", f"://user:{VALUE}@")
    args = {"url": url, "method": "POST", "json": {"api_key": VALUE}, "headers": {"X-Api-Key": VALUE}}
    job = {"kind": "fetch", "args": args, "retry": {"max_attempts": 1}}
    job_id = (await client.http.post("/jobs", json=job)).json()["id"]
    shown = (await client.job_in(job_id, "parked"))["args"]

    parked = await eventually(lambda: _parked(client, run=1), deadline_seconds=30)
    await client.http.post(f"/jobs/{job_id}/redrive")
    await eventually(lambda: _is_in_run(client, job_id, 2), deadline_seconds=30)
    # The one before is swept away.
    again = await eventually(lambda: _parked(client, run=2), deadline_seconds=30)

    assert parked["args"] == again["args"] == shown
    assert not any(mark in json.dumps([parked, again]) for mark in PLANTED)
    assert len(busy.heads) == 2 and all(VALUE in head for head in busy.heads)
    # The store is lost, for good.
    new_store = f"sqlite:///{tmp_path / 'anew.db'}"
    migrate(new_store)
    without = await asyncio.to_thread(adopt, client, new_store, None)
    nothing = jobs_in(new_store)
    adopted = await asyncio.to_thread(adopt, client, new_store, KEYS)

    assert without[0] == 2 and "set RETRIEVER_ENCRYPTION_KEYS_FILE, and run this again" in without[1]
    assert nothing == []
    assert adopted == (0, "adopted: 1 jobs of 1 parked messages\n")
    assert jobs_in(new_store) == [{**args, "url": url}]


async def _parked(client: Client, *, run: int) -> dict[str, Any] | None:
    found = [
        json.loads(each["payload"]) for each in client.management.messages(client.system.vhost, PARKED_QUEUE)
    ]
    return dict(found[0]) if [each["run"] for each in found] == [run] else None


async def _is_in_run(client: Client, job_id: str, run: int) -> bool:
    job = await client.job(job_id)
    return (job["run"], job["state"]) == (run, "parked")


def adopt(client: Client, database_url: str, keys: str | None) -> tuple[int, str]:
    environment = clean_environment() | {
        "RETRIEVER_AMQP_URL": client.system.amqp_url,
        "RETRIEVER_DATABASE_URL": database_url,
        **({} if keys is None else {"RETRIEVER_ENCRYPTION_KEYS": keys}),
    }
    command = [sys.executable, "-m", "producer", "adopt-parked"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout if done.returncode == 0 else done.stdout + done.stderr


def jobs_in(database_url: str) -> list[Any]:
    store = Database.open(database_url)
    try:
        with store.reading() as connection:
            return list(connection.scalars(sa.select(metadata.tables["jobs"].c.args)).all())
    finally:
        store.close()


EXCHANGES = (JOBS, DELAY, DEAD, RESULTS, OUTCOMES)


async def keep(client: Client, texts: dict[str, str], secret: dict[str, Any]) -> None:
    answer = await client.http.post("/secrets", json=secret)
    assert answer.status_code == 201, answer.text
    texts[f"POST /secrets {secret['name']}"] = answer.text
    path = answer.headers["location"]
    for each in (path, "/secrets"):
        texts[f"GET {each}"] = (await client.http.get(each)).text


async def read_everything(client: Client, texts: dict[str, str], ids: dict[str, str]) -> None:
    """Read every GET operation of the contract whose ids there are, each export in each format."""
    for pattern, operations in load_contract()["paths"].items():
        path = re.sub(r"\{(\w+)\}", lambda found: ids.get(found[1], found[0]), pattern)
        if path == "/events":
            texts[f"GET {path}"] = await client.first_events()
        elif "get" in operations and "{" not in path:
            queries = (
                [f"?format={each}" for each in ("csv", "ndjson", "junit")] if "/results" in path else [""]
            )
            for query in queries:
                texts[f"GET {path}{query}"] = (await client.http.get(f"{path}{query}")).text


def all_messages(client: Client, listeners: list[str]) -> list[dict[str, Any]]:
    vhost = client.system.vhost
    names = {each["name"] for each in client.management.queues(vhost) if each["type"] != "stream"}
    assert {PARKED_QUEUE, *listeners} <= names
    found = [message for name in sorted(names) for message in client.management.messages(vhost, name)]
    for each in found:
        if each["payload_encoding"] == "base64":
            each["payload"] = base64.b64decode(each["payload"]).decode(errors="replace")
    return found


def logs(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(errors="replace") for path in folder.glob("*.log")}


def stored(database_url: str) -> dict[str, str]:
    """Return all rows, and of SQLite the files too."""
    store = Database.open(database_url)
    try:
        with store.reading() as connection:
            tables = {
                table.name: repr([tuple(row) for row in connection.execute(sa.select(table))])
                for table in metadata.sorted_tables
            }
    finally:
        store.close()
    assert "crm" in tables["secrets"] and "crm" in tables["jobs"]
    files = Path(database_url.removeprefix("sqlite:///"))
    raw = {path.name: path.read_bytes().decode("latin-1") for path in files.parent.glob(f"{files.name}*")}
    return {f"table {name}": text for name, text in tables.items()} | raw
