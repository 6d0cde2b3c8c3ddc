"""What the commands of `make` for the compose stack ask of Docker, which a small program stands in for."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.documents import ROOT

# Writes what it is asked for, and answers as an engine does that runs, or does not.
DOCKER = """#!/bin/sh
echo "$*" >> "$ASKED"
exit "$DOCKER_ENDS_WITH"
"""
ALL = "compose --profile commands --profile agents"


def make(folder: Path, *arguments: str, docker_ends_with: int = 0) -> tuple[int, str, list[str]]:
    """Run `make` beside a stand-in for Docker; return its status, its complaint, and what it asked for."""
    asked = folder / "asked"
    asked.touch()
    docker = folder / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    environment = {
        **{name: value for name, value in os.environ.items() if name not in {"ARGS", "MAKEFLAGS", "num"}},
        "PATH": f"{folder}:{os.environ['PATH']}",
        "ASKED": str(asked),
        "DOCKER_ENDS_WITH": str(docker_ends_with),
    }
    done = subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr, [line for line in asked.read_text().splitlines() if line != "info"]


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["down"], f"{ALL} down --remove-orphans"),
        (["down-prune-db"], f"{ALL} down --remove-orphans --volumes"),
        (["logs"], f"{ALL} logs --follow --tail 100"),
        (["logs", "ARGS=api ledger"], f"{ALL} logs --follow --tail 100 api ledger"),
        (
            ["scale-workers", "num=3"],
            "compose up --detach --no-recreate --wait --scale worker=3 worker",
        ),
        (
            ["scale-agents", "num=12"],
            "compose --profile agents up --detach --no-recreate --wait --scale agent=12 agent",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_asks_docker_for_what_it_says(tmp_path: Path, arguments: list[str], asked: str) -> None:
    assert make(tmp_path, *arguments) == (0, "", [asked])


def test_up_starts_the_stack_and_says_where_it_is(tmp_path: Path) -> None:
    status, _, asked = make(tmp_path, "up")

    assert (status, asked[0]) == (0, "compose up --build --detach --wait")
    assert sorted(asked[1:]) == ["compose port api 8080", "compose port rabbitmq 15672"]


@pytest.mark.parametrize("target", ["scale-workers", "scale-agents"])
@pytest.mark.parametrize("num", ["", "num=", "num=-1", "num=three", "num=3 api", 'num=3"; touch made; "'])
def test_a_number_that_is_none_is_asked_for_and_changes_nothing(
    tmp_path: Path, target: str, num: str
) -> None:
    status, complaint, asked = make(tmp_path, target, *([num] if num else []))

    assert (status, asked) == (2, [])
    assert f"make {target} needs to know how many: make {target} num=3" in complaint
    assert not (ROOT / "made").exists()


@pytest.mark.parametrize("target", ["up", "down", "down-prune-db", "logs", "scale-workers", "scale-agents"])
def test_without_an_engine_a_command_says_so_and_does_nothing(tmp_path: Path, target: str) -> None:
    status, complaint, asked = make(tmp_path, target, "num=3", docker_ends_with=1)

    assert (status, asked) == (2, [])
    assert f"make {target} needs a Docker engine: `docker info` fails. Start one." in complaint
