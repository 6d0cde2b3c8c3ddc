"""A broker that does not answer holds nobody for ever: each request has a limit."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from aio_pika.abc import AbstractChannel, AbstractConnection

from shared.broker import connection as connections
from shared.broker import publisher as publishers
from shared.broker.connection import open_channel, open_publishing_channel, throw_away_channel
from shared.broker.publisher import Publisher, open_confirming


class Silence:
    """Stands for whatever is asked of a broker that does not answer, but for what it is told to answer."""

    def __init__(self, **answers: Any) -> None:
        self._answers = answers
        self.close_callbacks: set[Any] = set()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def ask(*_: object, **__: object) -> Any:
            if name not in self._answers:
                await asyncio.Event().wait()
            return self._answers[name]

        return ask


def silent(**answers: Any) -> AbstractConnection:
    return cast("AbstractConnection", Silence(**answers))


@pytest.fixture(autouse=True)
def _short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (connections, publishers):
        monkeypatch.setattr(module, "REQUEST_SECONDS", 0.01)
    monkeypatch.setattr(connections, "_CLOSE_TIMEOUT_SECONDS", 0.01)
    monkeypatch.setattr(publishers, "_PREPARE_SECONDS", 0.01)


@pytest.mark.parametrize("open_any", [open_channel, open_publishing_channel])
async def test_opening_a_channel_ends(open_any: Callable[[AbstractConnection], Any]) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(TimeoutError):
            await open_any(silent())


@pytest.mark.parametrize("plain", [True, False])
async def test_opening_a_channel_that_confirms_ends(plain: bool) -> None:
    underlay = Silence()
    channel = Silence(get_underlay_channel=underlay)
    for connection in (silent(), *([] if plain else [silent(channel=channel)])):
        async with asyncio.timeout(5):
            with pytest.raises(TimeoutError):
                await open_confirming(connection, timeout_seconds=60, plain=plain)


async def test_closing_a_channel_that_is_thrown_away_ends() -> None:
    async with asyncio.timeout(5), throw_away_channel(silent(channel=Silence())) as channel:
        assert channel is not None


async def test_declaring_the_topology_ends() -> None:
    async def declare(channel: AbstractChannel) -> None:
        await channel.declare_exchange("jobs")

    publisher = Publisher("amqp://nowhere/", name="test", timeout_seconds=60, prepare=declare)

    async with asyncio.timeout(5):
        with pytest.raises(TimeoutError):
            await publisher._keep_channel(silent(channel=Silence()))
