"""One private PostgreSQL server of this machine; as root it runs as another user, because it must."""

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from deploy.local.errors import LocalError, StartFailed
from deploy.local.packages import require
from deploy.local.ports import LOOPBACK
from deploy.local.processes import POLL_SECONDS, children, command_line, end, end_leftover

SERVER_PLACES = (
    "/usr/lib/postgresql/*/bin",
    "/usr/local/opt/postgresql*/bin",
    "/opt/homebrew/opt/postgresql*/bin",
)
USER = "retriever"
STOP_SECONDS = 20.0
ORPHAN_SECONDS = 10.0
INITDB_SECONDS = 120
# The data must outlive the process, not the machine. synchronous_commit stays on: without fsync it costs next
# to nothing, and turning it off would lose the last commits when a test kills the server.
FAST_SETTINGS = (
    *("-c", "fsync=off"),
    *("-c", "full_page_writes=off"),
    *("-c", "max_connections=200"),
)
# For a server that must outlive its machine: a committed transaction is on the disk.
DURABLE_SETTINGS = ("-c", "max_connections=200")


def install_server() -> None:
    """Install PostgreSQL's Debian package.

    Raises:
        ProgramMissing: We may not, or it failed.
    """
    require("initdb", "postgresql", places=SERVER_PLACES)


class PostgresServer:
    """A server with trust on the loopback address and no socket file (their paths may be 107 bytes long)."""

    def __init__(
        self, data_dir: Path | None, temporary: Path, *, port: int, settings: Sequence[str] = FAST_SETTINGS
    ) -> None:
        """Describe a server.

        Args:
            data_dir: Where its data and log live, if its user can get there.
            temporary: Where they live otherwise; the caller removes it.
            port: TCP port on 127.0.0.1.
            settings: More arguments of the server.

        Raises:
            ProgramMissing: PostgreSQL is not installed.
        """
        self._account = server_account()
        self._home = self._choose_home(data_dir, temporary)
        self._data = self._home / "data"
        self._log = self._home / "postgres.log"
        self._port = port
        self._settings = settings
        self._initdb = require("initdb", "postgresql", places=SERVER_PLACES)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server (again), making its data first; returns before it answers."""
        end_leftover(self._data / "postmaster.pid", mark=str(self._data))
        if not (self._data / "PG_VERSION").exists():
            self._make_data()
        settings = {"listen_addresses": LOOPBACK, "port": str(self._port), "unix_socket_directories": ""}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._initdb.with_name("postgres")), "-D", str(self._data), *options, *self._settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=_environment(),
                user=self._account and self._account.pw_uid,
                group=self._account and self._account.pw_gid,
                extra_groups=[] if self._account else None,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Stop the server: "fast", its connections are dropped."""
        if self._process is not None:
            end(self._process, by=signal.SIGINT, grace_seconds=STOP_SECONDS)

    def kill(self) -> None:
        """Kill the server and each of its backends, which have sessions of their own."""
        if self._process is None or self._process.poll() is not None:
            return
        backends = children(self._process.pid)
        for pid in [self._process.pid, *backends]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait()
        give_up_at = time.monotonic() + ORPHAN_SECONDS
        # The next server refuses the data while a backend of this one still holds its shared memory.
        while any(command_line(pid) for pid in backends) and time.monotonic() < give_up_at:
            time.sleep(POLL_SECONDS)

    def remove(self) -> None:
        """Stop the server for good."""
        self.stop()

    def is_alive(self) -> bool:
        """Tell whether the server's process runs."""
        return self._process is not None and self._process.poll() is None

    def read_log(self) -> str:
        """Return the server's log so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def _choose_home(self, data_dir: Path | None, temporary: Path) -> Path:
        """Return the first folder that the server's user can write, made and handed to that user."""
        for parent in [data_dir, temporary]:
            if parent is None:
                continue
            home = parent.resolve() / "postgres"
            home.mkdir(parents=True, exist_ok=True)
            if self._account is None:
                return home
            if parent == temporary:
                temporary.chmod(0o711)
            os.chown(home, self._account.pw_uid, self._account.pw_gid)
            if self._run(["test", "-w", str(home)]).returncode == 0:
                return home
        raise LocalError(f"PostgreSQL's user can write neither to {data_dir} nor to {temporary}.")

    def _make_data(self) -> None:
        # What a killed initdb left would stop this one.
        shutil.rmtree(self._data, ignore_errors=True)
        choices = ["--username", USER, "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync"]
        done = self._run([str(self._initdb), "-D", str(self._data), *choices])
        if done.returncode != 0:
            raise StartFailed(
                f"initdb failed with status {done.returncode}:\n{done.stdout.decode(errors='replace')}"
            )

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=INITDB_SECONDS,
            check=False,
            cwd="/",
            env=_environment(),
            user=self._account and self._account.pw_uid,
            group=self._account and self._account.pw_gid,
            extra_groups=[] if self._account else None,
        )


def _environment() -> dict[str, str]:
    """Return our environment without what would redirect PostgreSQL's programs (PGDATA, PGPORT, ...)."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def server_account() -> pwd.struct_passwd | None:
    """Return whom the server runs as, or None to run it as ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise LocalError(
        "PostgreSQL never runs as root, and there is neither a user postgres nor nobody; add one."
    )
