"""Asking the broker again and again goes over one channel: aio-pika keeps 4 KiB of each until the end."""

import asyncio

import pytest
from aio_pika.abc import AbstractChannel, AbstractConnection

from shared.broker import kept_channel
from shared.broker.connection import connected, open_channel
from shared.broker.declaring import _declare
from shared.broker.kept_channel import KeptChannel
from shared.broker.queue_depths import _look

Opened = list[AbstractChannel]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    """Return the kept channels that are opened from now on."""
    channels: Opened = []

    async def open_noted(connection: AbstractConnection) -> AbstractChannel:
        channels.append(await open_channel(connection))
        return channels[-1]

    monkeypatch.setattr(kept_channel, "open_channel", open_noted)
    return channels


async def test_declaring_and_looking_go_over_one_channel(vhost_url: str, opened: Opened) -> None:
    async with asyncio.timeout(30), connected(vhost_url, name="test") as connection:
        channel = KeptChannel(connection)
        for _ in range(3):
            await _declare(channel, ["check"])
            await _look(channel, ["jobs.check.bulk"])
        depths = await _look(channel, ["jobs.check.bulk", "jobs.parked"])

    assert [depth.name for depth in depths] == ["jobs.check.bulk", "jobs.parked"]
    assert len(opened) == 1


async def test_a_missing_queue_costs_its_channel_and_hides_no_other(vhost_url: str, opened: Opened) -> None:
    async with asyncio.timeout(30), connected(vhost_url, name="test") as connection:
        channel = KeptChannel(connection)
        await _declare(channel, ["check"])
        depths = await _look(channel, ["nowhere", "jobs.check.bulk", "nothing", "jobs.parked"])
        again = await _look(channel, ["jobs.parked"])

    assert [depth.name for depth in depths] == ["jobs.check.bulk", "jobs.parked"]
    assert [depth.name for depth in again] == ["jobs.parked"]
    assert len(opened) == 3
