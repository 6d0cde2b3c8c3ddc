"""What is said of TLS that fails: which side ended it and why, and whether it may pass."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from bench.hostile_site import huge_certificate
from consumer.handlers.check import check
from consumer.handlers.fetch import fetch
from consumer.http.client import Client
from shared.kinds.check import CheckArgs, Verdict
from shared.kinds.fetch import FetchArgs
from tests.support.http_servers import client_that_reaches_loopback, raw_server
from tests.support.tls import Authority, blocking_server

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
MISSING_INTERMEDIATE = (
    "The host does not send the certificate of who issued its own: an intermediate one is missing, or the "
    "issuer is an authority that we do not trust."
)
DEMANDED = "The host ended the TLS connection: it demands a client certificate, and we have none."

Sort = Callable[[Authority], ssl.SSLContext]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(params=[False, True], ids=["fast", "plain"])
async def client(request: pytest.FixtureRequest, authority: Authority) -> AsyncIterator[Client]:
    async with (
        asyncio.timeout(30),
        client_that_reaches_loopback(names={}, tls=authority.client(), plain=request.param) as opened,
    ):
        yield opened


async def checked(client: Client, url: str, **args: Any) -> tuple[Verdict, str, str]:
    outcome = await check(CheckArgs.model_validate({"url": url, **args}), client)
    assert outcome.result is not None
    result = outcome.result
    return Verdict(result["verdict"]), result["reason"], result["explanation"]


@pytest.mark.parametrize(
    ("sort", "said"),
    [
        ("expired", "The host's certificate has expired."),
        (
            "expired_intermediate",
            "An intermediate certificate that the host sends has expired; the host's own is valid.",
        ),
        ("missing_intermediate", MISSING_INTERMEDIATE),
        ("unknown_root", MISSING_INTERMEDIATE),
        ("wrong_host", "The host's certificate is for another address."),
    ],
)
async def test_a_bad_certificate_is_told_from_all_others(
    client: Client, authority: Authority, sort: str, said: str
) -> None:
    async with raw_server(OK, tls=getattr(authority, sort)()) as server:
        assert await checked(client, server.url) == (Verdict.BROKEN, "bad_certificate", said)
        fetched = await fetch(FetchArgs(url=server.url), client)

        assert server.heads == []
    assert (fetched.reason, fetched.explanation) == ("bad_certificate", said)  # type: ignore[union-attr]


async def test_a_chain_with_its_intermediate_is_good(client: Client, authority: Authority) -> None:
    async with raw_server(OK, tls=authority.intermediate()) as server:
        assert (await checked(client, server.url))[:2] == (Verdict.OK, "ok")


def old(authority: Authority) -> ssl.SSLContext:
    context = authority.good()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1
    return context


def without_common_ciphers(authority: Authority) -> ssl.SSLContext:
    context = authority.good()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA")
    return context


def with_alert(number: ssl.AlertDescription) -> Sort:
    def make(authority: Authority) -> ssl.SSLContext:
        context = authority.good()
        context.sni_callback = lambda *_: number
        return context

    return make


@pytest.mark.parametrize(
    ("sort", "verdict", "reason", "said"),
    [
        (old, Verdict.BROKEN, "tls_failed", "it accepts no version of TLS that we offer"),
        (without_common_ciphers, Verdict.BROKEN, "tls_failed", "it accepts none of the ciphers"),
        (
            with_alert(ssl.AlertDescription.ALERT_DESCRIPTION_UNRECOGNIZED_NAME),
            Verdict.BROKEN,
            "tls_failed",
            "it serves no site of this name over TLS",
        ),
        (
            with_alert(ssl.AlertDescription.ALERT_DESCRIPTION_INTERNAL_ERROR),
            Verdict.DOWN,
            "tls_interrupted",
            "with the alert internal error",
        ),
    ],
    ids=["old", "ciphers", "name", "internal"],
)
async def test_an_alert_says_what_the_host_does_not_like(
    authority: Authority, sort: Sort, verdict: Verdict, reason: str, said: str
) -> None:
    with blocking_server(sort(authority)) as url:
        port = url.rstrip("/").rpartition(":")[2]
        names: dict[str, list[str] | OSError] = {"a.example": ["127.0.0.1"]}
        async with (
            asyncio.timeout(30),
            client_that_reaches_loopback(names=names, tls=authority.client()) as client,
        ):
            came = await checked(client, f"https://a.example:{port}/")

    assert came[:2] == (verdict, reason)
    assert came[2].startswith("The host ended the TLS connection")
    assert said in came[2]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_demanded_client_certificate_is_named_and_stays(
    client: Client, authority: Authority, version: ssl.TLSVersion
) -> None:
    with blocking_server(authority.client_certificate(version)) as url:
        assert await checked(client, url) == (Verdict.BLOCKED, "client_certificate_required", DEMANDED)
        fetched = await fetch(FetchArgs(url=url), client)

    assert (fetched.reason, fetched.transient) == (  # type: ignore[union-attr]
        "client_certificate_required",
        False,
    )


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_host_that_hangs_up_on_clients_without_a_certificate_is_looked_at(
    client: Client, authority: Authority, version: ssl.TLSVersion
) -> None:
    async with raw_server(OK, tls=authority.client_certificate(version)) as server:
        came = await checked(client, server.url)

    assert came[:2] == (Verdict.BLOCKED, "client_certificate_required")


@pytest.mark.parametrize("first_bytes", [0, 1, 100])
async def test_a_host_that_hangs_up_in_the_handshake_is_down(client: Client, first_bytes: int) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if first_bytes:
            await reader.readexactly(first_bytes)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        came = await checked(client, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")

    assert came == (
        Verdict.DOWN,
        "tls_interrupted",
        "The host hung up in the middle of the TLS handshake.",
    )


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_a_port_without_tls_is_broken(client: Client, said: bytes) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server:
        came = await checked(client, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")

    assert came == (Verdict.BROKEN, "tls_failed", "What the host sends on this port is not TLS.")


async def test_certificates_that_are_larger_than_we_take_are_for_good(client: Client, tmp_path: Path) -> None:
    async with raw_server(OK, tls=huge_certificate(tmp_path)) as server:
        came = await checked(client, server.url)

    assert came[:2] == (Verdict.BROKEN, "tls_failed")
    assert came[2] == "We ended the TLS connection: the host's certificates are larger than we take."


async def test_a_host_that_hangs_up_on_a_request_is_not_called_one_that_wants_a_certificate(
    client: Client, authority: Authority
) -> None:
    async with raw_server(b"", tls=authority.good()) as server:
        assert (await checked(client, server.url))[:2] == (Verdict.DOWN, "connection_reset")


async def test_a_header_that_is_cut_is_said_to_be_cut(client: Client) -> None:
    async with raw_server(b"HTTP/1.1 200 OK\r\nX: y\r\n") as server:
        came = await checked(client, server.url, method="GET")

    assert came == (
        Verdict.DOWN,
        "connection_reset",
        "The host dropped the connection in the middle of the header of its answer.",
    )


async def test_the_look_for_a_demanded_certificate_ends_in_time(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumer.handlers.check.LOOK_SECONDS", 0.2)
    connections = 0

    async def hang_up_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if connections > 1:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(hang_up_once, "127.0.0.1", 0)
    async with server:
        came = await checked(client, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")

    assert (came[:2], connections) == ((Verdict.DOWN, "tls_interrupted"), 2)
