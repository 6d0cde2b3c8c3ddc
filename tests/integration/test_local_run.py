"""`make run` as a person at a terminal has it: starts, second starts, and every way to end it."""

import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from deploy.local.broker import Broker
from deploy.local.data_folder import held_folder
from deploy.local.errors import StartFailed
from deploy.local.ports import free_port, is_taken, listeners
from deploy.local.processes import RUN_VARIABLE, command_line
from deploy.local.stack import ROOT
from tests.support.environment import clean_environment

START_SECONDS = 180.0
END_SECONDS = 90.0
READY = "Ctrl-C stops everything"


class Run:
    """A `make run` in a folder of its own, and what it has printed."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.environment = {
            **clean_environment(),
            "RETRIEVER_API_PORT": str(self.port),
            **{f"RETRIEVER_{name.upper()}": value for name, value in settings.items()},
        }
        self._log = folder.with_suffix(".log")

    def start(self, *, terminal: int | None = None) -> subprocess.Popen[bytes]:
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "deploy.local.run", "--data-dir", str(self.folder)],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL if terminal is None else terminal,
                stdout=log if terminal is None else terminal,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_ready(self) -> None:
        wait_until(lambda: READY in self.said(), START_SECONDS, self.said)

    def wait_answers(self) -> None:
        def answers() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=2).status_code == 200
            except httpx.TransportError:
                return False

        wait_until(answers, START_SECONDS, lambda: "no answer")

    def processes(self) -> list[str]:
        """Return the command lines of what runs of this run."""
        mark = f"{RUN_VARIABLE}={self.folder.resolve()}#".encode()
        found = []
        for environment in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in environment.read_bytes():
                    found.append(command_line(int(environment.parent.name)))
            except OSError:
                continue
        return found

    def wait_gone(self) -> None:
        wait_until(lambda: not self.processes(), END_SECONDS, lambda: "\n".join(self.processes()))


def wait_until(is_so: Callable[[], bool], seconds: float, tell: Callable[[], str]) -> None:
    give_up_at = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < give_up_at, tell()
        time.sleep(0.1)


@contextmanager
def started(run: Run) -> Iterator[subprocess.Popen[bytes]]:
    process = run.start()
    try:
        run.wait_ready()
        yield process
    finally:
        process.terminate()
        process.wait(END_SECONDS)
        run.wait_gone()


def test_a_run_refuses_a_second_in_its_folder_and_leaves_nothing_when_it_is_killed(tmp_path: Path) -> None:
    run = Run(tmp_path / "data")
    with started(run) as process:
        twin = Run(run.folder)
        second = subprocess.run(
            [sys.executable, "-m", "deploy.local.run", "--data-dir", str(run.folder)],
            cwd=ROOT,
            env=twin.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        still_answers = httpx.get(f"http://127.0.0.1:{run.port}/readyz").status_code
        kinds = run.processes()
        process.kill()
        run.wait_gone()

    assert (second.returncode, still_answers) == (1, 200)
    assert f"is in use by process {process.pid}, which began at" in second.stderr
    for part in (" producer api", " producer ledger", " consumer worker", "beam.smp", "epmd"):
        assert any(part in command for command in kinds)
    assert not is_taken(run.port)


def test_a_closed_terminal_ends_everything(vhost_url: str, tmp_path: Path) -> None:
    run = Run(tmp_path / "data", amqp_url=vhost_url)
    ours, theirs = pty.openpty()
    process = run.start(terminal=theirs)
    os.close(theirs)
    run.wait_answers()

    # What a terminal's kernel does: whoever reads is gone, and the session gets SIGHUP.
    os.close(ours)
    process.send_signal(signal.SIGHUP)

    process.wait(END_SECONDS)
    run.wait_gone()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_each_signal_that_ends_a_program_unwinds_it(number: signal.Signals) -> None:
    script = (
        "import signal, time\nfrom deploy.local.processes import sigterm_as_exit\n"
        # Whoever runs the tests may ignore it, as nohup does.
        f"signal.signal({number:d}, signal.SIG_DFL)\n"
        "with sigterm_as_exit():\n"
        "    try:\n        print('in', flush=True); time.sleep(60)\n"
        "    finally:\n        print('out', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)

        assert process.stdout.read() == b"out\n"
    assert process.returncode == 128 + number


def test_a_taken_port_is_named_before_anything_is_started(tmp_path: Path) -> None:
    run = Run(tmp_path / "data")
    with socket.create_server(("127.0.0.1", run.port)):
        process = run.start()
        process.wait(60)

    assert process.returncode == 1
    assert run.said().startswith(f"make run: RETRIEVER_API_PORT: cannot listen on 127.0.0.1:{run.port}")
    assert not (run.folder / "broker").exists()


def test_a_given_broker_that_refuses_us_ends_the_run_at_once_with_its_words(
    broker: Broker, tmp_path: Path
) -> None:
    amqp_url = f"{broker.amqp_url.rsplit('/', maxsplit=1)[0]}/nowhere"
    run = Run(tmp_path / "data", amqp_url=amqp_url)

    status = run.start().wait(60)

    assert status == 1
    assert len(run.said().splitlines()) == 1
    assert run.said().startswith("make run: RETRIEVER_AMQP_URL: RabbitMQ at ")
    assert "refused the virtual host 'nowhere': NOT_ALLOWED - vhost nowhere not found" in run.said()


def test_what_an_earlier_run_left_behind_is_ended_and_named(tmp_path: Path) -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)", " producer api"]
    mark = {RUN_VARIABLE: f"{tmp_path}#killed"}
    with subprocess.Popen(sleeper, env={**os.environ, **mark}) as leftover:
        with subprocess.Popen(sleeper, env={**os.environ, RUN_VARIABLE: f"{tmp_path}/other#1"}) as other:
            with held_folder(tmp_path):
                was_running = other.poll() is None
            other.kill()

        assert (leftover.wait(5), was_running) == (-signal.SIGTERM, True)


def test_a_folder_is_held_once(tmp_path: Path) -> None:
    with (
        held_folder(tmp_path),
        pytest.raises(StartFailed, match=f"in use by process {os.getpid()}"),
        held_folder(tmp_path),
    ):
        pass

    with held_folder(tmp_path):
        pass


def test_who_listens_on_a_port_is_known() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        assert listeners(port) == {os.getpid()}
    assert listeners(port) == set()
