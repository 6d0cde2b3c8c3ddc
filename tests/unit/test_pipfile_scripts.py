"""`pipenv run NAME` runs a command that exists."""

import importlib
import tomllib

import click
import pytest

from tests.support.documents import read

SCRIPTS: dict[str, str] = tomllib.loads(read("Pipfile"))["scripts"]


@pytest.mark.parametrize(("name", "script"), SCRIPTS.items())
def test_a_script_runs_the_command_of_its_name(name: str, script: str) -> None:
    python, option, module, *arguments = script.split()
    command = importlib.import_module(_main_of(module)).main

    assert (python, option) == ("python", "-m")
    if isinstance(command, click.Group):
        assert arguments == [name] and name in command.commands
    else:
        assert arguments == [] and module.endswith(f".{name}")


def test_all_parts_of_the_service_have_a_script() -> None:
    assert {"api", "ledger", "worker", "agent", "migrate", "demo"} <= SCRIPTS.keys()


def _main_of(module: str) -> str:
    is_package = hasattr(importlib.import_module(module), "__path__")
    return f"{module}.__main__" if is_package else module
