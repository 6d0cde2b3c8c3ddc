"""The documents are run: README.md, docs/ and examples/, each block against `make run` and the demo's site.

One service is shared by all of them, the README first: what a document shows must not depend on the others.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from deploy.local.broker import Broker
from deploy.local.ports import free_ports
from tests.support.documents import (
    DOCUMENTS,
    ROOT,
    Block,
    blocks,
    differences,
    examples_with_real_names,
    with_real_names,
)
from tests.support.environment import clean_environment
from tests.support.management import Management

START_SECONDS = 180.0
# Until an answer is as it is shown: jobs have to run, and waits between attempts to pass.
ANSWER_SECONDS = 20.0
ASK_AGAIN_SECONDS = 0.3
# Each answer ends with a blank line, so that two of them can be told apart.
PRELUDE = "set -euo pipefail\ncurl() { command curl --silent --show-error \"$@\" && printf '\\n\\n'; }\n"
CHANGES_SOMETHING = ("-X", "-d", "--data", "printf", "sleep", "python", "import ")
RUN = [document for document in DOCUMENTS if any(block.is_run for block in blocks(document))]


@dataclass(slots=True)
class Service:
    """`make run`, the web site of the demo, and what the documents call them."""

    names: dict[str, str]
    environment: dict[str, str]
    log: Path
    ids: MutableMapping[str, str] = field(default_factory=dict)

    def run(self, block: Block) -> str:
        """Run a block as it stands, with real addresses and ids; return what it printed."""
        text = with_real_names(block.text, {**self.names, **self.ids})
        command = ["bash", "-c", PRELUDE + text] if block.language == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{block} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def start_agents(self, running: ExitStack) -> None:
        """Start the three agents that one of the recipes wants."""
        settings = {"RETRIEVER_COMMAND_SHELL": "true", "RETRIEVER_AGENT_LEASE_SECONDS": "9"}
        environment = {**self.environment, **settings}
        api = f"http://{self.names['localhost:8080']}"
        for number in range(1, 4):
            log = self.log.with_name(f"agent-{number}.log")
            running.enter_context(_started(["-m", "consumer", "agent", "--api", api], environment, log))

    def wrong(self, block: Block) -> list[str]:
        """Run a block; return in what its answer is not as it is shown. What only looks is asked again."""
        again_until = time.monotonic() + ANSWER_SECONDS
        while True:
            printed = self.run(block)
            if block.answer is None:
                return [] if printed.strip() else ["it shows nothing"]
            found = list(differences(with_real_names(block.answer, self.names), printed, self.ids))
            only_looks = not any(word in block.text for word in CHANGES_SOMETHING)
            if not found or not only_looks or time.monotonic() > again_until:
                return found
            time.sleep(ASK_AGAIN_SECONDS)


@pytest.fixture(scope="module")
def service(
    broker: Broker, management: Management, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """Yield a fresh `make run` on a virtual host of its own, and the web site of the demo."""
    folder = tmp_path_factory.mktemp("docs")
    vhost = f"docs-{uuid.uuid4().hex[:12]}"
    api_port, site_port = free_ports(2)
    amqp_url = f"{broker.amqp_url.rsplit('/', maxsplit=1)[0]}/{vhost}"
    environment = {
        **clean_environment(),
        "RETRIEVER_AMQP_URL": amqp_url,
        "RETRIEVER_MANAGEMENT_URL": str(broker.management_url),
        "RETRIEVER_DATABASE_URL": f"sqlite:///{folder / 'data' / 'retriever.db'}",
        "RETRIEVER_API_PORT": str(api_port),
        "RETRIEVER_EGRESS_ALLOW": "127.0.0.0/8",
    }
    names = {
        "localhost:8080": f"127.0.0.1:{api_port}",
        "127.0.0.1:8090": f"127.0.0.1:{site_port}",
        "amqp://guest:guest@127.0.0.1:5672/": amqp_url,
    }
    names["examples/"] = f"{examples_with_real_names(folder, names)}/"
    # Documents that a page writes.
    names["handbook"] = str(folder / "handbook")
    environment |= _with_command(folder / "bin", api_port)
    management.create_vhost(vhost)
    log = folder / "make-run.log"
    try:
        with ExitStack() as running:
            run = ["-m", "deploy.local.run", "--data-dir", str(folder / "data")]
            site = ["-m", "deploy.local.target_site", "--port", str(site_port)]
            running.enter_context(_started(run, environment, log))
            running.enter_context(_started(site, environment, folder / "site.log"))
            _wait_until_served(log, f"http://127.0.0.1:{site_port}/ok")
            yield Service(names, environment, log)
    finally:
        management.delete_vhost(vhost)


def test_a_fresh_make_run_is_ready_without_a_warning(service: Service) -> None:
    lines = service.log.read_text(errors="replace").partition("Ctrl-C stops everything")[0].splitlines()

    assert any("worker_started" in line for line in lines)
    assert [line for line in lines if " WARNING " in line or " ERROR " in line] == []


@pytest.mark.parametrize("document", RUN, ids=str)
def test_a_document_shows_what_its_blocks_do(document: Path, service: Service) -> None:
    with ExitStack() as running:
        if document.parent.name == "task-executor":
            service.start_agents(running)
        wrong = [
            f"{block}: {difference}"
            for block in blocks(document)
            if block.is_run
            for difference in service.wrong(block)
        ]

    assert not wrong, "\n\n".join(wrong)


def test_the_demo_ends_as_it_says() -> None:
    demo = subprocess.run(
        [sys.executable, "-m", "deploy.local.demo"],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )

    assert (demo.returncode, demo.stderr) == (0, ""), demo.stdout
    assert "Every job ended as it must" in demo.stdout


def _with_command(programs: Path, api_port: int) -> dict[str, str]:
    """Put the command `retriever` into a folder; return the variables that let it be found, and find us."""
    programs.mkdir()
    program = programs / "retriever"
    program.write_text(
        f'#!/bin/sh\n"{sys.executable}" -m retriever_client.cli.main "$@"\n'
        # A blank line tells answers apart.
        "code=$?; echo; exit $code\n"
    )
    program.chmod(0o755)
    return {
        "PATH": os.pathsep.join([str(programs), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT / "client" / "src"),
        "RETRIEVER_URL": f"http://127.0.0.1:{api_port}",
    }


@contextmanager
def _started(arguments: list[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def _wait_until_served(log: Path, site_url: str) -> None:
    give_up_at = time.monotonic() + START_SECONDS
    while not ("Ctrl-C stops everything" in log.read_text(errors="replace") and _answers(site_url)):
        assert time.monotonic() < give_up_at, log.read_text(errors="replace")
        time.sleep(0.1)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
