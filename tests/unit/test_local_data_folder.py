"""What is said of processes that a killed run left behind, and who may read the folder."""

import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.data_folder import end_processes, private_folder
from deploy.local.errors import StartFailed
from deploy.local.processes import command_line


def test_leftovers_are_named_in_short_and_helpers_of_theirs_are_not() -> None:
    sleep = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
    with (
        subprocess.Popen([*sleep, " producer ledger"], stdout=subprocess.PIPE) as telling,
        subprocess.Popen(sleep, stdout=subprocess.PIPE) as silent,
    ):
        # Before that, a process may not have its own command line.
        assert [each.stdout and each.stdout.readline() for each in (telling, silent)] == [b"\n", b"\n"]
        processes = {each.pid: each for each in (telling, silent)}

        said = end_processes(lambda: {pid for pid, each in processes.items() if each.poll() is None})

        assert len(said) == 1
        assert said[0].startswith(f"{Path(sys.executable).name} -c") and f"({telling.pid})" in said[0]
        assert (telling.returncode, silent.returncode) == (-signal.SIGTERM, -signal.SIGTERM)
        assert command_line(telling.pid) == ""


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_data_folder_and_all_that_is_made_in_it_are_for_the_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "between" / "run"

    with private_folder(folder):
        (folder / "log").write_text("x")
        (folder / "broker").mkdir()

    assert [rights(each) for each in (folder.parent, folder, folder / "log", folder / "broker")] == [
        0o700,
        0o700,
        0o600,
        0o700,
    ]


@pytest.mark.parametrize("name", ["lock", "broker", "retriever.db", ""])
def test_a_data_folder_that_others_could_read_is_closed(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(0o755)
    if name:
        (folder / name).touch()

    with private_folder(folder):
        pass

    assert rights(folder) == 0o700


def test_a_folder_of_somebody_elses_files_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    tmp_path.chmod(0o755)

    with pytest.raises(StartFailed, match="chmod 700"), private_folder(tmp_path):
        pass

    assert rights(tmp_path) == 0o755
