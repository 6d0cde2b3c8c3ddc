"""The guard holds where connections are made: nothing it denies ever reaches a listener."""

from ipaddress import ip_network

import pytest

from consumer.handlers.check import check
from consumer.handlers.fetch import fetch
from shared.kinds.check import CheckArgs
from shared.kinds.fetch import FetchArgs
from shared.outcomes import Failed
from tests.support.http_servers import client_that_reaches_loopback, raw_server, trap


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/",
        "http://localhost:{port}/",
        "http://127.1:{port}/",
        "http://2130706433:{port}/",
        "http://0x7f000001:{port}/",
        "http://0177.0.0.1:{port}/",
        "http://127.0.0.1.:{port}/",
        "http://127。0。0。1:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://[::ffff:7f00:1]:{port}/",
        "http://0:{port}/",
        "http://user:secret@127.0.0.1:{port}/",
        "https://127.0.0.1:{port}/",
    ],
)
async def test_no_spelling_of_a_denied_host_reaches_a_listener(url: str) -> None:
    async with trap() as listener, client_that_reaches_loopback(allow=()) as client:
        target = url.format(port=listener.port)

        checked = await check(CheckArgs(url=target), client)
        fetched = await fetch(FetchArgs(url=target), client)

        for outcome in (checked, fetched):
            assert isinstance(outcome, Failed)
            assert (outcome.reason, outcome.transient, outcome.result) == ("egress_denied", False, None)
        assert listener.connections == 0


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["::1", "127.0.0.1"], ["10.0.0.1", "127.0.0.1", "fd00::1"]]
)
async def test_a_name_that_resolves_to_denied_addresses_reaches_no_listener(addresses: list[str]) -> None:
    names: dict[str, list[str] | OSError] = {"inside.example": addresses}
    async with trap() as listener, client_that_reaches_loopback(allow=(), names=names) as client:
        outcome = await check(CheckArgs(url=f"http://inside.example:{listener.port}/"), client)

        assert isinstance(outcome, Failed)
        assert outcome.reason == "egress_denied"
        assert listener.connections == 0


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.2:{port}/",
        "//127.0.0.2:{port}/",
        "http://inside.example:{port}/",
        "http://0x7f000002:{port}/",
        "http://2130706434:{port}/",
        "http://127.2:{port}/",
        "http://[::ffff:127.0.0.2]:{port}/",
        "http://user@127.0.0.2:{port}/",
        "https://127.0.0.2:{port}/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[64:ff9b::7f00:2]:{port}/",
        "http://metadata.google.internal/",
    ],
)
async def test_a_redirect_to_a_denied_address_reaches_no_listener(location: str) -> None:
    names: dict[str, list[str] | OSError] = {
        "metadata.google.internal": ["169.254.169.254"],
        "inside.example": ["127.0.0.2"],
    }
    outside_only = [ip_network("127.0.0.1/32")]
    async with (
        trap("127.0.0.2") as listener,
        raw_server(_redirect(location.format(port=listener.port))) as outside,
        client_that_reaches_loopback(allow=outside_only, names=names) as client,
    ):
        checked = await check(CheckArgs(url=outside.url), client)
        fetched = await fetch(FetchArgs(url=outside.url), client)

        for outcome in (checked, fetched):
            assert isinstance(outcome, Failed)
            assert (outcome.reason, outcome.transient) == ("egress_denied", False)
        assert listener.connections == 0


def _redirect(location: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


async def test_the_explanation_names_the_class_of_the_address_only() -> None:
    async with client_that_reaches_loopback(allow=()) as client:
        outcome = await fetch(FetchArgs(url="http://169.254.169.254/latest/secret"), client)

    assert isinstance(outcome, Failed)
    assert (
        outcome.explanation == "Connections to this class of address are not allowed: cloud metadata service."
    )
