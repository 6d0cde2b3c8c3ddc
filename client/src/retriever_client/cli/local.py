"""A service on this machine for the length of one command: started, used, stopped.

The client knows nothing of the service but how it is started, and that it says when it is ready.
"""

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from retriever_client import ApiError, ConnectionFailed, Retriever, RetrieverError
from retriever_client.cli.output import say

# The first start on a machine may have to install RabbitMQ.
_READY_SECONDS: Final = 300.0
_STOP_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.2
_MODULE: Final = "deploy.local.run"
# Of another service, which this one must not touch.
_NOT_PASSED_ON: Final = (
    "RETRIEVER_URL",
    "RETRIEVER_KEY",
    "RETRIEVER_KEY_FILE",
    "RETRIEVER_DATABASE_URL_FILE",
)


class ServiceMissing(RetrieverError):
    """There is no service on this machine that could be started."""


class ServiceFailed(ConnectionFailed):
    """The service on this machine did not start."""


@dataclass(frozen=True, slots=True)
class Home:
    """Where a service is installed: its folder, and the Python that has what it needs."""

    folder: Path
    python: Path


@contextmanager
def local_service(data: Path | None) -> Iterator[Retriever]:
    """Start a service and yield a client of it; stop it afterwards, however that comes.

    Args:
        data: What is kept from run to run, such as answers for `--max-age`; a folder of the user's cache
            without one.

    Raises:
        ServiceMissing: There is none.
        ServiceFailed: It did not start.
    """
    home = find_home()
    folder = (data or _cache()).absolute()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = folder / "service.log"
    port = _free_port()
    say(f"Starting a service on this machine, data in {folder}.")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(home.python), "-m", _MODULE, "--data-dir", str(folder), "--with-parent"],
            cwd=home.folder,
            env=_environment(folder, port),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for us: we stop it in order.
            start_new_session=True,
        )
    try:
        _wait_until_ready(process, f"http://127.0.0.1:{port}", log)
        with Retriever(f"http://127.0.0.1:{port}", key="") as retriever:
            yield retriever
    finally:
        # It also ends by itself when we do.
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def find_home() -> Home:
    """Return where the service is: in RETRIEVER_HOME, or beside this client.

    Raises:
        ServiceMissing: Neither is.
    """
    if named := os.environ.get("RETRIEVER_HOME"):
        folder = Path(named).expanduser().absolute()
        if not _is_home(folder):
            raise ServiceMissing(f"RETRIEVER_HOME: there is no Retriever in {folder}")
        own = folder / ".venv" / "bin" / "python"
        return Home(folder, own if own.exists() else Path(sys.executable))
    # Not by importing it: `deploy` may be anybody's.
    spec = importlib.util.find_spec("producer")
    if spec is not None and spec.origin is not None and _is_home(folder := Path(spec.origin).parents[1]):
        return Home(folder, Path(sys.executable))
    raise ServiceMissing(
        "There is no service on this machine to start. Clone Retriever, run `make setup` in it and set "
        "RETRIEVER_HOME to its folder; or say with --url or RETRIEVER_URL where one runs."
    )


def _is_home(folder: Path) -> bool:
    return (folder / "deploy" / "local" / "run.py").is_file() and (folder / "Procfile").is_file()


def _environment(folder: Path, port: int) -> dict[str, str]:
    passed_on = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON}
    return passed_on | {
        "RETRIEVER_API_HOST": "127.0.0.1",
        "RETRIEVER_API_PORT": str(port),
        "RETRIEVER_DATABASE_URL": f"sqlite:///{folder / 'retriever.db'}",
    }


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    ends_at = time.monotonic() + _READY_SECONDS
    with Retriever(url, key="", retries=0, timeout_seconds=4.0) as retriever:
        while True:
            try:
                if retriever.is_ready():
                    return
            except (ConnectionFailed, ApiError):
                pass  # Not yet.
            if process.poll() is not None:
                raise ServiceFailed(f"The service did not start: {_last_words(log)}")
            if time.monotonic() > ends_at:
                raise ServiceFailed(f"The service was not ready in {_READY_SECONDS:g} s; see {log}")
            time.sleep(_LOOK_SECONDS)


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("make run: ") if lines else f"it said nothing in {log}"


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "retriever" / "local"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
