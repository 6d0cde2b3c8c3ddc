"""How the end of a command is judged by the table of its job."""

import pytest

from consumer.commands.verdict import CommandEnd, Limit, NotStarted, outcome_of
from shared.kinds.command import CommandArgs, Judgement
from shared.outcomes import Failed, Succeeded


def judge(end: CommandEnd, **table: str) -> str:
    exit_codes = {word.removeprefix("code_"): Judgement(said) for word, said in table.items()}
    outcome = outcome_of(end, CommandArgs(argv=["true"], exit_codes=exit_codes))
    if isinstance(outcome, Succeeded):
        return "succeeded"
    assert isinstance(outcome, Failed)
    return f"{'transient' if outcome.transient else 'permanent'} {outcome.reason}"


@pytest.mark.parametrize(
    ("end", "judged"),
    [
        (CommandEnd(exit_code=0), "succeeded"),
        (CommandEnd(exit_code=3), "permanent exit_3"),
        (CommandEnd(signal="SIGSEGV"), "permanent killed_by_sigsegv"),
        (CommandEnd(exit_code=0, timed_out=True), "permanent timeout"),
        (CommandEnd(signal="SIGKILL", limit="processes"), "permanent limit_processes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_without_a_table_only_zero_is_a_success(end: CommandEnd, judged: str) -> None:
    assert judge(end) == judged


def test_the_table_says_which_exit_codes_succeed_and_which_are_tried_again() -> None:
    table = {"code_0": "permanent", "code_1": "succeeded", "code_75": "transient"}

    assert judge(CommandEnd(exit_code=0), **table) == "permanent exit_0"
    assert judge(CommandEnd(exit_code=1), **table) == "succeeded"
    assert judge(CommandEnd(exit_code=75), **table) == "transient exit_75"
    assert judge(CommandEnd(exit_code=2), **table) == "permanent exit_2"


def test_the_table_has_words_for_what_is_no_exit_code() -> None:
    table = {"timeout": "transient", "signal": "succeeded", "limit": "transient", "other": "transient"}

    assert judge(CommandEnd(signal="SIGTERM", timed_out=True), **table) == "transient timeout"
    assert judge(CommandEnd(signal="SIGTERM"), **table) == "succeeded"
    assert judge(CommandEnd(signal="SIGKILL", limit="file_bytes"), **table) == "transient limit_file_bytes"
    assert judge(CommandEnd(exit_code=9), **table) == "transient exit_9"
    # What is not named is `other`, zero too.
    assert judge(CommandEnd(exit_code=0), **table) == "transient exit_0"


@pytest.mark.parametrize("limit", ["cpu_seconds", "memory_bytes", "file_bytes", "processes"])
def test_a_limit_is_named_with_what_was_allowed(limit: Limit) -> None:
    end = CommandEnd(signal="SIGKILL", limit=limit)

    outcome = outcome_of(end, CommandArgs(argv=["true"]))

    assert isinstance(outcome, Failed)
    assert f"{getattr(end.limits, limit):,}" in outcome.explanation
    assert outcome.result is not None and outcome.result["limit"] == limit


def test_a_command_that_never_began_has_no_result_and_no_place_in_the_table() -> None:
    end = CommandEnd(not_started=NotStarted("start_failed", "There was no room.", transient=True))

    assert judge(end, other="succeeded") == "transient start_failed"
    outcome = outcome_of(end, CommandArgs(argv=["true"]))
    assert outcome.result is None
