"""What an agent does with tasks: real programs, under the operator's policy."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from consumer.agent.task_api import End
from consumer.agent.work import TaskWork
from shared.errors import SettingsInvalid
from shared.kinds.command import OutputSnapshot
from shared.outcomes import Failed, Succeeded
from shared.settings import Settings
from tests.support.task_api import make_picked_task

MakeProgram = Callable[[str], str]


@pytest.fixture
def make_program() -> Iterator[MakeProgram]:
    """Give a way to make a program out of lines for the shell, which the user of commands may run."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)

    def make(lines: str) -> str:
        program = folder / "program"
        program.write_text(f"#!/bin/sh\n{lines}\n")
        program.chmod(0o755)
        return str(program)

    yield make
    shutil.rmtree(folder)


def ignore(_output: OutputSnapshot) -> None:
    """Show nobody."""


async def do(
    *,
    payload: Any = None,
    command: dict[str, Any] | None = None,
    handler: str = "",
    programs: tuple[str, ...] = ("printf", "false"),
) -> End:
    """Return what a task comes to at an agent with these settings."""
    work = TaskWork.of(Settings(command_programs=programs, agent_handler=handler))
    return await work(make_picked_task(payload=payload, command=command), ignore)


async def test_a_command_is_run_and_what_it_wrote_is_its_result() -> None:
    end = await do(command={"argv": ["printf", "hi"]})

    assert isinstance(end, Succeeded)
    assert (end.result["exit_code"], end.result["stdout"]["text"]) == (0, "hi")


async def test_a_command_may_take_longer_than_at_a_worker() -> None:
    end = await do(command={"argv": ["printf", "hi"], "timeout_seconds": 7_200})

    assert isinstance(end, Succeeded)


async def test_a_handler_may_use_all_that_the_operator_allows(make_program: MakeProgram) -> None:
    end = await do(payload=1, handler=make_program("ulimit -n"))

    assert isinstance(end, Succeeded)
    assert end.result["output"] == Settings().command_max_open_files


async def test_a_command_is_judged_by_the_table_of_its_task() -> None:
    end = await do(command={"argv": ["false"], "exit_codes": {"1": "transient"}})

    assert isinstance(end, Failed)
    assert (end.reason, end.transient, (end.result or {})["exit_code"]) == ("exit_1", True, 1)


@pytest.mark.parametrize("handler", ["", "cat"])
async def test_a_command_that_the_operator_does_not_allow_is_not_run(handler: str) -> None:
    end = await do(command={"argv": ["cat"]}, handler=handler)

    assert isinstance(end, Failed)
    assert (end.reason, end.transient) == ("not_allowed", False)


async def test_a_command_that_this_version_cannot_read_fails_with_its_field() -> None:
    end = await do(command={"argv": ["printf"], "colour": "red"})

    assert isinstance(end, Failed)
    assert (end.reason, "command/colour" in end.explanation) == ("arguments_invalid", True)


async def test_a_payload_without_a_handler_fails_and_says_what_to_do() -> None:
    end = await do(payload={"id": 7})

    assert isinstance(end, Failed)
    assert (end.reason, end.transient) == ("no_handler", False)
    assert "--handler PROGRAM" in end.explanation


@pytest.mark.parametrize("payload", [{"id": 2**70, "name": "Žofie"}, [1, 2.5], "text", False, 0])
async def test_a_handler_gets_the_payload_and_its_json_is_the_output(payload: Any) -> None:
    end = await do(payload=payload, handler="cat", programs=())

    assert isinstance(end, Succeeded)
    assert end.result["output"] == payload and type(end.result["output"]) is type(payload)
    assert end.result["exit_code"] == 0


async def test_a_handler_gets_a_payload_that_is_longer_than_what_jobs_may_send_to_a_command(
    make_program: MakeProgram,
) -> None:
    end = await do(payload="x" * 900_000, handler=make_program("wc -c"))

    assert isinstance(end, Succeeded)
    assert end.result["output"] == 900_002


@pytest.mark.parametrize("lines", ["echo done", "printf '%0300d' | tr 0 '['", "echo NaN", "true"])
async def test_what_a_handler_writes_that_is_no_json_stays_text(
    make_program: MakeProgram, lines: str
) -> None:
    end = await do(payload=1, handler=make_program(lines))

    assert isinstance(end, Succeeded)
    assert "output" not in end.result and "text" in end.result["stdout"]


@pytest.mark.parametrize(("code", "is_transient"), [(75, True), (1, False)])
async def test_a_handler_says_by_its_exit_code_whether_to_try_again(
    make_program: MakeProgram, code: int, *, is_transient: bool
) -> None:
    end = await do(payload=1, handler=make_program(f"echo no luck >&2; exit {code}"))

    assert isinstance(end, Failed)
    assert (end.reason, end.transient) == (f"exit_{code}", is_transient)
    assert (end.result or {})["stderr"]["text"] == "no luck\n"


def test_a_handler_that_is_not_there_is_named_at_the_start() -> None:
    with pytest.raises(SettingsInvalid, match=r"RETRIEVER_AGENT_HANDLER: .*nowhere"):
        TaskWork.of(Settings(agent_handler="nowhere"))


def test_an_agent_that_may_run_nothing_does_not_start() -> None:
    with pytest.raises(SettingsInvalid, match="RETRIEVER_COMMAND_PROGRAMS"):
        TaskWork.of(Settings(command_programs=()))
