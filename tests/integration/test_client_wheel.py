"""The client as others get it: a wheel in an environment of its own, with the versions of our lock."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMPORT_CPU_SECONDS = 0.2
MEASURE = """
import time
begun = time.process_time()
from retriever_client import Retriever
print(time.process_time() - begun)
"""
# Of what is installed, what nobody needs who has no use for the command line.
LIST = "import importlib.metadata as m; print('\\n'.join(d.name.lower() for d in m.distributions()))"


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an environment with the client alone, and its wheel beside it."""
    folder = tmp_path_factory.mktemp("wheel")
    lock = json.loads((ROOT / "Pipfile.lock").read_text())
    versions = {**lock["develop"], **lock["default"]}
    pinned = [
        f"{name.split('[')[0]}{each['version']}\n" for name, each in versions.items() if "version" in each
    ]
    (folder / "constraints.txt").write_text("".join(pinned))
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT / "client")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    install(folder, "")
    return folder


def install(folder: Path, extra: str) -> None:
    (wheel,) = folder.glob("*.whl")
    python = folder / "venv" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", python)
    run(*pip, "install", "--constraint", folder / "constraints.txt", f"{wheel}{extra}")


def test_a_program_that_uses_the_client_starts_at_once_and_has_nothing_of_the_command_line(
    environment: Path,
) -> None:
    python = environment / "venv" / "bin" / "python"

    seconds = min(float(run(python, "-c", MEASURE)) for _ in range(3))
    installed = run(python, "-c", LIST).split()

    assert seconds <= IMPORT_CPU_SECONDS
    assert {"retriever-client", "httpx2", "standardwebhooks"} <= set(installed)
    assert not set(installed) & {"click", "rich", "jmespath", "turbohtml", "markdown-it-py", "pydantic"}
    run(python, "-c", "from retriever_client import testing, webhooks, AsyncRetriever")


def test_the_extra_brings_the_command(environment: Path) -> None:
    install(environment, "[cli]")
    command = environment / "venv" / "bin" / "retriever"

    assert run(command, "--version").startswith("retriever, version 0.2.0")
    shown = run(command, "--help")
    assert all(name in shown for name in ("check", "jobs", "parked", "doctor", "completion"))
    (environment / "a.md").write_text("[there](b.md)\n")
    listed = run(command, "links", environment / "a.md", "-o", "ndjson")
    assert json.loads(listed)["line"] == 1
