"""The work of the `command` kind: run a program, tell of its output meanwhile, judge its end."""

from collections.abc import Awaitable

from pydantic import BaseModel

from consumer.commands.policy import CommandPolicy
from consumer.commands.runner import prepare_commands, run_command
from consumer.commands.verdict import outcome_of
from consumer.executor import BoundHandler
from consumer.live_output import LiveOutput
from consumer.politeness.host_limiters import FirstPermit
from shared.kinds.command import CommandArgs
from shared.messages import JobMessage
from shared.outcomes import Outcome


def command_handler(policy: CommandPolicy, live_output: LiveOutput) -> BoundHandler:
    """Return the handler of a worker that may run commands; this process is made fit for it.

    Raises:
        SettingsInvalid: working folders cannot be made where the operator wants them.
    """
    prepare_commands(policy)

    async def run(args: BaseModel, job: JobMessage) -> Outcome:
        if not isinstance(args, CommandArgs):
            raise TypeError(f"{type(args).__name__} is not CommandArgs")
        with live_output.of(job) as on_output:
            end = await run_command(args, policy, on_output=on_output)
        return outcome_of(end, args)

    def handle(args: BaseModel, job: JobMessage, _: FirstPermit) -> Awaitable[Outcome]:
        return run(args, job)

    return handle
