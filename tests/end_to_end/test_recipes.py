"""The recipes of examples/, as a person copies them: with other addresses, here and in compose."""

import asyncio
import csv
import json
import os
import re
import subprocess
import uuid
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import pytest

from shared.broker.topology import OUTCOMES, RESULTS
from tests.support.client import Client, Json
from tests.support.documents import examples_with_real_names
from tests.support.environment import clean_environment
from tests.support.stores import on_one_store
from tests.support.waiting import eventually

# What a recipe asks of the service is the same on every store.
pytestmark = on_one_store


@pytest.fixture(autouse=True)
def _curl_has_the_key(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every curl of a recipe send the key of the running service, if it asks for one."""
    lines = [f'header = "{name}: {value}"' for name, value in client.system.headers.items()]
    (tmp_path / ".curlrc").write_text("\n".join(lines))
    monkeypatch.setenv("CURL_HOME", str(tmp_path))
    if key := client.system.headers.get("Authorization"):
        (tmp_path / "key").write_text(key.removeprefix("Bearer "))
        monkeypatch.setenv("RETRIEVER_KEY_FILE", str(tmp_path / "key"))


@pytest.fixture
def examples(client: Client, tmp_path: Path) -> Path:
    """Return a copy of examples/ with the addresses of the running service."""
    names = {
        "localhost:8080": urlsplit(client.system.api_url).netloc,
        "127.0.0.1:8090": urlsplit(client.system.site_url).netloc,
        "amqp://guest:guest@127.0.0.1:5672/": client.system.amqp_url,
    }
    return examples_with_real_names(tmp_path, names)


def _key() -> dict[str, str]:
    # The environment is cleaned of all other settings.
    path = os.environ.get("RETRIEVER_KEY_FILE")
    return {} if path is None else {"RETRIEVER_KEY_FILE": path}


async def run(command: Path | str, *arguments: str, status: int = 0, **environment: str) -> str:
    """Run a program of a recipe, or a line of shell; return what it printed."""
    shell = ["sh", "-c", command] if isinstance(command, str) else [str(command), *arguments]
    done = await asyncio.to_thread(
        subprocess.run,
        shell,
        env={**clean_environment(), **_key(), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, f"{command}: {done.stdout}"
    return str(done.stdout)


async def test_the_deck_asks_for_each_post_once_and_publishes_each_card_once(
    client: Client, examples: Path
) -> None:
    listen, hand_in = examples / "deck" / "listen.py", examples / "deck" / "hand-in"
    hits_before = await client.hits()
    with client.system.third_worker():
        await asyncio.to_thread(client.system.run_python, listen, "0")
        witness = client.management.bind_queue(client.system.vhost, OUTCOMES, "fetch.*")
        reports = client.management.bind_queue(client.system.vhost, RESULTS, "fetch.*.succeeded")

        first, second = await run(hand_in), await run(hand_in)
        printed = await asyncio.to_thread(client.system.run_python, listen, "20")

    assert [line.split()[-1] for line in (first + second).splitlines()] == ["202"] * 20 + ["200"] * 20
    cards = [json.loads(line)["data"] for line in printed.splitlines()]
    assert sorted(card["id"] for card in cards) == list(range(1, 21))
    assert {card["id"]: card["title_length"] for card in cards}[20] == len("Post 20, short")
    hits = await client.hits() - hits_before
    assert {path: count for path, count in hits.items() if "/api/posts/" in path} == {
        f"/api/posts/{number}": 1 for number in range(1, 21)
    }
    outcomes = [told for told in lines_of(client, witness) if told.get("ref", "").startswith("deck/")]
    assert sorted(told["ref"] for told in outcomes) == sorted(f"deck/{number}" for number in range(1, 21))
    ids = {told["job_id"] for told in outcomes}
    assert len({told["worker"] for told in lines_of(client, reports) if told["job_id"] in ids}) == 3


async def test_the_pages_are_fetched_when_their_schedule_runs(client: Client, examples: Path) -> None:
    schedule = json.loads((examples / "planned-pages" / "schedule.json").read_text())
    made = await client.http.post("/schedules", json=schedule)
    assert made.status_code == 201, made.text
    ran = await client.http.post(f"/schedules/{made.json()['id']}/run")

    job_id = ran.json()["last_run"]["job_id"]

    assert await items(client, job_id) == [{"id": n, "cents": 100 * n} for n in range(1, 61)]


async def test_the_line_of_the_crontab_hands_in_one_fetch_a_day_however_often_it_runs(
    client: Client, examples: Path
) -> None:
    crontab = (examples / "planned-pages" / "crontab").read_text()
    (line,) = [line for line in crontab.splitlines() if not line.startswith("#")]
    # Five fields, then the command, in which cron reads \% as a per cent sign.
    command = line.split(maxsplit=5)[5].replace(r"\%", "%")
    # Another day for each run of this test: the service may be older than it.
    command = command.replace("items-", f"{uuid.uuid4()}-")
    assert "%" not in re.sub(r"\\%", "", line)
    # And the same day for both runs, also at midnight.
    assert "$(date +%F)" in command
    command = command.replace("$(date +%F)", "today")
    command = command.replace("$HOME/retriever/examples", str(examples))
    before = await jobs_by_cron(client)

    printed = [await run(command) for _ in range(2)]

    (job_id,) = await jobs_by_cron(client) - before
    assert printed == ["", ""]
    assert len(await items(client, job_id)) == 60


async def test_the_checker_writes_what_is_bad_in_a_file_of_urls_and_ends_with_1(
    client: Client, examples: Path, tmp_path: Path
) -> None:
    recipe = examples / "url-checker"

    printed = await run(recipe / "check_urls.py", str(recipe / "urls.txt"), str(tmp_path), status=1)

    with (tmp_path / "broken.csv").open(newline="") as file:
        bad = [(row["line"], row["verdict"], row["status"]) for row in csv.DictReader(file)]
    assert printed == "8 lines, 3 bad\n"
    assert bad == [("7", "broken", "404"), ("8", "down", "500"), ("9", "", "")]
    junit = ET.fromstring((tmp_path / "junit.xml").read_text())  # noqa: S314 - our own output
    assert len(junit.findall(".//testcase")) == 8
    assert len(junit.findall(".//failure")) + len(junit.findall(".//error")) == 3


async def test_the_checker_ends_with_0_when_all_is_well(
    client: Client, examples: Path, tmp_path: Path
) -> None:
    (tmp_path / "good.txt").write_text(client.site("/ok/1"))

    printed = await run(examples / "url-checker" / "check_urls.py", str(tmp_path / "good.txt"), str(tmp_path))

    assert printed == "1 lines, 0 bad\n"


@pytest.mark.parametrize(
    ("urls", "said"),
    [("", "HTTP Error 400"), ("<html><a href=/>a page</a></html>", "HTTP Error 4"), (None, "refused")],
    ids=["empty", "a page", "no service"],
)
async def test_the_checker_ends_with_2_when_it_could_not_check(
    client: Client, examples: Path, tmp_path: Path, *, urls: str | None, said: str, unused_port: int
) -> None:
    (tmp_path / "urls.txt").write_text(client.site("/ok") if urls is None else urls)
    checker = examples / "url-checker" / "check_urls.py"
    if urls is None:
        api = urlsplit(client.system.api_url).netloc
        checker.write_text(checker.read_text().replace(api, f"127.0.0.1:{unused_port}"))

    complaint = await run(checker, str(tmp_path / "urls.txt"), str(tmp_path), status=2)

    assert said in complaint and "Traceback" not in complaint
    assert not (tmp_path / "broken.csv").exists()


async def test_three_agents_do_the_tasks_of_a_file_and_one_is_aborted(client: Client, examples: Path) -> None:
    recipe = examples / "task-executor"
    hand_in = recipe / "hand_in.py"
    # The one that cannot be done is tried five times, with up to 75 s in between by default.
    quickly = '{"retry": {"first_delay_seconds": 0.1, "max_delay_seconds": 0.1}, "command"'
    hand_in.write_text(hand_in.read_text().replace('{"command"', quickly))
    with client.system.three_agents():
        printed = await run(hand_in, str(recipe / "commands.txt"))
        ids = [line.split()[0] for line in printed.splitlines()]
        tasks = [await task_in(client, task_id, "succeeded", "parked") for task_id in ids]
        long = (await client.http.post("/tasks", json={"command": "echo begun; sleep 600"})).json()["id"]
        await task_in(client, long, "running")
        await client.http.post(f"/tasks/{long}/abort")
        aborted = await task_in(client, long, "cancelled")

    assert [(task["state"], task["exit_code"]) for task in tasks] == [
        ("succeeded", 0),
        ("succeeded", 0),
        ("parked", 3),
        ("succeeded", 0),
        ("succeeded", 0),
    ]
    assert tasks[0]["stdout"]["text"] == "worked on Linux\n"
    assert tasks[2]["stderr"]["text"] == "cannot be done\n"
    assert len({task["agent"] for task in tasks}) >= 2
    assert aborted["attempt"] == 1


async def test_a_drained_stack_is_done_from_its_top(client: Client, examples: Path) -> None:
    recipe = examples / "lifo"
    (line,) = [line for line in (recipe / "crontab").read_text().splitlines() if line.startswith("*")]
    arguments = line.partition("--api ")[2].partition(">>")[0].split()[1:]
    await run(recipe / "hand-in")

    await asyncio.to_thread(client.system.drain_tasks, *arguments)

    tasks = (await client.http.get("/tasks", params={"queue": "lifo"})).json()["items"]
    done = sorted(tasks, key=lambda task: task["finished_at"] or "")
    assert [(task["ref"], task["state"]) for task in done] == [
        (f"task {number}", "succeeded") for number in (5, 4, 3, 2, 1)
    ]


async def task_in(client: Client, task_id: str, *states: str) -> Json:
    """Return a task once it is in one of the states."""

    async def look() -> Json | None:
        task = (await client.http.get(f"/tasks/{task_id}")).json()
        return task if task["state"] in states else None

    return await eventually(look, deadline_seconds=60)


async def jobs_by_cron(client: Client) -> set[str]:
    """Return the ids of the jobs that the crontab has handed in; further pages have their name, too."""
    found = await client.http.get("/jobs", params={"ref": "items by cron"})
    return {job["id"] for job in found.json()["items"] if job["batch_id"] is None}


async def items(client: Client, job_id: str) -> list[Json]:
    """Return the items of a paged fetch once all of its pages are done."""

    async def look() -> bool:
        measure = (await client.http.get(f"/jobs/{job_id}/pages")).json()
        return bool(measure["complete"])

    await eventually(look)
    answer = await client.http.get(f"/jobs/{job_id}/items")
    return [json.loads(line) for line in answer.text.splitlines()]


def lines_of(client: Client, queue: str) -> list[Json]:
    """Return the outcomes or reports in a queue; a message may hold several reports, one a line."""
    messages = client.management.messages(client.system.vhost, queue)
    return [json.loads(line) for message in messages for line in message["payload"].splitlines()]
