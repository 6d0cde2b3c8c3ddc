"""The whole service on this machine: a broker, a migrated store, the Procfile's processes under honcho.

The workers start when the ledger is ready: before that the queues that they consume are not declared.
"""

import asyncio
import base64
import http.client
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from deploy.local.broker import Broker, open_broker
from deploy.local.data_folder import end_processes, held_folder, private_folder
from deploy.local.errors import StartFailed
from deploy.local.ports import LOOPBACK, free_port, listeners
from deploy.local.processes import (
    POLL_SECONDS,
    RUN_VARIABLE,
    command_line,
    descendants,
    end,
    sigterm_as_exit,
    wait_until_ready,
)
from shared.broker.connection import CONNECTION_ERRORS, connected, words_of
from shared.errors import SettingsInvalid
from shared.listening import check_port

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 60.0
# Which processes start together, and the variables that name the ports where they say that they are ready.
_PORTS_OF_GROUPS: tuple[Mapping[str, str], ...] = (
    {"api": "RETRIEVER_API_PORT", "ledger": "LEDGER_HEALTH_PORT"},
    {"worker": "WORKER_HEALTH_PORT"},
)
# honcho itself kills what has not ended five seconds after its SIGTERM.
STOP_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Stack:
    """Where the running service is, and how it runs."""

    api_url: str
    database_url: str
    broker: Broker
    has_contact: bool
    """Whether sites that are visited are told whom to reach."""
    groups: tuple[subprocess.Popen[bytes], ...]
    """One honcho for each group of processes that start together; it ends with the first of them."""

    def ended(self) -> int | None:
        """Return the exit status of the first group that has ended by itself; None while all run."""
        statuses = (group.poll() for group in self.groups)
        return next((status for status in statuses if status is not None), None)

    def wait(self, *, is_wanted: Callable[[], bool] = lambda: True) -> int:
        """Block until a process has ended by itself; return the exit status of its group.

        Args:
            is_wanted: Asked again and again; when it says no, return 0.
        """
        while (status := self.ended()) is None:
            if not is_wanted():
                return 0
            time.sleep(POLL_SECONDS)
        return status

    def console(self) -> str:
        """Return where RabbitMQ's console is, with its user and password if the broker is our own."""
        if self.broker.management_url is None:
            return "not known: set RETRIEVER_MANAGEMENT_URL"
        parts = urlsplit(self.broker.management_url)
        login = f"   user {parts.username}, password {parts.password}" if self.broker.is_ours else ""
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{login}   ({self.broker.kind})"


@contextmanager
def open_stack(data_dir: Path, environment: Mapping[str, str], *, log: Path | None = None) -> Iterator[Stack]:
    """Yield the running service when all of it is ready, and end it afterwards.

    Args:
        data_dir: Keeps the broker's data and the SQLite store from run to run.
        environment: All of the processes' environment: pass `os.environ` with changes. RETRIEVER_API_PORT is
            a free port unless it is set, RETRIEVER_DATABASE_URL is SQLite in `data_dir` unless it is set.
        log: Where the processes write; None for the terminal.

    Raises:
        LocalError: Another run has the folder, it is open to others and not ours, a port is taken, there is
            no broker, the migration failed, or a process did not become ready.
    """
    data_dir = data_dir.resolve()
    with (
        sigterm_as_exit(),
        private_folder(data_dir),
        held_folder(data_dir),
        ports_checked(environment),
        open_broker(data_dir / "broker", environment=environment) as broker,
        given_broker_checked(broker),
        open_service(broker, data_dir, environment, log=log) as stack,
    ):
        yield stack


@contextmanager
def ports_checked(environment: Mapping[str, str]) -> Iterator[None]:
    """Go inside if the ports that were chosen are free: before a broker is started for nothing.

    Raises:
        StartFailed: one is taken; names its variable.
    """
    for ports in _PORTS_OF_GROUPS:
        for variable in ports.values():
            if environment.get(variable):
                try:
                    check_port(LOOPBACK, int(environment[variable]), variable=variable)
                except (SettingsInvalid, ValueError) as error:
                    raise StartFailed(
                        f"{error}. End what listens there, or set another {variable}."
                    ) from error
    yield


@contextmanager
def given_broker_checked(broker: Broker) -> Iterator[None]:
    """Go inside if a broker that was given takes us: user, virtual host and port are right.

    Raises:
        StartFailed: it does not; says why.
    """
    if not broker.is_ours:
        # The library would log beside us what we say ourselves.
        logging.getLogger("aiormq").setLevel(logging.CRITICAL)
        try:
            asyncio.run(_connect(broker.amqp_url))
        except (*CONNECTION_ERRORS, ValueError) as error:
            raise StartFailed(f"RETRIEVER_AMQP_URL: {words_of(error)}") from error
    yield


