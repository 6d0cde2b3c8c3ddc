"""The units of deploy/systemd: systemd reads them without complaint, and what they start exists."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from consumer.__main__ import main as consumer
from producer.__main__ import main as producer
from shared.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "systemd"
SERVICES = sorted(FOLDER.glob("*.service"))
UNITS = [*SERVICES, *sorted(FOLDER.glob("*.timer"))]
# 0 is no way in, 10 is none closed. A service of Debian without any of these has 9 or more.
MOST_EXPOSURE = 3.0

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd is not on this machine"
)


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Return a folder of the units, as if the code were in /opt/retriever."""
    folder = tmp_path / "units"
    shutil.copytree(FOLDER, folder)
    for unit in folder.rglob("*"):
        if unit.is_file():
            unit.write_text(unit.read_text().replace("/opt/retriever", str(ROOT)))
    return folder


def commands() -> list[tuple[str, list[str]]]:
    """Return module and arguments of everything that a unit starts."""
    lines = re.findall(r"^ExecStart=(.*)$", "\n".join(unit.read_text() for unit in SERVICES), re.MULTILINE)
    split = [shlex.split(line) for line in lines]
    assert all(words[:2] == ["/opt/retriever/.venv/bin/python", "-m"] for words in split)
    return [(words[2], words[3:]) for words in split]


@needs_systemd
def test_systemd_finds_nothing_wrong_with_any_unit(installed: Path) -> None:
    names = [str(installed / unit.name) for unit in UNITS]

    seen = analyze("verify", "--man=no", "--recursive-errors=no", *names)

    assert (seen.returncode, seen.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.stem)
def test_every_service_is_hardened(unit: Path, installed: Path) -> None:
    seen = analyze("security", "--offline=yes", "--no-pager", str(installed / unit.name))

    level = re.search(r"Overall exposure level for \S+: ([\d.]+)", seen.stdout)
    assert level is not None, seen.stderr
    assert float(level[1]) <= MOST_EXPOSURE, seen.stdout


@pytest.mark.parametrize(("module", "arguments"), commands())
def test_every_command_of_a_unit_is_one_of_ours(module: str, arguments: list[str]) -> None:
    group: click.Group = {"producer": producer, "consumer": consumer}[module]
    name, *options = arguments

    # It reads the options, and does nothing else.
    group.commands[name].make_context(name, options)


def test_every_setting_of_a_unit_exists() -> None:
    text = "\n".join(unit.read_text() for unit in FOLDER.rglob("*") if unit.is_file())
    named = {name.removesuffix("_FILE").lower() for name in re.findall(rf"{PREFIX}([A-Z_]+)", text)}

    assert named - set(Settings.model_fields) <= {""}
    assert {"amqp_url", "database_url", "webhook_secrets", "encryption_keys", "mask_key"} <= named
