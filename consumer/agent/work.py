"""What an agent does with a task: it runs the command, or hands the payload to the operator's handler."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from pydantic import ValidationError

from consumer.agent.task_api import End, PickedTask
from consumer.commands.policy import CommandPolicy
from consumer.commands.runner import prepare_commands, run_command
from consumer.commands.verdict import outcome_of
from shared import exact_json
from shared.errors import SettingsInvalid
from shared.kinds.command import CommandArgs, Judgement, OutputSnapshot
from shared.kinds.task import MAX_TASK_SECONDS, TaskCommand
from shared.outcomes import Failed, Succeeded
from shared.settings import Settings

NO_HANDLER: Final = "no_handler"

# EX_TEMPFAIL of sysexits.h: try again later. All else is as for commands.
_HANDLER_EXIT_CODES = {"75": Judgement.TRANSIENT, "0": Judgement.SUCCEEDED}

Show = Callable[[OutputSnapshot], None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TaskWork:
    """Does tasks, within what the operator of the agent allows.

    Attributes:
        commands: What commands of tasks may do.
        handlers: The same for the handler, which is the operator's own and no job's choice.
        handler: The program that gets payloads, if there is one.
    """

    commands: CommandPolicy
    handlers: CommandPolicy
    handler: str = ""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the work of this process, which is fit to run commands then.

        Raises:
            SettingsInvalid: nothing may be run, there is no such handler, or commands cannot be run here.
        """
        handler = settings.agent_handler
        if not handler:
            policy = CommandPolicy.of(settings)
            prepare_commands(policy)
            return cls(policy, policy)
        handlers = CommandPolicy.of(settings.model_copy(update={"command_programs": (handler,)}))
        if handlers.program(CommandArgs(argv=[handler])) is None:
            raise SettingsInvalid(f"RETRIEVER_AGENT_HANDLER: there is no program {handler} that can be run")
        prepare_commands(handlers)
        return cls(replace(handlers, programs=frozenset(settings.command_programs)), handlers, handler)

    async def __call__(self, task: PickedTask, show: Show) -> End:
        """Return what a task came to. Cancelling it ends all that it started; it raises nothing else."""
        try:
            if task.command is None:
                return await self._handle(task.payload, show)
            return await self._run(task.command, show)
        except Exception:  # One of the edges: a bug of ours fails one task, not the agent.
            logger.exception("work_crashed", extra={"task_id": str(task.id), "attempt": task.attempt})
            said = "The agent failed in an unexpected way; see its log."
            return Failed("handler_crashed", said, transient=True)

    async def _run(self, command: dict[str, Any], show: Show) -> End:
        try:
            args = TaskCommand.model_validate(command)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            place = "/".join(str(part) for part in ("command", *first["loc"]))
            said = f"This agent cannot read the command: {place}: {first['msg']}"
            return Failed("arguments_invalid", said, transient=False)
        return await _end_of(args, self.commands, show)

    async def _handle(self, payload: Any, show: Show) -> End:
        if not self.handler:
            said = "The task has a payload and no command. An agent with --handler PROGRAM does such tasks."
            return Failed(NO_HANDLER, said, transient=False)
        args = TaskCommand(
            argv=[self.handler],
            timeout_seconds=MAX_TASK_SECONDS,
            exit_codes=_HANDLER_EXIT_CODES,
            limits=self.handlers.ceilings,
        )
        # A payload may be longer than what jobs may send to a command.
        args = args.model_copy(update={"stdin": exact_json.dumps(payload).decode()})
        end = await _end_of(args, self.handlers, show)
        if isinstance(end, Succeeded) and (output := _json(end.result["stdout"])) is not None:
            return Succeeded({**end.result, "output": output, "stdout": None})
        return end


async def _end_of(args: CommandArgs, policy: CommandPolicy, show: Show) -> End:
    end = outcome_of(await run_command(args, policy, on_output=show), args)
    assert isinstance(end, Succeeded | Failed)
    return end


def _json(stdout: dict[str, Any]) -> Any:
    """Return what a program wrote as the value of its JSON; None when it is none, or not all was kept."""
    try:
        value = None if stdout["omitted_bytes"] else exact_json.loads(stdout["text"])
        exact_json.dumps(value)
    except (ValueError, TypeError):
        return None
    return value