@contextmanager
def open_service(
    broker: Broker, data_dir: Path, environment: Mapping[str, str], *, log: Path | None = None
) -> Iterator[Stack]:
    """Yield the service on a broker that runs already, and end the service, not the broker, afterwards.

    Args:
        broker: Where the jobs go.
        data_dir: An existing folder for the SQLite store.
        environment: As for `open_stack`.
        log: As for `open_stack`.

    Raises:
        StartFailed: The migration failed, or a process did not become ready.
    """
    with sigterm_as_exit(), ExitStack() as running:
        settings = _settings(environment, broker, data_dir.resolve())
        _migrate(settings)
        # The workers end first: what they still report is recorded.
        groups = tuple(_started(running, settings, log, ports) for ports in _PORTS_OF_GROUPS)
        api_url = f"http://{LOOPBACK}:{settings['RETRIEVER_API_PORT']}"
        has_contact = bool(settings.get("RETRIEVER_CONTACT_URL"))
        yield Stack(api_url, settings["RETRIEVER_DATABASE_URL"], broker, has_contact, groups)


async def _connect(amqp_url: str) -> None:
    async with connected(amqp_url, name="retriever make run"):
        pass


def _started(
    running: ExitStack, settings: Mapping[str, str], log: Path | None, ports: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start processes of the Procfile and return their honcho when each of them is ready."""
    group = _start(settings, log, *ports)
    running.callback(_end_group, group)
    for process, port in ports.items():
        wait_until_ready(
            lambda port=port: _is_ready(int(settings[port]), group),  # type: ignore[misc]
            name=f"The {process} of Retriever",
            deadline_seconds=READY_SECONDS,
            is_alive=lambda: group.poll() is None,
            read_log=lambda: log.read_text(errors="replace") if log else "(it is above)",
        )
    return group


def _settings(environment: Mapping[str, str], broker: Broker, data_dir: Path) -> dict[str, str]:
    """Return the processes' environment; their `python` is the one that runs this."""
    database_url = environment.get("RETRIEVER_DATABASE_URL") or f"sqlite:///{data_dir / 'retriever.db'}"
    folders = [str(Path(sys.executable).parent), environment.get("PATH", os.defpath)]
    return {
        **_made(environment, data_dir, "webhook_secrets", lambda: f"whsec_{_random()}"),
        **_made(environment, data_dir, "encryption_keys", _random),
        **_made(environment, data_dir, "mask_key", _random),
        **environment,
        "PATH": os.pathsep.join(folders),
        "PYTHONUNBUFFERED": "1",
        **{name: value for name, value in os.environ.items() if name == RUN_VARIABLE},
        "RETRIEVER_AMQP_URL": broker.amqp_url,
        "RETRIEVER_DATABASE_URL": database_url,
        **{
            port: environment.get(port) or str(free_port())
            for ports in _PORTS_OF_GROUPS
            for port in ports.values()
        },
    }


def _made(
    environment: Mapping[str, str], data_dir: Path, setting: str, make: Callable[[], str]
) -> dict[str, str]:
    """Return where the file of a secret is, made at the first start; nothing if one was given."""
    name = f"RETRIEVER_{setting.upper()}"
    if environment.get(name) or environment.get(f"{name}_FILE"):
        return {}
    path = data_dir / setting
    if not path.exists():
        # Written aside and renamed: a half written secret is never used.
        fresh = path.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(f"{make()}\n")
        fresh.rename(path)
    return {f"{name}_FILE": str(path)}


def _random() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


def _migrate(settings: Mapping[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "producer", "migrate"],
        cwd=ROOT,
        env=settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise StartFailed(
            f"`python -m producer migrate` failed with status {done.returncode}:\n{done.stdout}"
        )


def _start(settings: Mapping[str, str], log: Path | None, *names: str) -> subprocess.Popen[bytes]:
    # --env: honcho would let a .env file override the settings that we pass.
    command = [
        sys.executable,
        "-m",
        "honcho",
        "--env",
        os.devnull,
        "--procfile",
        str(ROOT / "Procfile"),
        "start",
        *names,
    ]
    with (log or Path(os.devnull)).open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=settings,
            stdin=subprocess.DEVNULL,
            stdout=output if log else None,
            stderr=subprocess.STDOUT if log else None,
            # Its own session: Ctrl-C in the terminal reaches us alone, and we stop it in order.
            start_new_session=True,
        )


def _end_group(group: subprocess.Popen[bytes]) -> None:
    """End a honcho and all that it started; one that failed (its terminal is gone) leaves them running."""
    started = {pid: command_line(pid) for pid in descendants(group.pid)}
    end(group, by=signal.SIGTERM, grace_seconds=STOP_SECONDS)
    # The command too, so that a recycled id is left alone.
    end_processes(
        lambda: {pid for pid, command in started.items() if command and command_line(pid) == command}
    )


def _is_ready(port: int, group: subprocess.Popen[bytes]) -> bool:
    """Tell whether a process of the group says on a port that it is ready, and not a stranger's."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=4)
    try:
        connection.request("GET", "/readyz")
        is_ready = connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    if not is_ready:
        return False
    listening = listeners(port)
    return not listening or bool(listening & descendants(group.pid))
