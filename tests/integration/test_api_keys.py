"""Keys over HTTP and on the command line, on both stores: make, use, list, rotate, revoke."""

import asyncio
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from deploy.local.ports import free_port
from producer.api.key_ring import KeyRing
from producer.callers import Scope
from producer.keys import start_of
from producer.store.database import Database, Store
from producer.store.keys import known_keys
from shared.clock import utc_now
from shared.settings import Settings
from tests.support.api import RunningApi, running_api
from tests.support.environment import clean_environment
from tests.support.keys import bearer, make_key
from tests.support.waiting import eventually

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
JOB = {"kind": "check", "args": {"url": "https://example.com/"}}


@pytest.fixture
def api(database_url: str) -> Iterator[RunningApi]:
    """Serve a store of its own: once it has a key, the API asks everybody for one."""
    with running_api(Settings(database_url=database_url), migrated=False) as running:
        yield running


def create(api: RunningApi, text: str | None = None, **fields: Any) -> httpx.Response:
    asked = {"name": "ci", "scopes": ["jobs:read", "jobs:write"], **fields}
    return api.client.post("/keys", json=asked, headers=bearer(text) if text else {})


def is_let_in(api: RunningApi, text: str) -> bool:
    return api.client.get("/jobs", headers=bearer(text)).status_code == 200


def test_nobody_needs_a_key_on_loopback_until_the_first_is_made(api: RunningApi) -> None:
    before = api.client.post("/jobs", json=JOB)
    made = create(api)
    after = api.client.post("/jobs", json=JOB)
    with_key = api.client.post("/jobs", json=JOB, headers=bearer(made.json()["key"]))

    assert [answer.status_code for answer in (before, made, after, with_key)] == [202, 201, 401, 202]
    assert after.headers["www-authenticate"] == 'Bearer realm="retriever"'
    assert after.headers["content-type"] == "application/problem+json"
    assert made.headers["cache-control"] == "no-store"


def test_the_text_of_a_key_is_shown_once_and_its_use_is_noted(api: RunningApi) -> None:
    made = create(api, scopes=[scope.value for scope in Scope], expires_in_seconds=3_600).json()
    text = made.pop("key")
    headers = bearer(text)

    (listed,) = api.client.get("/keys", headers=headers).json()["items"]
    shown = api.client.get(f"/keys/{made['id']}", headers=headers)

    assert (made["name"], made["project"], made["state"]) == ("ci", None, "live")
    assert made["created_by"] == "anonymous"
    assert made["starts"] == [f"rtv_{start_of(text)}"]
    assert listed | {"last_used_at": None} == made
    assert text not in shown.text

    async def is_noted() -> bool:
        return api.client.get(f"/keys/{made['id']}", headers=headers).json()["last_used_at"] is not None

    asyncio.run(eventually(is_noted, deadline_seconds=20))


def test_a_rotated_key_opens_with_both_texts_and_then_with_the_new_one(api: RunningApi) -> None:
    admin = make_key(api.store, "admin")
    made = create(api, admin).json()
    path = f"/keys/{made['id']}/rotate"

    second = api.client.post(path, headers=bearer(admin)).json()
    assert [is_let_in(api, text) for text in (made["key"], second["key"])] == [True, True]
    assert len(second["starts"]) == 2

    third = api.client.post(path, json={"overlap_seconds": 0}, headers=bearer(admin)).json()
    assert [is_let_in(api, each["key"]) for each in (made, second, third)] == [False, False, True]


def test_a_revoked_key_opens_nothing_and_cannot_be_rotated(api: RunningApi) -> None:
    admin = make_key(api.store, "admin")
    made = create(api, admin).json()

    revoked = [api.client.post(f"/keys/{made['id']}/revoke", headers=bearer(admin)) for _ in range(2)]
    rotated = api.client.post(f"/keys/{made['id']}/rotate", headers=bearer(admin))
    refused = api.client.get("/jobs", headers=bearer(made["key"]))

    assert [answer.json()["state"] for answer in revoked] == ["revoked", "revoked"]
    assert revoked[0].json() == revoked[1].json()
    assert (rotated.status_code, rotated.json()["type"]) == (409, "urn:retriever:key-ended")
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == 'Bearer realm="retriever", error="invalid_token"'
    log = api.client.get("/audit", params={"target": f"key/{made['id']}"}, headers=bearer(admin)).json()[
        "items"
    ]
    assert [(entry["action"], entry["by"]) for entry in log] == [
        ("key_revoked", "key:admin"),
        ("key_created", "key:admin"),
    ]


