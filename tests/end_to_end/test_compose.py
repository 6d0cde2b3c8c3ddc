"""What only the compose stack has: services that run programs, shut in, and the commands of `make` for it."""

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.compose import ComposeSystem
from tests.support.documents import ROOT

# Says of each address whether it takes a connection.
PROBE = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def is_open(address):
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError:
        return False
    return True
# A name that nobody knows takes ten seconds.
with ThreadPoolExecutor(20) as pool:
    answers = zip(sys.argv[1:], pool.map(is_open, sys.argv[1:]))
    print(json.dumps([address for address, answer in answers if answer]))
"""
# Says who may read the keys of secrets.
SHOWN_MODES = """
import json, os, stat
files = ("/run/secrets/encryption/keys", "/run/secrets/mask/key")
print(json.dumps({each: oct(stat.S_IMODE(os.stat(each).st_mode)) for each in files}))
"""
# Says which role of the database a service is, and whether that is a superuser.
WHO_AM_I = """
import pathlib, sqlalchemy as sa
url = pathlib.Path("/run/secrets/database/url").read_text().strip()
query = "SELECT current_user, rolsuper FROM pg_roles WHERE rolname = current_user"
print(*sa.create_engine(url).connect().exec_driver_sql(query).one())
"""
# By address and by name.
INTERNET = ("1.1.1.1:443", "8.8.8.8:53", "example.com:443")
ADDRESSES = (
    *("rabbitmq:5672", "postgres:5432", "target:8099", "ledger:9100"),
    *("public-api:8080", "agent-api:8080", "agent-api:8081"),
    *INTERNET,
)
SMALL_STACK = """
services:
  sleeper:
    image: retriever:local
    command: ["sleep", "600"]
    stop_grace_period: 0s
    volumes: ["kept:/tmp/kept"]
  agent:
    image: retriever:local
    command: ["sleep", "600"]
    stop_grace_period: 0s
    profiles: [agents]
volumes:
  kept:
"""


@pytest.fixture(scope="module")
def stack(system: ComposeSystem) -> Iterator[ComposeSystem]:
    """Yield the stack with a service for commands and three agents."""
    with system.executor(), system.three_agents():
        yield system


@pytest.fixture
def small_stack(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Yield the environment that leads `make` to a stack of its own, which is removed afterwards."""
    (tmp_path / "compose.yml").write_text(SMALL_STACK)
    environment = {
        **os.environ,
        "COMPOSE_PROJECT_NAME": f"retriever-{uuid.uuid4().hex[:8]}",
        "COMPOSE_FILE": str(tmp_path / "compose.yml"),
    }
    docker(["compose", "--profile", "agents", "up", "--detach"], environment)
    yield environment
    docker(["compose", "--profile", "agents", "down", "--volumes"], environment)


@pytest.mark.parametrize(
    ("service", "reached"),
    [
        ("executor", ["rabbitmq:5672"]),
        ("agent", ["agent-api:8081"]),
        # Where this machine has no way to the internet, `target` stands for the world.
        ("worker", ["rabbitmq:5672", "target:8099"]),
        ("ledger", ["rabbitmq:5672", "postgres:5432"]),
        ("api", ["postgres:5432", "public-api:8080", "agent-api:8081"]),
    ],
)
def test_each_service_reaches_what_it_needs_and_nothing_else(
    stack: ComposeSystem, service: str, reached: list[str]
) -> None:
    found = json.loads(stack.execute(service, "python", "-c", PROBE, *ADDRESSES))
    # A port is published on a network that leads out, so the API is on one, too.
    leads_out = service in {"worker", "api"}
    assert [address for address in found if not (leads_out and address in INTERNET)] == reached


@pytest.mark.parametrize("service", ["api", "ledger", "worker", "rabbitmq", "postgres"])
def test_every_service_has_limits(stack: ComposeSystem, service: str) -> None:
    limits: dict[str, Any] = stack.inspect(service)["HostConfig"]

    assert 0 < limits["PidsLimit"] <= 1_024 and 0 < limits["Memory"] <= 4 * 2**30
    assert "no-new-privileges:true" in limits["SecurityOpt"]


@pytest.mark.parametrize(
    ("service", "secrets"),
    [
        ("api", ["database", "encryption", "mask"]),
        ("ledger", ["amqp", "database", "management", "mask"]),
        ("worker", ["amqp", "encryption", "mask", "webhook"]),
        ("rabbitmq", ["broker"]),
        ("postgres", ["database"]),
    ],
)
def test_each_service_is_given_its_own_secrets_and_no_other(
    stack: ComposeSystem, service: str, secrets: list[str]
) -> None:
    mounts = [mount["Destination"] for mount in stack.inspect(service)["Mounts"]]

    assert sorted(mount for mount in mounts if mount.startswith("/run/")) == [
        f"/run/secrets/{name}" for name in secrets
    ]


def test_api_and_ledger_are_no_superusers_of_the_database(stack: ComposeSystem) -> None:
    assert stack.execute("api", "python", "-c", WHO_AM_I).split() == ["retriever_api", "False"]
    assert stack.execute("ledger", "python", "-c", WHO_AM_I).split() == ["retriever_ledger", "False"]


