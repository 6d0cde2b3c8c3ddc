"""A private node of an installed RabbitMQ: its own ports, cookie, data and log; needs no root, no service."""

import os
import secrets
import signal
import subprocess
import time
from pathlib import Path

from deploy.local.packages import installed, require
from deploy.local.ports import LOOPBACK
from deploy.local.processes import (
    POLL_SECONDS,
    end,
    end_leftover,
    kill_group,
    run_control,
    signal_group,
)

SERVER_PROGRAM = "rabbitmq-server"
# The scripts of the server itself: the one that Debian puts on PATH insists on root or the user rabbitmq.
SERVER_PLACES = (
    "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin",
    "/usr/local/opt/rabbitmq/sbin",
    "/opt/homebrew/opt/rabbitmq/sbin",
)
STOP_SECONDS = 30.0
PID_FILE_SECONDS = 30.0
# Queue lengths in the management API are a second old instead of five.
TICK_ARGUMENTS = "-rabbit collect_statistics_interval 1000 -rabbit quorum_tick_interval 1000"
# A queue that starts before its target exchange keeps its dead letters, and tries again only after this:
# three minutes by default, in which no delayed job moves. rabbitmq.conf has no name for it (3.10 to 4.3).
DEAD_LETTER_ARGUMENTS = "-rabbit dead_letter_worker_publisher_confirm_timeout 5000"
SERVER_ARGUMENTS = f"{TICK_ARGUMENTS} {DEAD_LETTER_ARGUMENTS}"
# Erlang's distribution has no business outside this machine.
LOOPBACK_ARGUMENTS = "-kernel inet_dist_use_interface {127,0,0,1}"
# The management API sees new connections at the shortest of its periods: a second instead of five.
STATISTICS = """\
management.sample_retention_policies.global.minute = 1
management.sample_retention_policies.basic.minute = 1
management.sample_retention_policies.detailed.minute = 1"""
CONFIGURATION = """\
listeners.tcp.1 = {host}:{amqp_port}
management.tcp.ip = {host}
management.tcp.port = {management_port}
# Small and absolute: a nearly full disk of a build machine must not block publishers.
disk_free_limit.absolute = 50MB
log.file.level = info
{statistics}
{configuration}
"""


def install_server() -> None:
    """Install RabbitMQ's Debian package.

    Raises:
        ProgramMissing: We may not, or it failed.
    """
    require(SERVER_PROGRAM, "rabbitmq-server", places=SERVER_PLACES)


class RabbitMQNode:
    """One node, a child of this process; needs a port mapper (epmd) beside it."""

    def __init__(
        self,
        data_dir: Path,
        *,
        amqp_port: int,
        management_port: int,
        distribution_port: int,
        epmd_port: int,
        node_name: str = "retriever@localhost",
        cookie: str | None = None,
        configuration: str = "",
        erlang_arguments: str = "",
    ) -> None:
        """Describe a node; its data, log and settings all live in `data_dir`.

        Args:
            data_dir: Of this node alone.
            amqp_port: Of 127.0.0.1, as all ports.
            management_port: Of the management API.
            distribution_port: Where other nodes and `rabbitmqctl` find it.
            epmd_port: Of the port mapper, which the nodes of a cluster share.
            node_name: With its host; names the data, so it stays from start to start.
            cookie: The secret that the nodes of a cluster share; None for one of its own.
            configuration: More lines of rabbitmq.conf.
            erlang_arguments: More arguments of the Erlang machine.

        Raises:
            ProgramMissing: RabbitMQ is not installed.
        """
        self._home = data_dir.resolve()
        self.node_name = node_name
        self._amqp_port = amqp_port
        self._management_port = management_port
        self._distribution_port = distribution_port
        self._epmd_port = epmd_port
        self._cookie = cookie or secrets.token_hex(20)
        self._configuration = configuration
        self._erlang_arguments = f"{SERVER_ARGUMENTS} {LOOPBACK_ARGUMENTS} {erlang_arguments}"
        self._server_script = installed(SERVER_PROGRAM, SERVER_PLACES)
        self._node: subprocess.Popen[bytes] | None = None
        self._console = self._home / "console.log"
        self._pid_file = self._home / "node.pid"

    def start(self) -> None:
        """Start the node (again); returns at once. One that a killed run left behind is ended first."""
        self._home.mkdir(parents=True, exist_ok=True)
        end_leftover(self._pid_file, mark=str(self._home))
        self._pid_file.unlink(missing_ok=True)
        self._write_settings()
        with self._console.open("ab") as console:
            # Its own session: Ctrl-C in the terminal reaches us alone, and we stop it in order.
            self._node = subprocess.Popen(
                [str(self._server_script)],
                env=self._environment(),
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Stop the node in order (SIGTERM) and wait. A frozen one is thawed first."""
        if self._node is not None:
            self.thaw()
            end(self._node, by=signal.SIGTERM, grace_seconds=STOP_SECONDS, pid=self._erlang_pid())

    def kill(self) -> None:
        """Kill the node and whatever it started."""
        if self._node is not None:
            kill_group(self._node)

    def freeze(self) -> None:
        """Let none of its processes run (SIGSTOP), while its connections stay open. Twice is once."""
        if self._node is not None:
            signal_group(self._node, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them run again."""
        if self._node is not None:
            signal_group(self._node, signal.SIGCONT)

    def control(self, *arguments: str, timeout_seconds: float) -> str:
        """Run the `rabbitmqctl` beside the server, as the node's owner, and return what it printed.

        Raises:
            ControlFailed: It failed, or took too long; the message ends with what it said.
        """
        return run_control(
            [str(self._server_script.with_name("rabbitmqctl")), "--silent", *arguments],
            environment=self._environment(),
            folder=self._home,
            timeout_seconds=timeout_seconds,
        )

    def remove(self) -> None:
        """End the node; one that never became ready is killed."""
        try:
            self.stop()
        finally:
            self.kill()

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

    def _environment(self) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))
        }
        return kept | {
            "HOME": str(self._home),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": self.node_name,
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self._home / "data"),
            "RABBITMQ_LOG_BASE": str(self._home / "log"),
            "RABBITMQ_PID_FILE": str(self._pid_file),
            "RABBITMQ_CONFIG_FILE": str(self._home / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self._home / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(self._home / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._home / "enabled_plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": self._erlang_arguments,
            "RABBITMQ_CTL_ERL_ARGS": LOOPBACK_ARGUMENTS,
        }

    def _write_settings(self) -> None:
        settings = CONFIGURATION.format(
            host=LOOPBACK,
            amqp_port=self._amqp_port,
            management_port=self._management_port,
            statistics=STATISTICS,
            configuration=self._configuration,
        )
        (self._home / "rabbitmq.conf").write_text(settings)
        # Empty, so that the machine's own files in /etc/rabbitmq are not read.
        (self._home / "advanced.config").write_text("[].\n")
        (self._home / "rabbitmq-env.conf").write_text("")
        (self._home / "enabled_plugins").write_text("[rabbitmq_management].\n")
        cookie = self._home / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(self._cookie)
            cookie.chmod(0o400)
