"""What the operator allows, and what a job is told that asks for more."""

import os
from collections.abc import Mapping
from typing import Any

import pytest

from consumer.commands.policy import CommandPolicy
from shared.errors import SettingsInvalid
from shared.kinds.command import CommandArgs, CommandLimits
from shared.settings import Settings


def refusal(args: Mapping[str, Any], **settings: Any) -> str | None:
    values = {"command_programs": ("printf",), **settings}
    return CommandPolicy.of(Settings(**values)).refusal(CommandArgs.model_validate(args))


def test_every_program_may_be_run_until_the_operator_names_some_but_no_line_for_the_shell() -> None:
    policy = CommandPolicy.of(Settings())

    assert policy.refusal(CommandArgs(argv=["ls"])) is None
    assert "RETRIEVER_COMMAND_SHELL" in str(policy.refusal(CommandArgs.model_validate({"shell": "ls"})))


def test_a_process_that_may_run_nothing_does_not_start() -> None:
    with pytest.raises(SettingsInvalid, match="RETRIEVER_COMMAND_PROGRAMS: name the programs"):
        CommandPolicy.of(Settings(command_programs=()))


@pytest.mark.parametrize("program", ["printf", "/usr/bin/printf"])
@pytest.mark.parametrize("listed", ["printf", "/usr/bin/printf"])
def test_a_program_is_allowed_by_its_name_or_path(program: str, listed: str) -> None:
    assert refusal({"argv": [program]}, command_programs=(listed,)) is None


@pytest.mark.parametrize("program", ["ls", "/usr/bin/ls", "./printf", "bin/printf", "/tmp/printf", "*"])  # noqa: S108
def test_another_program_is_refused_and_the_setting_named(program: str) -> None:
    said = refusal({"argv": [program]})

    assert said == f"{program!r} is not a program that jobs may run here (RETRIEVER_COMMAND_PROGRAMS)."


def test_a_star_allows_every_program_and_no_line_for_the_shell() -> None:
    assert refusal({"argv": ["ls"]}, command_programs=("*",)) is None
    assert "RETRIEVER_COMMAND_SHELL" in str(refusal({"shell": "ls"}, command_programs=("*",)))


def test_where_the_shell_is_allowed_every_program_is() -> None:
    assert refusal({"shell": "ls"}, command_programs=(), command_shell=True) is None
    assert refusal({"argv": ["ls"]}, command_programs=(), command_shell=True) is None


def test_only_variables_that_the_operator_names_can_be_set() -> None:
    args = {"argv": ["printf"], "env": {"COLOR": "red", "LD_PRELOAD": "x.so"}}

    assert "variable LD_PRELOAD" in str(refusal(args, command_env=("COLOR",)))
    assert refusal(args, command_env=("COLOR", "LD_PRELOAD")) is None


def test_asking_for_more_than_the_operator_allows_is_refused() -> None:
    said = refusal({"argv": ["printf"], "limits": {"processes": 300}}, command_max_processes=100)

    assert said == (
        "The job asks for 300 processes, and at most 100 are allowed here (RETRIEVER_COMMAND_MAX_PROCESSES)."
    )


def test_a_job_that_asks_for_nothing_gets_what_is_allowed() -> None:
    policy = CommandPolicy.of(Settings(command_programs=("printf",), command_max_processes=10))
    args = CommandArgs(argv=["printf"])

    assert policy.refusal(args) is None
    assert policy.limits(args.limits) == CommandLimits(processes=10)


def test_the_environment_has_nothing_of_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRIEVER_AMQP_URL", "amqp://secret@host/")
    policy = CommandPolicy.of(Settings(command_programs=("printf",), command_env=("A",)))

    environment = policy.environment(CommandArgs(argv=["printf"], env={"A": "1"}), "/folder")

    assert sorted(environment) == ["A", "HOME", "LANG", "PATH", "TMPDIR", "TZ"]
    assert environment["HOME"] == environment["TMPDIR"] == "/folder"


def test_commands_of_root_run_as_nobody_unless_another_user_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("consumer.commands.policy._can_change_user", lambda: True)

    assert CommandPolicy.of(Settings(command_programs=("*",))).user == (65_534, 65_534)
    for name, said in {
        "root": "never run as root",
        "0": "never run as root",
        "nemo": "no user 'nemo'",
    }.items():
        with pytest.raises(SettingsInvalid, match=said):
            CommandPolicy.of(Settings(command_programs=("*",), command_user=name))


def test_root_without_the_right_to_become_another_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("consumer.commands.policy._can_change_user", lambda: False)

    with pytest.raises(SettingsInvalid, match="may not become another user"):
        CommandPolicy.of(Settings(command_programs=("*",)))


def test_an_ordinary_user_runs_commands_as_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1)

    assert CommandPolicy.of(Settings(command_programs=("*",))).user is None
    assert CommandPolicy.of(Settings(command_programs=("*",), command_user="daemon")).user is None
    with pytest.raises(SettingsInvalid, match="only root can"):
        CommandPolicy.of(Settings(command_programs=("*",), command_user="nobody"))
