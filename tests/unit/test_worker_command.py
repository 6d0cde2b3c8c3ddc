"""`python -m consumer worker`: a worker that nobody waits for stands back."""

import asyncio
import os

import pytest
from click.testing import CliRunner

import consumer.__main__ as commands
from consumer.plan import Plan
from shared.settings import Settings


@pytest.mark.parametrize(
    ("arguments", "nice", "lowered"),
    [
        (["--lanes", "bulk"], None, [10]),
        (["--lanes", "bulk"], "0", [0]),
        (["--lanes", "interactive"], None, []),
        ([], None, []),
    ],
)
def test_a_worker_of_the_bulk_lane_alone_lowers_its_priority(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], nice: str | None, lowered: list[int]
) -> None:
    told: list[int] = []
    lowered_when_run: list[list[int]] = []

    async def note(settings: Settings, plan: Plan, stop: asyncio.Event) -> None:
        lowered_when_run.append(list(told))

    monkeypatch.setattr(commands, "run_worker", note)
    monkeypatch.setattr(commands, "prepare_process", lambda *_, **__: None)
    monkeypatch.setattr(os, "nice", told.append)
    if nice is not None:
        monkeypatch.setenv("RETRIEVER_WORKER_BULK_NICE", nice)

    answer = CliRunner().invoke(commands.main, ["worker", *arguments])

    assert answer.exit_code == 0, answer.output
    # Before it starts what inherits it.
    assert lowered_when_run == [lowered]
