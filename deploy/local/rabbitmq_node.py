"""A private node of an installed RabbitMQ: its own ports, cookie, data and log; needs no root, no service."""

import os
import secrets
import signal
import subprocess
import time
from pathlib import Path

from deploy.local.errors import ProgramMissing
from deploy.local.packages import find, require
from deploy.local.ports import LOOPBACK
from deploy.local.processes import POLL_SECONDS, end, end_leftover, kill_group

SERVER_PROGRAM = "rabbitmq-server"
# The scripts of the server itself: the one that Debian puts on PATH insists on root or the user rabbitmq.
SERVER_PLACES = (
    "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin",
    "/usr/local/opt/rabbitmq/sbin",
    "/opt/homebrew/opt/rabbitmq/sbin",
)
EPMD_PLACES = (
    "/usr/lib/erlang/erts-*/bin",
    "/usr/local/lib/erlang/erts-*/bin",
    "/opt/homebrew/lib/erlang/erts-*/bin",
)
STOP_SECONDS = 30.0
PID_FILE_SECONDS = 30.0
# Queue lengths in the management API are a second old instead of five.
TICK_ARGUMENTS = "-rabbit collect_statistics_interval 1000 -rabbit quorum_tick_interval 1000"
# Erlang's distribution has no business outside this machine.
LOOPBACK_ARGUMENTS = "-kernel inet_dist_use_interface {127,0,0,1}"
CONFIGURATION = """\
listeners.tcp.1 = {host}:{amqp_port}
management.tcp.ip = {host}
management.tcp.port = {management_port}
# Small and absolute: a nearly full disk of a build machine must not block publishers.
disk_free_limit.absolute = 50MB
log.file.level = info
"""


def install_server() -> None:
    """Install RabbitMQ's Debian package.

    Raises:
        ProgramMissing: We may not, or it failed.
    """
    require(SERVER_PROGRAM, "rabbitmq-server", places=SERVER_PLACES)


class RabbitMQNode:
    """One node and the port mapper (epmd) that it needs, both children of this process."""

    def __init__(
        self, data_dir: Path, *, amqp_port: int, management_port: int, distribution_port: int, epmd_port: int
    ) -> None:
        """Describe a node; its data, log and settings all live in `data_dir`.

        Raises:
            ProgramMissing: RabbitMQ or Erlang's epmd is not installed.
        """
        self._home = data_dir.resolve()
        self._amqp_port = amqp_port
        self._management_port = management_port
        self._distribution_port = distribution_port
        self._epmd_port = epmd_port
        self._server_script = _installed(SERVER_PROGRAM, SERVER_PLACES)
        self._epmd_program = _installed("epmd", EPMD_PLACES)
        self._epmd: subprocess.Popen[bytes] | None = None
        self._node: subprocess.Popen[bytes] | None = None
        self._console = self._home / "console.log"
        self._pid_file = self._home / "node.pid"
        self._epmd_pid_file = self._home / "epmd.pid"

    def start(self) -> None:
        """Start the node (again); returns at once. One that a killed run left behind is ended first."""
        self._home.mkdir(parents=True, exist_ok=True)
        end_leftover(self._pid_file, mark=str(self._home))
        self._pid_file.unlink(missing_ok=True)
        self._write_settings()
        if self._epmd is None:
            end_leftover(self._epmd_pid_file, mark="epmd -port")
            port_mapper = [str(self._epmd_program), "-port", str(self._epmd_port), "-address", LOOPBACK]
            self._epmd = self._spawn(port_mapper)
            self._epmd_pid_file.write_text(str(self._epmd.pid))
        self._node = self._spawn([str(self._server_script)])

    def stop(self) -> None:
        """Stop the node in order (SIGTERM) and wait."""
        if self._node is not None:
            end(self._node, by=signal.SIGTERM, grace_seconds=STOP_SECONDS, pid=self._erlang_pid())

    def kill(self) -> None:
        """Kill the node and whatever it started."""
        if self._node is not None:
            kill_group(self._node)

    def remove(self) -> None:
        """End node and port mapper; a node that never became ready is killed."""
        try:
            self.stop()
        finally:
            self.kill()
            if self._epmd is not None:
                end(self._epmd, by=signal.SIGTERM, grace_seconds=2.0)

    def is_alive(self) -> bool:
        """Tell whether the node's process runs."""
        return self._node is not None and self._node.poll() is None

    def read_log(self) -> str:
        """Return the node's log and what it wrote to its console."""
        logs = [*sorted((self._home / "log").glob("*.log")), self._console]
        return "\n".join(log.read_text(errors="replace") for log in logs if log.exists())

    def _erlang_pid(self) -> int:
        """Return the id of the Erlang machine behind the start script; 0 if it never said."""
        give_up_at = time.monotonic() + PID_FILE_SECONDS
        while self.is_alive() and time.monotonic() < give_up_at:
            text = self._pid_file.read_text().strip() if self._pid_file.exists() else ""
            if text:
                return int(text)
            time.sleep(POLL_SECONDS)
        return 0

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        with self._console.open("ab") as console:
            # Its own session: Ctrl-C in the terminal reaches us alone, and we stop it in order.
            return subprocess.Popen(
                command,
                env=self._environment(),
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _environment(self) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))
        }
        return kept | {
            "HOME": str(self._home),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": "retriever@localhost",
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self._home / "data"),
            "RABBITMQ_LOG_BASE": str(self._home / "log"),
            "RABBITMQ_PID_FILE": str(self._pid_file),
            "RABBITMQ_CONFIG_FILE": str(self._home / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self._home / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(self._home / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._home / "enabled_plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{TICK_ARGUMENTS} {LOOPBACK_ARGUMENTS}",
        }

    def _write_settings(self) -> None:
        (self._home / "rabbitmq.conf").write_text(
            CONFIGURATION.format(
                host=LOOPBACK, amqp_port=self._amqp_port, management_port=self._management_port
            )
        )
        # Empty, so that the machine's own files in /etc/rabbitmq are not read.
        (self._home / "advanced.config").write_text("[].\n")
        (self._home / "rabbitmq-env.conf").write_text("")
        (self._home / "enabled_plugins").write_text("[rabbitmq_management].\n")
        cookie = self._home / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(secrets.token_hex(20))
            cookie.chmod(0o400)


def _installed(program: str, places: tuple[str, ...]) -> Path:
    found = find(program, places=places)
    if found is None:
        raise ProgramMissing(f"{program} is not installed; RabbitMQ with Erlang brings it.")
    return found
