"""What the service writes on disk is for its own user alone."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.stack import ROOT
from producer.store import submissions
from producer.store.database import Database
from producer.store.migrate import migrate
from tests.support.environment import clean_environment
from tests.support.factories import make_job

FILES = ("", "-wal", "-shm")


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_a_sqlite_file_its_log_and_its_folder_are_for_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "data" / "retriever.db"

    migrate(f"sqlite:///{path}")
    store = Database.open(f"sqlite:///{path}")
    store.write(submissions.insert_jobs, [make_job()])
    made = {name: rights(Path(f"{path}{name}")) for name in FILES}
    store.close()

    assert made == dict.fromkeys(FILES, 0o600)
    assert rights(path.parent) == 0o700


def test_a_sqlite_file_that_all_could_read_is_closed_to_others_by_migrate(tmp_path: Path) -> None:
    path = tmp_path / "retriever.db"
    migrate(f"sqlite:///{path}")
    path.chmod(0o664)

    migrate(f"sqlite:///{path}")

    # A group may have been let in on purpose.
    assert rights(path) == 0o660


@pytest.mark.parametrize("command", ["producer", "consumer"])
def test_a_process_writes_files_for_its_own_user_alone(command: str, tmp_path: Path) -> None:
    program = (
        "from shared.process import prepare_process; from shared.settings import Settings;"
        f"prepare_process(Settings(), process='{command}'); open('made', 'w').close()"
    )
    subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        check=True,
        env={**clean_environment(), "PYTHONPATH": str(ROOT)},
    )

    assert rights(tmp_path / "made") == 0o600
