"""The port mapper (epmd) of Erlang's nodes: a private one, so that no node of ours meets another's."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.local.packages import installed
from deploy.local.ports import LOOPBACK
from deploy.local.processes import end, end_leftover

PLACES = (
    "/usr/lib/erlang/erts-*/bin",
    "/usr/local/lib/erlang/erts-*/bin",
    "/opt/homebrew/lib/erlang/erts-*/bin",
)


@contextmanager
def open_port_mapper(data_dir: Path, port: int) -> Iterator[None]:
    """Run a port mapper on a port of 127.0.0.1; nodes find each other when they share one.

    Args:
        data_dir: Remembers its id, so that one that a killed run left behind is ended first.
        port: A free one.

    Raises:
        ProgramMissing: Erlang's epmd is not installed.
    """
    program = installed("epmd", PLACES)
    data_dir.mkdir(parents=True, exist_ok=True)
    pid_file = data_dir / "epmd.pid"
    end_leftover(pid_file, mark="epmd -port")
    process = subprocess.Popen(
        [str(program), "-port", str(port), "-address", LOOPBACK],
        cwd=data_dir,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        pid_file.write_text(str(process.pid))
        yield
    finally:
        end(process, by=signal.SIGTERM, grace_seconds=2.0)
