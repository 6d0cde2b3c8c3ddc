"""What is said of processes that a killed run left behind."""

import signal
import subprocess
import sys
from pathlib import Path

from deploy.local.data_folder import end_processes
from deploy.local.processes import command_line


def test_leftovers_are_named_in_short_and_helpers_of_theirs_are_not() -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen([*sleep, " producer ledger"]) as telling, subprocess.Popen(sleep) as silent:
        processes = {each.pid: each for each in (telling, silent)}

        said = end_processes(lambda: {pid for pid, each in processes.items() if each.poll() is None})

        assert len(said) == 1
        assert said[0].startswith(f"{Path(sys.executable).name} -c") and f"({telling.pid})" in said[0]
        assert (telling.returncode, silent.returncode) == (-signal.SIGTERM, -signal.SIGTERM)
        assert command_line(telling.pid) == ""
