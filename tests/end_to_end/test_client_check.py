"""`retriever check` on the running service: hosts that ask to wait, answers that are there, Ctrl-C."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from retriever_client import Retriever
from retriever_client.cli.main import retriever
from tests.support.environment import clean_environment
from tests.support.stores import on_one_store
from tests.support.system import System

# A command line knows nothing of stores.
pytestmark = on_one_store

ROOT = Path(__file__).resolve().parents[2]
# With 1,000 it takes 50 s, because the host is asked more slowly with each complaint.
LINKS = 100
SECONDS = 60.0
QUICK = ("--retry-delay", "1s")


@pytest.fixture
def key(system: System) -> str:
    return system.headers.get("Authorization", "").removeprefix("Bearer ")


@pytest.fixture
def client(system: System, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Retriever]:
    monkeypatch.chdir(tmp_path)
    with Retriever(system.api_url, key=key) as made:
        yield made


def run(client: Retriever, *arguments: str) -> Result:
    result = CliRunner().invoke(retriever, arguments, obj=client)
    assert isinstance(result.exception, SystemExit | type(None))
    return result


def hits(system: System, like: str) -> Counter[str]:
    answer: dict[str, int] = httpx.get(f"{system.control_url}/control/hits").json()
    return Counter({path: count for path, count in answer.items() if like in path})


def fresh(name: str) -> str:
    return f"{name}-{os.urandom(4).hex()}"


def test_a_host_that_answers_429_at_first_ends_all_ok_and_is_not_asked_again(
    system: System, client: Retriever
) -> None:
    name = fresh("many")
    paths = [f"/{'ok' if n % 10 == 0 else 'limited'}/{name}-{n}" for n in range(LINKS)]
    Path("a.md").write_text("".join(f"[x]({system.site_url}{path})\n" for path in paths))
    arguments = ("check", "a.md", "--max-age", "1d", *QUICK, "-o", "json")

    first = run(client, *arguments)
    asked = hits(system, name)
    again = run(client, *arguments)

    assert (first.exit_code, again.exit_code) == (0, 0)
    assert Counter(link["outcome"] for link in json.loads(first.stdout)["links"]) == {"ok": LINKS}
    assert sum(asked.values()) > LINKS
    assert hits(system, name) == asked
    assert json.loads(again.stdout)["summary"]["answered_before"] == LINKS


def test_what_is_down_is_apart_from_what_is_broken_in_every_report(system: System, client: Retriever) -> None:
    site = system.site_url
    Path("a.md").write_text(f"# A\n\n[down]({site}/busy) [ok]({site}/ok)\n[moved]({site}/moved)\n")
    Path("b.html").write_text(f'<p><a href="{site}/missing">x</a>\n<img src="{site}/busy">')
    Path("busy.md").write_text(f"<{site}/busy>\n")
    formats = ("json", "junit", "markdown", "github", "sarif")
    reports = [f"--report={name}=report.{name}" for name in formats]
    arguments = ("--attempts", "2", *QUICK, "--redirects", "warn")

    table = run(client, "check", "a.md", "b.html", *arguments, *reports)
    said = {name: Path(f"report.{name}").read_text() for name in formats}

    places = {
        (each["file"], each["line"], each["column"]): each["outcome"]
        for each in json.loads(said["json"])["links"]
    }
    assert places == {
        ("a.md", 3, 8): "down",
        ("a.md", 3, len(f"[down]({site}/busy) [ok](") + 1): "ok",
        ("a.md", 4, 9): "redirect",
        ("b.html", 1, 13): "broken",
        ("b.html", 2, 11): "down",
    }
    expected = {"broken": 1, "down": 2, "redirect": 1}
    assert Counter(re.findall(r"^  \d+:\d+ +(\w+)", table.stdout, re.MULTILINE)) == expected
    assert Counter(re.findall(r"^\| `[^`]+` \| (\w+)", said["markdown"], re.MULTILINE)) == expected
    assert Counter(re.findall(r"title=(\w+) link", said["github"])) == expected
    assert Counter(each["ruleId"] for each in json.loads(said["sarif"])["runs"][0]["results"]) == expected
    assert Counter(re.findall(r'type="(\w+)\.', said["junit"])) == {"broken": 1, "down": 2}
    assert table.exit_code == 1
    assert run(client, "check", "busy.md", "--attempts", "1", "--fail-on", "broken").exit_code == 0
    assert run(client, "check", "busy.md", "--attempts", "1", "--fail-on", "down").exit_code == 1


def test_fragments_are_looked_for_in_their_pages(system: System, client: Retriever) -> None:
    Path("f.md").write_text(f"[a]({system.site_url}/ok/page#none) [b]({system.site_url}/ok/page#top)\n")

    found = json.loads(run(client, "check", "f.md", "--fragments", "-o", "json").stdout)["links"]

    assert [(each["outcome"], each["reason"]) for each in found] == [
        ("broken", "fragment_missing"),
        ("ok", None),
    ]


def test_what_is_left_running_is_collected_later(system: System, client: Retriever) -> None:
    Path("a.md").write_text(f"[a]({system.site_url}/ok)\n[b]({system.site_url}/missing)\n")

    batch_id = run(client, "check", "a.md", "--detach").stdout.strip()
    attached = run(client, "check", "--attach", batch_id, "-o", "plain")
    again = run(client, "check", "--attach", batch_id, "-o", "json")

    assert (attached.exit_code, again.exit_code) == (1, 1)
    assert [line.split("\t")[:3] for line in attached.stdout.splitlines()] == [
        ["a.md:2:5", "broken", "http_404"]
    ]


def test_a_fetch_prints_what_came_and_fails_in_words(system: System, client: Retriever) -> None:
    body = run(client, "fetch", f"{system.site_url}/ok/x", "--to", "body.html")
    total = run(client, "fetch", f"{system.site_url}/api/items", "--extract", "total")
    gone = run(client, "fetch", f"{system.site_url}/missing")

    assert (body.exit_code, body.stdout) == (0, "")
    assert "All is well." in Path("body.html").read_text()
    assert (total.exit_code, json.loads(total.stdout)) == (0, 60)
    assert (gone.exit_code, gone.stdout) == (1, "")
    assert "http_404" in gone.stderr


class Command:
    """`retriever` as a process of its own, waiting for a page that does not come."""

    def __init__(self, system: System, key: str, arguments: Sequence[str], **streams: Any) -> None:
        self.gate = fresh("gate")
        self._control_url = system.control_url
        Path("gate.md").write_text(f"<{system.site_url}/gate/{self.gate}>\n")
        environment = clean_environment() | {
            "RETRIEVER_URL": system.api_url,
            "RETRIEVER_KEY": key,
            "PYTHONPATH": str(ROOT / "client" / "src"),
        }
        command = [sys.executable, "-m", "retriever_client.cli.main", "check", "gate.md", *arguments]
        self.process = subprocess.Popen(command, env=environment, **streams)
        # The page was asked for, so the batch was handed in, and is waited for.
        httpx.get(f"{self._control_url}/control/waiting/{self.gate}?at_least=1", timeout=SECONDS)

    def open_gate(self) -> None:
        httpx.post(f"{self._control_url}/control/open/{self.gate}")

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)


def test_ctrl_c_in_a_pipe_cancels_and_says_so(system: System, client: Retriever, key: str) -> None:
    command = Command(system, key, [], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    command.interrupt()

    stdout, stderr = command.process.communicate(timeout=SECONDS)

    assert (command.process.returncode, stdout) == (130, "")
    assert "Traceback" not in stderr
    (batch_id,) = re.findall(r"Batch (\S+)", stderr)
    assert client.batches.wait(batch_id, timeout_seconds=SECONDS).counts["cancelled"] == 1
    assert "Cancelled" in stderr


def test_ctrl_c_on_a_terminal_asks_and_goes_on(system: System, client: Retriever, key: str) -> None:
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as screen:  # noqa: PTH123 - a descriptor
        streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        command = Command(system, key, ["--redirects", "warn"], **streams)
        os.close(theirs)
        command.interrupt()
        seen = read_until(screen, "go on waiting")
        os.write(ours, b"g\n")
        command.open_gate()
        seen += read_until(screen, "1 link in 1 document")

        assert command.process.wait(timeout=SECONDS) == 0
    assert "Traceback" not in seen


def read_until(screen: Any, words: str) -> str:
    """Return what a terminal showed, up to some words."""
    seen, ends_at = "", time.monotonic() + SECONDS
    while words not in seen:
        assert time.monotonic() < ends_at, seen
        seen += screen.read(4_096).decode(errors="replace")
    return seen
