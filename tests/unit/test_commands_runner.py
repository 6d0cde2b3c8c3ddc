"""Commands that never begin, and why."""

import asyncio
import errno

import pytest

from consumer.commands import runner
from consumer.commands.policy import CommandPolicy
from consumer.commands.runner import run_command
from consumer.commands.supervisor import Ending
from consumer.commands.verdict import outcome_of
from shared.kinds.command import CommandArgs
from shared.outcomes import Failed
from shared.settings import Settings


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> CommandPolicy:
    # It would change this process for good.
    monkeypatch.setattr(runner, "prepare_commands", lambda _: None)
    return CommandPolicy.of(Settings(command_programs=("printf", "no-such-program")))


async def outcome(policy: CommandPolicy, *argv: str) -> Failed:
    args = CommandArgs(argv=list(argv))
    found = outcome_of(await run_command(args, policy), args)
    assert isinstance(found, Failed)
    return found


async def test_a_command_that_is_not_allowed_fails_for_good(policy: CommandPolicy) -> None:
    failed = await outcome(policy, "ls")

    assert (failed.reason, failed.transient) == ("not_allowed", False)


async def test_a_program_that_is_missing_fails_for_good(policy: CommandPolicy) -> None:
    failed = await outcome(policy, "no-such-program")

    assert (failed.reason, failed.transient) == ("program_missing", False)
    assert failed.explanation == "There is no program 'no-such-program' here."


async def test_without_room_for_one_more_process_a_command_is_tried_again(
    policy: CommandPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("subprocess.Popen", fail)

    failed = await outcome(policy, "printf")

    assert (failed.reason, failed.transient) == ("start_failed", True)
    assert failed.explanation == "Its supervisor could not be started: Resource temporarily unavailable."


def end_as(ending: Ending | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the supervisor say this."""

    class Running:
        def __init__(self, *_: object) -> None:
            pass

        async def wait(self, _: object) -> None:
            await asyncio.sleep(0)

        async def close(self) -> Ending | None:
            return ending

        def show(self, _: object) -> None:
            pass

    monkeypatch.setattr(runner, "_Running", Running)


@pytest.mark.parametrize(
    ("is_unfit", "reason", "transient"), [(True, "program_unfit", False), (False, "start_failed", True)]
)
async def test_what_the_supervisor_could_not_start_is_tried_again_unless_the_program_is_unfit(
    policy: CommandPolicy, monkeypatch: pytest.MonkeyPatch, is_unfit: bool, reason: str, transient: bool
) -> None:
    end_as(Ending(error=errno.ENOMEM, is_unfit=is_unfit), monkeypatch)

    failed = await outcome(policy, "printf")

    assert (failed.reason, failed.transient, failed.result) == (reason, transient, None)
    assert "Cannot allocate memory" in failed.explanation


async def test_a_mistake_of_the_supervisor_is_logged_and_the_command_tried_again(
    policy: CommandPolicy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    end_as(Ending(crash="Traceback: of ours"), monkeypatch)

    failed = await outcome(policy, "printf")

    assert (failed.reason, failed.transient) == ("supervisor_lost", True)
    assert "see the log" in failed.explanation
    assert [vars(record)["traceback"] for record in caplog.records] == ["Traceback: of ours"]
