"""The arguments of tasks."""

import pytest
from pydantic import ValidationError

from shared.kinds.command import CommandArgs
from shared.kinds.task import TaskArgs


def test_a_task_may_have_a_command_that_takes_longer_than_a_worker_may() -> None:
    command = {"argv": ["sleep", "7200"], "timeout_seconds": 7_200}

    task = TaskArgs.model_validate({"command": command})

    assert task.command is not None and task.command.timeout_seconds == 7_200
    with pytest.raises(ValidationError):
        CommandArgs.model_validate(command)


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"command": {"argv": ["true"]}, "payload": 1},
        {"command": {"argv": ["true"], "timeout_seconds": 86_401}},
        {"command": {"argv": ["true"], "shell": "true"}},
        {"payload": 1, "queue": "a b"},
        {"payload": 1, "queue": ""},
    ],
)
def test_arguments_that_say_too_little_or_too_much_are_refused(args: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TaskArgs.model_validate(args)