def test_an_expired_key_opens_nothing(api: RunningApi) -> None:
    old = make_key(api.store, "old", lives=timedelta(hours=1), now=utc_now() - timedelta(hours=2))

    assert not is_let_in(api, old)


def test_a_key_that_another_process_makes_or_revokes_is_known_soon(api: RunningApi) -> None:
    admin = make_key(api.store, "admin")
    assert is_let_in(api, admin)
    with running_api(Settings(database_url=str(api_url(api))), migrated=False) as other:
        made = create(other, admin).json()
        assert is_let_in(api, made["key"])
        other.client.post(f"/keys/{made['id']}/revoke", headers=bearer(admin))

        async def is_out() -> bool:
            return not is_let_in(api, made["key"])

        asyncio.run(eventually(is_out, deadline_seconds=20))


def test_nobody_makes_a_key_that_opens_more_than_their_own(api: RunningApi) -> None:
    docs = make_key(api.store, "docs", [Scope.KEYS_ADMIN, Scope.JOBS_READ], project="docs")

    more = create(api, docs)
    elsewhere = create(api, docs, scopes=["jobs:read"], project="web")
    own = create(api, docs, scopes=["jobs:read"])

    assert (more.status_code, more.json()["errors"]) == (
        400,
        [{"loc": "/scopes/1", "msg": "Your own key does not have jobs:write"}],
    )
    assert (elsewhere.status_code, own.status_code, own.json()["project"]) == (403, 201, "docs")


def test_keys_of_other_projects_are_not_found(api: RunningApi) -> None:
    operator = make_key(api.store, "operator")
    docs = make_key(api.store, "docs", project="docs")
    web = create(api, operator, name="web", project="web").json()

    answers = [
        api.client.get(f"/keys/{web['id']}", headers=bearer(docs)),
        api.client.post(f"/keys/{web['id']}/rotate", headers=bearer(docs)),
        api.client.post(f"/keys/{web['id']}/revoke", headers=bearer(docs)),
    ]
    names = [
        {key["name"] for key in api.client.get("/keys", headers=bearer(text)).json()["items"]}
        for text in (docs, operator)
    ]

    assert [answer.status_code for answer in answers] == [404, 404, 404]
    assert names == [{"docs"}, {"docs", "web", "operator"}]
    assert is_let_in(api, web["key"])


def test_the_name_of_a_key_is_never_given_twice(api: RunningApi) -> None:
    admin = make_key(api.store, "admin")
    made = create(api, admin).json()
    api.client.post(f"/keys/{made['id']}/revoke", headers=bearer(admin))

    again = create(api, admin)

    assert (again.status_code, again.json()["type"]) == (409, "urn:retriever:key-name-taken")


def test_programs_are_run_for_those_alone_who_may(api: RunningApi) -> None:
    writer = make_key(api.store, "writer", [Scope.JOBS_WRITE, Scope.JOBS_OPERATE])
    runner = make_key(api.store, "runner", [Scope.JOBS_WRITE, Scope.COMMANDS_RUN])
    command = {"kind": "command", "args": {"argv": ["true"]}}
    task = {"kind": "task", "args": {"command": {"argv": ["true"]}}}
    asked: list[tuple[str, dict[str, Any]]] = [
        ("/jobs", command),
        ("/jobs", task),
        ("/tasks", {"command": "true"}),
        ("/batches", {"kind": "command", "items": [{"argv": ["true"]}]}),
        ("/batches", {"kind": "task", "items": [{"payload": 1}, {"command": {"argv": ["true"]}}]}),
        ("/schedules", {"every_seconds": 60, "job": command}),
        ("/schedules", {"every_seconds": 60, "batch": {"kind": "task", "items": [task["args"]]}}),
    ]

    refused = [api.client.post(path, json=body, headers=bearer(writer)) for path, body in asked]
    taken = [api.client.post(path, json=body, headers=bearer(runner)) for path, body in asked]
    payload = api.client.post("/tasks", json={"payload": {"any": "thing"}}, headers=bearer(writer))

    assert [(answer.status_code, answer.json()["detail"]) for answer in refused] == [
        (403, "This takes the scope commands:run, which key:writer does not have.")
    ] * len(asked)
    assert {answer.status_code for answer in taken} == {201, 202}
    assert payload.status_code == 202


