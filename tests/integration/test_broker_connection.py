"""Connecting when some of the hosts are dead or mute, and when none answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import AMQPError

from deploy.local.broker import Broker
from shared.broker import connection as connection_module
from shared.broker.connection import CONNECTION_ERRORS, connected, keep_connected
from shared.broker.parked_queue import count_parked
from shared.broker.refusals import NotConnected
from shared.errors import BrokerUnavailable
from tests.support.amqp import running, running_publisher
from tests.support.management import Management
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mute host is given up soon."""
    monkeypatch.setattr(connection_module, "_HOST_TIMEOUT_SECONDS", 1.0)


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try the hosts as they are written."""
    monkeypatch.setattr(connection_module.random, "shuffle", lambda _: None)  # type: ignore[attr-defined]


@asynccontextmanager
async def mute_port() -> AsyncIterator[int]:
    """Yield a port that takes connections and never answers, as a stopped machine does."""
    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.close()


def with_hosts(url: str, *ports: int) -> str:
    """Return the URL with hosts of this machine before its own."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    hosts = ",".join([*(f"127.0.0.1:{port}" for port in ports), host])
    return f"{parts.scheme}://{user}@{hosts}{parts.path}"


@pytest.mark.usefixtures("in_order")
async def test_dead_and_mute_hosts_are_passed_over(vhost_url: str, unused_port: int) -> None:
    async with (
        mute_port() as mute,
        connected(with_hosts(vhost_url, unused_port, mute), name="test") as connection,
    ):
        channel = await connection.channel()

        assert not channel.is_closed
        await channel.close()


@pytest.mark.usefixtures("in_order")
async def test_a_publisher_and_a_look_at_the_parking_queue_pass_over_a_mute_host(vhost_url: str) -> None:
    async with mute_port() as mute:
        url = with_hosts(vhost_url, mute)
        async with running_publisher(url):
            assert await count_parked(url) == 0


async def test_the_hosts_are_not_always_tried_in_the_same_order(
    vhost_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shuffled: list[list[str]] = []

    def note(addresses: list[str]) -> None:
        addresses.reverse()
        shuffled.append(addresses)

    monkeypatch.setattr(connection_module.random, "shuffle", note)  # type: ignore[attr-defined]

    async with mute_port() as mute:
        url = with_hosts(vhost_url, mute)
        # The first would never answer, and has no second to do so.
        async with asyncio.timeout(0.9), connected(url, name="test"):
            pass

    assert len(shuffled) == 1


async def test_when_no_host_answers_the_error_is_that_of_the_last(unused_port: int) -> None:
    async with mute_port() as mute:
        url = f"amqp://127.0.0.1:{unused_port},127.0.0.1:{mute}/"
        with pytest.raises(CONNECTION_ERRORS):
            async with connected(url, name="test"):
                pass
        with pytest.raises(BrokerUnavailable):
            await count_parked(url)


@pytest.mark.parametrize(
    ("user", "path", "said"),
    [
        (
            "guest:guest",
            "/nowhere",
            "refused the virtual host 'nowhere': NOT_ALLOWED - vhost nowhere not found",
        ),
        ("guest:hunter2", "/", "refused the user 'guest' or the password: ACCESS_REFUSED"),
    ],
)
async def test_a_broker_that_refuses_us_is_quoted(
    vhost_url: str, user: str, path: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"amqp://{user}@127.0.0.1:{urlsplit(vhost_url).port}{path}"

    with pytest.raises(NotConnected, match=said) as raised:
        async with connected(url, name="test"):
            pass
    with pytest.raises(BrokerUnavailable, match=said):
        await count_parked(url)

    assert "hunter2" not in str(raised.value)


async def test_a_user_without_rights_in_the_virtual_host_is_told_so(
    vhost: str, vhost_url: str, management: Management
) -> None:
    management.create_user("poor")
    url = f"amqp://poor:poor@127.0.0.1:{urlsplit(vhost_url).port}/{vhost}"

    with pytest.raises(NotConnected, match="refused for user 'poor'"):
        async with connected(url, name="test"):
            pass

    management.delete_user("poor")


async def test_a_wrong_port_is_named(broker: Broker, unused_port: int) -> None:
    parts = urlsplit(str(broker.management_url))
    places = {
        f"amqp://127.0.0.1:{unused_port}/": f"Nothing listens at 127.0.0.1:{unused_port}.",
        f"amqp://127.0.0.1:{parts.port}/": f"127.0.0.1:{parts.port} is not its port for amqp://",
        f"amqps://127.0.0.1:{urlsplit(broker.amqp_url).port}/": "does not speak TLS",
        "amqp://nowhere.invalid/": "The host nowhere.invalid has no address",
    }
    said = {}
    for url in places:
        with pytest.raises(NotConnected) as raised:
            async with connected(url, name="test"):
                pass
        said[url] = str(raised.value)

    assert [url for url, words in places.items() if words not in said[url]] == [], said


async def test_a_connection_that_comes_up_and_is_of_no_use_is_made_ever_less_often_and_told_once(
    vhost_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pauses: list[float] = []
    enough = asyncio.Event()

    async def note_pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 7:
            enough.set()
            await asyncio.get_running_loop().create_future()

    async def use(_: AbstractConnection) -> None:
        raise AMQPError("NOT_FOUND - no queue")

    monkeypatch.setattr(connection_module, "_pause", note_pause)
    caplog.set_level("DEBUG", "shared.broker.connection")

    async with running(keep_connected(vhost_url, name="test", use=use)):
        await asyncio.wait_for(enough.wait(), 20)

    # Each is half of its length, up to all of it.
    assert all(0.1 * 2**number <= pause <= 5 for number, pause in enumerate(pauses[:5]))
    assert min(pauses[5:]) >= 2.5
    told = [record.levelname for record in caplog.records if record.message == "broker_unavailable"]
    assert told == ["WARNING"] + ["DEBUG"] * 6


async def test_a_loss_says_what_the_broker_said(
    vhost: str, vhost_url: str, management: Management, caplog: pytest.LogCaptureFixture
) -> None:

    async def use(_: AbstractConnection) -> None:
        await asyncio.get_running_loop().create_future()

    async def is_told() -> bool:
        return any(
            record.message == "broker_connection_lost"
            and "CONNECTION_FORCED" in str(vars(record).get("error"))
            for record in caplog.records
        )

    async with running(keep_connected(vhost_url, name="test", use=use)):
        await eventually(lambda: management.close_connections(vhost, name="test"))
        await eventually(is_told)


@asynccontextmanager
async def broken_off_port(broker_port: int, *, answers: int) -> AsyncIterator[int]:
    """Yield a port that lets the broker answer so many times, and then closes."""

    async def serve(client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        broker_in, broker_out = await asyncio.open_connection("127.0.0.1", broker_port)
        for _ in range(answers):
            broker_out.write(await client_in.read(65_536))
            client_out.write(await broker_in.read(65_536))
        await client_in.read(65_536)
        broker_out.close()
        client_out.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize("answers", [0, 1, 2])
async def test_a_broker_that_goes_away_in_the_middle_of_the_handshake_is_a_lost_connection(
    vhost_url: str, answers: int
) -> None:
    async with broken_off_port(urlsplit(vhost_url).port or 0, answers=answers) as port:
        with pytest.raises(CONNECTION_ERRORS):
            async with connected(f"amqp://guest:guest@127.0.0.1:{port}/", name="test"):
                pass
