"""`python -m consumer agent`: its options go before its variables, and what is wrong with them is named."""

import asyncio
from typing import Any

import pytest
from click.testing import CliRunner

import consumer.__main__ as commands
from shared.errors import SettingsInvalid
from shared.kinds.task import PickOrder
from shared.settings import Settings


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Settings, bool]]:
    """Return what agents are started with, in place of starting them."""
    started: list[tuple[Settings, bool]] = []

    async def note(settings: Settings, stop: asyncio.Event, *, is_draining: bool) -> None:
        started.append((settings, is_draining))

    monkeypatch.setattr(commands, "run_agent", note)
    monkeypatch.setattr(commands, "prepare_process", lambda *_, **__: None)
    return started


def run(*arguments: str) -> Any:
    return CliRunner().invoke(commands.main, ["agent", *arguments])


def test_an_agent_without_options_is_as_its_variables_say(
    runs: list[tuple[Settings, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRIEVER_AGENT_QUEUE", "reports")

    assert run().exit_code == 0

    [(settings, is_draining)] = runs
    assert (settings.agent_queue, settings.agent_poll_seconds, is_draining) == ("reports", 5, False)


def test_options_go_before_variables(
    runs: list[tuple[Settings, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRIEVER_AGENT_QUEUE", "reports")
    times = ("--lease", "1h30m", "--wait", "0s", "--poll-interval", "500ms")

    answer = run("--api", "https://api:8081/", "--queue", "nightly", "--order", "newest", *times, "--drain")

    assert answer.exit_code == 0, answer.output
    [(settings, is_draining)] = runs
    assert (settings.agent_api_url, settings.agent_queue) == ("https://api:8081/", "nightly")
    assert (settings.agent_order, is_draining) == (PickOrder.NEWEST, True)
    seconds = settings.agent_lease_seconds, settings.agent_wait_seconds, settings.agent_poll_seconds
    assert seconds == (5_400, 0, 0.5)


@pytest.mark.parametrize("text", ["5", "soon", "", "5 s", "-"])
def test_a_time_that_cannot_be_read_is_named(runs: list[tuple[Settings, bool]], text: str) -> None:
    answer = run("--lease", text)

    assert (answer.exit_code, runs) == (2, [])
    assert "--lease" in answer.output and "1h30m" in answer.output


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("lease_seconds", ("--lease", "-5s")),
        ("lease_seconds", ("--lease", "48h")),
        ("wait_seconds", ("--wait", "2m")),
        ("poll_seconds", ("--poll-interval", "0s")),
        ("max_tasks", ("--max", "0")),
        ("order", ("--order", "random")),
        ("queue", ("--queue", "a b")),
        ("name", ("--name", "a\nb")),
        ("api_url", ("--api", "api:8080")),
        ("api_url", ("--api", "http://user:secret@api")),
    ],
)
def test_an_option_out_of_bounds_is_named(
    runs: list[tuple[Settings, bool]], option: str, value: tuple[str, str]
) -> None:
    answer = run(*value)

    assert runs == []
    assert isinstance(answer.exception, SettingsInvalid)
    assert f"RETRIEVER_AGENT_{option.upper()}: " in str(answer.exception)
    assert "secret" not in str(answer.exception)