@pytest.mark.parametrize("service", ["executor", "agent"])
def test_what_runs_programs_is_shut_in(stack: ComposeSystem, service: str) -> None:
    told = stack.inspect(service)
    limits: dict[str, Any] = told["HostConfig"]

    assert told["Config"]["User"] == "10001:10001"
    assert limits["ReadonlyRootfs"] and limits["CapDrop"] == ["ALL"] and not limits["CapAdd"]
    assert "no-new-privileges:true" in limits["SecurityOpt"]
    assert 0 < limits["PidsLimit"] <= 256 and 0 < limits["Memory"] <= 2**30
    secret = "amqp" if service == "executor" else "agent-key"
    assert [mount["Destination"] for mount in told["Mounts"]] == [f"/run/secrets/{secret}"]
    assert [word for word in told["Config"]["Env"] if "://" in word] == []


async def test_a_command_runs_and_finds_no_secret(client: Client, stack: ComposeSystem) -> None:
    async def run(*argv: str) -> tuple[str, str, str]:
        submission = {"kind": "command", "args": {"argv": list(argv)}}
        answer = await client.http.post("/jobs", json=submission)
        assert answer.status_code == 202, answer.text
        done = await client.job_in(answer.json()["id"], "succeeded", "parked")
        result = done["result"]
        return done["state"], result["stdout"]["text"], result["stderr"]["text"]

    assert stack.execute("executor", "cat", "/run/secrets/amqp/url").startswith("amqp://")
    assert await run("printf", "hi") == ("succeeded", "hi", "")
    state, printed, complaint = await run("cat", "/run/secrets/amqp/url", "/proc/1/environ")
    assert (state, printed) == ("parked", "")
    assert complaint.count("Permission denied") == 2


async def test_a_task_does_not_find_the_key_that_picked_it(client: Client, stack: ComposeSystem) -> None:
    key = stack.execute("agent", "cat", "/run/secrets/agent-key/key")
    answer = await client.http.post("/tasks", json={"command": ["cat", "/run/secrets/agent-key/key"]})
    done = await client.job_in(answer.json()["id"], "succeeded", "parked")
    output = (await client.http.get(f"/tasks/{done['id']}")).json()

    assert key.startswith("rtv_")
    assert (done["state"], output["stdout"]["text"]) == ("parked", "")
    assert "Permission denied" in output["stderr"]["text"]


async def test_the_key_of_the_agents_picks_tasks_and_does_nothing_else(
    client: Client, stack: ComposeSystem
) -> None:
    headers = {
        "Authorization": f"Bearer {stack.execute('agent', 'cat', '/run/secrets/agent-key/key').strip()}"
    }

    answers = [await client.http.get(path, headers=headers) for path in ("/jobs", "/tasks", "/keys")]

    assert [answer.status_code for answer in answers] == [403, 403, 403]


async def test_a_pick_on_the_public_port_is_told_where_it_belongs(client: Client) -> None:
    answer = await client.http.post("/tasks/pick", json={"queue": "default", "agent": "stranger"})

    assert answer.status_code == 404
    assert "port 8081" in answer.json()["detail"]


def test_make_scales_workers_and_agents(stack: ComposeSystem) -> None:
    before = stack.count("worker"), stack.count("agent")
    stack.make("scale-workers", "num=3")
    stack.make("scale-agents", "num=1")
    scaled = stack.count("worker"), stack.count("agent")

    stack.make("scale-workers", "num=2")
    stack.make("scale-agents", "num=0")

    assert (before, scaled) == ((2, 3), (3, 1))
    assert (stack.count("worker"), stack.count("agent")) == (2, 0)


def test_down_keeps_the_data_and_down_prune_db_removes_them(small_stack: dict[str, str]) -> None:
    volume = f"{small_stack['COMPOSE_PROJECT_NAME']}_kept"
    running = docker(["compose", "--profile", "agents", "ps", "--quiet"], small_stack).split()

    make("down", small_stack)
    left = docker(["compose", "--profile", "agents", "ps", "--all", "--quiet"], small_stack)
    kept = docker(["volume", "ls", "--quiet", "--filter", f"name={volume}"], small_stack)
    said = make("down-prune-db", small_stack)
    gone = docker(["volume", "ls", "--quiet", "--filter", f"name={volume}"], small_stack)

    assert (len(running), left, kept.strip(), gone) == (2, "", volume, "")
    assert f"Volume {volume}  Removed" in said


def make(target: str, environment: dict[str, str]) -> str:
    return _run(["make", "--no-print-directory", target], environment)


def docker(arguments: list[str], environment: dict[str, str]) -> str:
    return _run(["docker", *arguments], environment)


def _run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout if command[0] == "docker" else done.stdout + done.stderr


async def test_a_secret_is_kept_by_the_api_and_opened_by_workers_alone(
    client: Client, stack: ComposeSystem
) -> None:
    value = f"value-{uuid.uuid4().hex}"
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    kept = await client.http.post(
        "/secrets", json={"name": name, "origins": [stack.site_url], "value": value}
    )
    args = {
        "url": client.site(f"/hooks/{name}"),
        "method": "POST",
        "json": {},
        "headers": {"X-Api-Key": {"secret": name}},
    }
    job = (await client.http.post("/jobs", json={"kind": "fetch", "args": args})).json()
    await client.job_in(job["id"], "succeeded")
    (call,) = await client.webhook_calls(name)
    shown = json.loads(stack.execute("api", "python", "-c", SHOWN_MODES))

    assert kept.status_code == 201 and kept.json()["digest"] and value not in kept.text
    assert call["headers"]["x-api-key"] == value
    assert name in stack.execute("api", "python", "-m", "producer", "secrets", "list")
    assert set(shown.values()) == {"0o400"}
