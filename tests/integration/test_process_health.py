"""Real processes: what they say of their health, and when their watchdog ends them."""

import json
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from deploy.local.ports import free_port
from shared.broker.topology import work_queue
from shared.kinds.registry import Lane
from shared.watchdog import EXIT_STATUS
from tests.support.amqp import open_channel
from tests.support.environment import clean_environment
from tests.support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
API = ("producer", "api")
LEDGER = ("producer", "ledger")
WORKER = ("consumer", "worker", "--kinds", "check")


class Process:
    """A process of ours, its log and its health."""

    def __init__(self, command: tuple[str, ...], log: Path, settings: dict[str, str]) -> None:
        port = free_port()
        environment = clean_environment()
        environment |= {"RETRIEVER_HEALTH_PORT": str(port), "PYTHONUNBUFFERED": "1"} | settings
        self._log = log
        self._url = f"http://127.0.0.1:{port}"
        with log.open("wb") as output:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def log(self) -> str:
        return self._log.read_text()

    async def readyz(self) -> httpx.Response | None:
        """Return what /readyz says, None before it is served."""
        return await self._get("/readyz")

    async def metrics(self) -> str:
        answer = await self._get("/metrics")
        return answer.text if answer else ""

    async def is_ready(self) -> bool:
        answer = await self.readyz()
        return answer is not None and answer.status_code == 200

    async def ended(self) -> bool:
        return self.popen.poll() is not None

    async def _get(self, path: str) -> httpx.Response | None:
        async with httpx.AsyncClient(timeout=5) as client:
            try:
                return await client.get(f"{self._url}{path}")
            except httpx.TransportError:
                return None


@asynccontextmanager
async def running(command: tuple[str, ...], folder: Path, **settings: str) -> AsyncIterator[Process]:
    """Run a process while inside; settings are named without their prefix."""
    variables = {f"RETRIEVER_{name.upper()}": value for name, value in settings.items()}
    process = Process(command, folder / f"{command[1]}.log", variables)
    try:
        yield process
    finally:
        process.popen.kill()
        process.popen.wait(10)


async def test_a_ledger_and_a_worker_name_each_probe_and_show_it_as_a_metric(
    vhost_url: str, migrated_file: Path, tmp_path: Path
) -> None:
    store = f"sqlite:///{tmp_path / 'retriever.db'}"
    shutil.copyfile(migrated_file, tmp_path / "retriever.db")
    async with (
        running(LEDGER, tmp_path, amqp_url=vhost_url, database_url=store) as ledger,
        running(WORKER, tmp_path, amqp_url=vhost_url) as worker,
        open_channel(vhost_url) as channel,
    ):
        await eventually(ledger.is_ready, deadline_seconds=30)
        await eventually(worker.is_ready, deadline_seconds=30)
        answers = [await process.readyz() for process in (ledger, worker)]

        assert [answer and answer.json() for answer in answers] == [
            dict.fromkeys(("publisher", "recorder", "store", "relay"), True),
            dict.fromkeys(("publisher", "cancellations", "pauses", "consumers"), True),
        ]
        assert 'retriever_ready{probe="relay"} 1.0' in await ledger.metrics()

        await channel.queue_delete(work_queue("check", Lane.BULK))

        async def lacks_a_consumer() -> bool:
            answer = await worker.readyz()
            return answer is not None and answer.status_code == 503 and not answer.json()["consumers"]

        await eventually(lacks_a_consumer)
        assert 'retriever_ready{probe="consumers"} 0.0' in await worker.metrics()


async def test_a_worker_that_is_connected_but_lacks_its_queues_ends_and_says_why(
    new_vhost_url: str, tmp_path: Path
) -> None:
    async with running(WORKER, tmp_path, amqp_url=new_vhost_url, watchdog_seconds="2") as worker:
        await eventually(worker.ended, deadline_seconds=30)

        assert worker.popen.returncode == EXIT_STATUS
        last_line = worker.log().strip().splitlines()[-1]
        assert last_line.startswith("retriever: not ready for 2 s although the broker answers")
        assert "publisher" in last_line and "consumers" in last_line


@pytest.mark.parametrize("command", [WORKER, LEDGER])
async def test_a_process_whose_broker_is_away_waits_for_it(
    command: tuple[str, ...], unused_port: int, tmp_path: Path
) -> None:
    url = f"amqp://127.0.0.1:{unused_port}/"
    store = f"sqlite:///{tmp_path / 'retriever.db'}"
    settings = {"amqp_url": url, "database_url": store, "watchdog_seconds": "1", "log_level": "DEBUG"}
    async with running(command, tmp_path, **settings) as process:

        def tries(level: str) -> Counter[str]:
            """Count what was said of each connection that publishes."""
            said = [json.loads(line) for line in process.log().splitlines() if "broker_unavailable" in line]
            told = [each for each in said if each["level"] == level and " publish" in each["connection"]]
            assert all(f"Nothing listens at 127.0.0.1:{unused_port}." in each["error"] for each in told)
            return Counter(each["connection"] for each in told)

        async def has_tried_often() -> bool:
            # The pauses in between grow: five attempts of one connection take more than two seconds.
            return max(tries("DEBUG").values(), default=0) >= 4 or await process.ended()

        await eventually(has_tried_often, deadline_seconds=30)
        assert not await process.ended()
        assert tries("DEBUG").keys() <= tries("WARNING").keys()
        assert set(tries("WARNING").values()) == {1}

        process.popen.send_signal(signal.SIGTERM)
        await eventually(process.ended)
        assert process.popen.returncode == 0


async def test_a_ledger_whose_store_is_not_there_waits_for_it(vhost_url: str, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'retriever.db'}"
    async with running(
        LEDGER, tmp_path, amqp_url=vhost_url, database_url=store, watchdog_seconds="1", log_level="DEBUG"
    ) as ledger:

        async def has_asked_often() -> bool:
            # All others wait for the first that asks, and its pauses grow: five failures take three seconds.
            return ledger.log().count('"store_unavailable"') >= 5 or await ledger.ended()

        await eventually(has_asked_often, deadline_seconds=60)
        answer = await ledger.readyz()

        assert answer is not None and (answer.status_code, answer.json()["store"]) == (503, False)
        assert "has not been migrated" in answer.json()["reasons"]["store"]


@pytest.mark.parametrize("command", [WORKER, LEDGER, API])
async def test_a_process_whose_port_is_taken_ends_and_names_the_variable(
    command: tuple[str, ...], unused_port: int, tmp_path: Path
) -> None:
    store = f"sqlite:///{tmp_path / 'retriever.db'}"
    url = f"amqp://127.0.0.1:{unused_port}/"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = {"api_port": str(port)} if command is API else {"health_port": str(port)}
        async with running(command, tmp_path, amqp_url=url, database_url=store, **ports) as process:
            await eventually(process.ended, deadline_seconds=60)
            said = process.log()

    variable = "RETRIEVER_API_PORT" if command is API else "RETRIEVER_HEALTH_PORT"
    assert process.popen.returncode == 2
    assert f"retriever: {variable}: cannot listen on 127.0.0.1:{port}: Address already in use" in said
    assert "Traceback" not in said