def api_url(api: RunningApi) -> str:
    return api.store._reader.url.render_as_string(hide_password=False)


def run_keys(database_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = clean_environment() | {"RETRIEVER_DATABASE_URL": database_url}
    return subprocess.run(
        [sys.executable, "-m", "producer", "keys", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def sqlite_url(migrated_file: Path, tmp_path: Path) -> str:
    """Return the address of a store that no API serves: the command line needs none."""
    path = tmp_path / "commanded.db"
    shutil.copyfile(migrated_file, path)
    return f"sqlite:///{path}"


def test_whoever_has_the_database_makes_keys_on_the_command_line(sqlite_url: str, tmp_path: Path) -> None:
    path = tmp_path / "key"

    written = [run_keys(sqlite_url, "create", "first", "--every-scope", "--to", str(path)) for _ in range(2)]
    printed = run_keys(sqlite_url, "create", "reader", "--scope", "jobs:read", "--project", "docs")
    listed = run_keys(sqlite_url, "list")
    rotated = run_keys(sqlite_url, "rotate", "reader", "--overlap-hours", "0")
    revoked = run_keys(sqlite_url, "revoke", "first")

    assert [each.stdout for each in written] == [
        f"{path} has the key first\n",
        f"{path} has a live key: nothing was done\n",
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [line.split("  ")[:3] for line in listed.stdout.splitlines()] == [
        ["reader", "live", "docs"],
        ["first", "live", "*"],
    ]
    assert (rotated.returncode, revoked.returncode) == (0, 0)
    keys = [printed.stdout.strip(), rotated.stdout.strip(), path.read_text().strip()]
    with running_api(Settings(database_url=sqlite_url), migrated=False) as api:
        assert [is_let_in(api, text) for text in keys] == [False, True, False]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["create", "a b", "--every-scope"], "letters, digits and"),
        (["create", "ci"], "Name a --scope at least"),
        (["create", "ci", "--scope", "all"], "Invalid value for '--scope'"),
        (["create", "ci", "--every-scope", "--project", "Docs"], "lower case letters"),
        (
            ["create", "ci", "--every-scope", "--to", "/nonexistent/key"],
            "--to: cannot write /nonexistent/key",
        ),
        (["rotate", "nobody"], "There is no key nobody"),
        (["revoke", "nobody"], "There is no key nobody"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_said_and_makes_no_key(
    sqlite_url: str, arguments: list[str], said: str
) -> None:
    answer = run_keys(sqlite_url, *arguments)

    assert (answer.returncode, said in answer.stderr) == (2, True), answer.stderr
    assert "Traceback" not in answer.stderr
    store = Database.open(sqlite_url)
    try:
        assert store.read(known_keys, now=utc_now()).live == ()
    finally:
        store.close()


def test_an_api_for_other_machines_does_not_start_without_a_key(sqlite_url: str) -> None:
    environment = clean_environment() | {
        "RETRIEVER_DATABASE_URL": sqlite_url,
        "RETRIEVER_API_HOST": "0.0.0.0",
        "RETRIEVER_API_PORT": str(free_port()),
    }
    answer = subprocess.run(
        [sys.executable, "-m", "producer", "api"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert answer.returncode == 2
    assert "python -m producer keys create first --every-scope" in answer.stderr


class _HeldStore(Store):
    """A store whose first answer is held back, as one of a busy machine is."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.has_read, self.may_answer = asyncio.Event(), asyncio.Event()

    async def _call(self, call: Callable[[], T]) -> T:
        answer = await super()._call(call)
        self.has_read.set()
        await self.may_answer.wait()
        return answer


async def test_a_change_is_known_at_once_though_an_older_reading_is_under_way(sqlite_url: str) -> None:
    database = Database.open(sqlite_url)
    store = _HeldStore(database)
    try:
        ring = KeyRing(store)
        older = asyncio.create_task(ring.read())
        await store.has_read.wait()
        text = make_key(database, "new")
        refreshing = asyncio.create_task(ring.refresh())
        await asyncio.sleep(0)
        store.may_answer.set()

        assert await refreshing
        await older
        # Without another look.
        assert ring._known[text[4:12]].caller.actor == "key:new"
    finally:
        store.close()
        database.close()
