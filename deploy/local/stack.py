"""The whole service on this machine: a broker, a migrated store, the Procfile's processes under honcho.

The workers start when the ledger is ready: before that the queues that they consume are not declared.
"""

import base64
import http.client
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from deploy.local.broker import Broker, open_broker
from deploy.local.errors import StartFailed
from deploy.local.ports import LOOPBACK, free_port
from deploy.local.processes import POLL_SECONDS, end, sigterm_as_exit, wait_until_ready

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

    def wait(self) -> int:
        """Block until a process has ended by itself; return the exit status of its group."""
        while (status := self.ended()) is None:
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
        LocalError: There is no broker, the migration failed, or a process did not become ready.
    """
    data_dir = data_dir.resolve()
    data_dir.mkdir(parents=True, exist_ok=True)
    with (
        open_broker(data_dir / "broker", environment=environment) as broker,
        open_service(broker, data_dir, environment, log=log) as stack,
    ):
        yield stack


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


def _started(
    running: ExitStack, settings: Mapping[str, str], log: Path | None, ports: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start processes of the Procfile and return their honcho when each of them is ready."""
    group = _start(settings, log, *ports)
    running.callback(end, group, by=signal.SIGTERM, grace_seconds=STOP_SECONDS)
    for process, port in ports.items():
        wait_until_ready(
            lambda port=port: _is_ready(settings[port]),  # type: ignore[misc]
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
        **_webhook_secrets(environment, data_dir),
        **environment,
        "PATH": os.pathsep.join(folders),
        "PYTHONUNBUFFERED": "1",
        "RETRIEVER_AMQP_URL": broker.amqp_url,
        "RETRIEVER_DATABASE_URL": database_url,
        **{
            port: environment.get(port) or str(free_port())
            for ports in _PORTS_OF_GROUPS
            for port in ports.values()
        },
    }


def _webhook_secrets(environment: Mapping[str, str], data_dir: Path) -> dict[str, str]:
    """Return where the secret that signs webhooks is, made at the first start; nothing if one was given."""
    name = "RETRIEVER_WEBHOOK_SECRETS"
    if environment.get(name) or environment.get(f"{name}_FILE"):
        return {}
    path = data_dir / "webhook_secrets"
    if not path.exists():
        # Written aside and renamed: a half written secret is never used.
        fresh = path.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}\n")
        fresh.rename(path)
    return {f"{name}_FILE": str(path)}


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


def _is_ready(port: str) -> bool:
    connection = http.client.HTTPConnection(LOOPBACK, int(port), timeout=4)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
