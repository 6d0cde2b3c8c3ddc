"""The table of handlers is held together with the table of kinds."""

from typing import cast

import pytest

from consumer.handlers import registry
from consumer.handlers.registry import HANDLERS, check_handlers, handler_of
from consumer.http.client import Client
from shared.errors import SettingsInvalid
from shared.kinds.check import CheckArgs
from shared.kinds.fetch import FetchArgs
from shared.outcomes import Outcome, Succeeded


async def _succeed(_args: CheckArgs, _client: Client) -> Outcome:
    return Succeeded({})


def test_every_handler_takes_the_arguments_of_its_kind() -> None:
    check_handlers(HANDLERS)


def test_a_kind_that_nobody_knows_stops_the_start_and_is_named() -> None:
    with pytest.raises(SettingsInvalid, match="'chekc'; known are check"):
        check_handlers(["check", "chekc"])


def test_a_kind_without_a_handler_stops_the_start_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "HANDLERS", {})

    with pytest.raises(SettingsInvalid, match="no handler for kind 'fetch'"):
        check_handlers(["fetch"])


def test_a_handler_for_other_arguments_stops_the_start_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "HANDLERS", {"fetch": handler_of(CheckArgs, _succeed)})

    with pytest.raises(SettingsInvalid, match="kind 'fetch' takes other arguments"):
        check_handlers(["fetch"])


async def test_a_handler_refuses_the_arguments_of_another_kind() -> None:
    handler = handler_of(CheckArgs, _succeed)
    client = cast("Client", None)

    assert await handler(CheckArgs(url="http://example.org/"), client) == Succeeded({})
    with pytest.raises(TypeError, match="FetchArgs is not CheckArgs"):
        await handler(FetchArgs(url="http://example.org/"), client)
