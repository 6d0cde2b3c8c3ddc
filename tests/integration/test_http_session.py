"""The contract of sending one request, which the fast and the plain way both keep."""

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
import pytest
import trustme
from yarl import URL

from consumer.egress import EgressDenied
from consumer.http import fast, plain
from consumer.http.client import Client
from consumer.http.recording import Phase, Recording
from consumer.http.session import open_session
from shared.settings import Settings
from tests.support.http_servers import (
    KEEP_OPEN,
    STAY_SILENT,
    client_that_reaches_loopback,
    raw_server,
    self_signed_tls,
    trap,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

pytestmark = pytest.mark.parametrize("is_plain", [False, True], ids=["fast", "plain"])


@pytest.fixture
async def client(is_plain: bool) -> AsyncIterator[Client]:
    async with asyncio.timeout(30), client_that_reaches_loopback(plain=is_plain) as opened:
        yield opened


async def send(
    client: Client,
    url: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    recording: Recording | None = None,
) -> tuple[aiohttp.ClientResponse, bytes]:
    recording = Recording() if recording is None else recording
    answer = await client.session.send_request(
        method, URL(url, encoded=True), headers=headers or {}, body=body, recording=recording
    )
    try:
        return answer, await answer.read()
    finally:
        answer.release()


async def test_the_setting_chooses_the_way(*, is_plain: bool) -> None:
    async with open_session(Settings(http_plain=is_plain)) as session:
        assert session._send is (plain if is_plain else fast).send_request


async def test_the_socket_is_guarded(*, is_plain: bool) -> None:
    async with trap() as server, client_that_reaches_loopback(allow=(), plain=is_plain) as client:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await send(client, server.url)

        assert isinstance(caught.value.os_error, EgressDenied)
        assert server.connections == 0


async def test_phases_times_and_address_are_recorded(client: Client, *, is_plain: bool) -> None:
    first, second = Recording(), Recording()
    async with raw_server(OK, then=KEEP_OPEN) as server:
        for recording in (first, second):
            await send(client, server.url, recording=recording)
            recording.answer()

    assert (first.ip, first.family, first.phase, first.is_reused) == ("127.0.0.1", "ipv4", Phase.BODY, False)
    assert first.addresses[0][4] == ("127.0.0.1", server.port)
    times = first.timings
    assert times["dns_seconds"] is None and times["tls_seconds"] is None
    assert times["connect_seconds"] is not None and times["first_byte_seconds"] is not None
    assert 0 < times["connect_seconds"] + times["first_byte_seconds"] <= times["total_seconds"]
    assert (second.ip, second.is_reused, second.timings["connect_seconds"]) == ("127.0.0.1", True, None)


async def test_a_name_takes_time_to_look_up(*, is_plain: bool) -> None:
    recording = Recording()
    async with (
        raw_server(OK) as server,
        client_that_reaches_loopback(names={"a.example": ["127.0.0.1"]}, plain=is_plain) as client,
    ):
        await send(client, f"http://a.example:{server.port}/", recording=recording)

    assert recording.timings["dns_seconds"] is not None


async def test_the_phase_of_a_silent_host_is_recorded(client: Client, *, is_plain: bool) -> None:
    recording = Recording()
    async with raw_server(b"HTTP/1.1 2", then=STAY_SILENT) as server:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await send(client, server.url, recording=recording)

    assert recording.phase is Phase.ANSWER


@pytest.fixture
def trusted_tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    ours, theirs = ssl.create_default_context(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.configure_trust(ours)
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    return ours, theirs


async def test_a_certificate_and_the_time_of_tls_are_recorded(
    trusted_tls: tuple[ssl.SSLContext, ssl.SSLContext], *, is_plain: bool
) -> None:
    ours, theirs = trusted_tls
    recording = Recording()
    async with (
        raw_server(OK, tls=theirs) as server,
        client_that_reaches_loopback(tls=ours, plain=is_plain) as client,
    ):
        await send(client, server.url, recording=recording)

    assert recording.certificate and recording.protocol == "TLSv1.3"
    assert recording.timings["tls_seconds"] is not None


async def test_an_untrusted_certificate_is_refused_before_anything_is_sent(
    client: Client, tmp_path: Path, *, is_plain: bool
) -> None:
    async with raw_server(OK, tls=self_signed_tls(tmp_path)) as server:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await send(client, server.url)

        assert server.heads == []


async def test_a_dropped_kept_connection_is_repeated_once(client: Client, *, is_plain: bool) -> None:
    async with raw_server(OK, b"", OK, then=KEEP_OPEN) as server:
        for _ in range(2):
            assert (await send(client, server.url))[1] == b"ok"

        assert (len(server.heads), server.connections) == (3, 2)


async def test_it_is_not_repeated_twice(client: Client, *, is_plain: bool) -> None:
    async with raw_server(OK, b"", then=KEEP_OPEN) as server:
        await send(client, server.url)
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await send(client, server.url)

        assert len(server.heads) == 3


async def test_a_new_connection_that_is_dropped_is_not_repeated(client: Client, *, is_plain: bool) -> None:
    async with raw_server(b"") as server:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await send(client, server.url)

        assert len(server.heads) == 1


async def test_no_http_on_a_kept_connection_is_repeated_once_on_a_new_one(
    client: Client, *, is_plain: bool
) -> None:
    late = b"the page of the answer before\r\n"
    async with raw_server(OK, late, OK, then=KEEP_OPEN) as server:
        for _ in range(2):
            assert (await send(client, server.url))[1] == b"ok"

        assert (len(server.heads), server.connections) == (3, 2)


async def test_no_http_on_a_new_connection_is_not_repeated(client: Client, *, is_plain: bool) -> None:
    async with raw_server(b"no HTTP\r\n") as server:
        with pytest.raises(aiohttp.ClientResponseError):
            await send(client, server.url)

        assert len(server.heads) == 1


async def test_a_connection_with_bytes_behind_an_answer_is_not_used_again(
    client: Client, *, is_plain: bool
) -> None:
    async with raw_server(OK + OK.replace(b"ok", b"no"), OK, then=KEEP_OPEN) as server:
        for _ in range(2):
            assert (await send(client, server.url))[1] == b"ok"

        assert server.connections == 2


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_what_may_not_be_sent_twice_is_not_repeated(
    client: Client, method: str, *, is_plain: bool
) -> None:
    async with raw_server(OK, b"", OK, then=KEEP_OPEN) as server:
        await send(client, server.url)
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await send(client, server.url, method=method)

        assert len(server.heads) == 2


async def test_a_body_comes_as_it_was_sent(client: Client, *, is_plain: bool) -> None:
    packed = gzip.compress(b"ok")
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n"
    async with raw_server(head.encode() + packed) as server:
        answer, body = await send(client, server.url)

    assert (body, answer.headers["Content-Encoding"]) == (packed, "gzip")


async def test_the_answer_to_head_has_no_body_to_wait_for(client: Client, *, is_plain: bool) -> None:
    async with raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", then=KEEP_OPEN) as server:
        answer, body = await send(client, server.url, method="HEAD")

    assert (answer.status, body, answer.content_length) == (200, b"", 9)


@pytest.mark.parametrize(
    ("fields", "is_taken"),
    [
        (b"X: " + b"a" * 30_000 + b"\r\n", True),
        (b"X: " + b"a" * 40_000 + b"\r\n", False),
        (b"X: y\r\n" * 120, True),
        (b"X: y\r\n" * 300, False),
    ],
)
async def test_headers_are_taken_up_to_our_limits(
    client: Client, fields: bytes, *, is_taken: bool, is_plain: bool
) -> None:
    async with raw_server(b"HTTP/1.1 200 OK\r\n" + fields + b"Content-Length: 2\r\n\r\nok") as server:
        if is_taken:
            assert (await send(client, server.url))[1] == b"ok"
        else:
            with pytest.raises(aiohttp.ClientResponseError):
                await send(client, server.url)


async def test_a_redirect_is_the_answer(client: Client, *, is_plain: bool) -> None:
    async with raw_server(b"HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n", OK) as server:
        answer, _ = await send(client, server.url)

        assert (answer.status, len(server.heads)) == (302, 1)


async def test_cookies_are_not_kept(client: Client, *, is_plain: bool) -> None:
    async with raw_server(
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n", then=KEEP_OPEN
    ) as server:
        for _ in range(2):
            await send(client, server.url)

        assert "cookie" not in server.heads[1].lower()


async def test_proxies_and_credentials_of_the_environment_are_ignored(
    client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, is_plain: bool
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with raw_server(OK) as proxy, raw_server(OK) as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)

        await send(client, server.url)

        assert (proxy.connections, len(server.heads)) == (0, 1)
        assert "authorization" not in server.heads[0].lower()


async def test_what_is_sent_is_ours_to_the_letter(client: Client, *, is_plain: bool) -> None:
    headers = {"User-Agent": "another/1", "X-Api-Key": "k", "Authorization": "Bearer t"}
    async with raw_server(OK) as server:
        await send(client, f"{server.url}a%2Fb?c=%7e", method="POST", headers=headers, body=b"{}")

        first, *fields = server.heads[0].strip().split("\r\n")
    assert first == "POST /a%2Fb?c=%7e HTTP/1.1"
    assert sorted(field.lower() for field in fields) == [
        "accept-encoding: gzip, deflate, br",
        "accept: */*",
        "authorization: bearer t",
        "content-length: 2",
        "content-type: application/octet-stream",
        f"host: 127.0.0.1:{server.port}",
        "user-agent: another/1",
        "x-api-key: k",
    ]


async def test_many_requests_at_once_do_not_wait_for_one_another(client: Client, *, is_plain: bool) -> None:
    async with raw_server(b"HTTP/1.1 200 OK\r\n", then=STAY_SILENT) as server:
        requests = [asyncio.create_task(send(client, server.url)) for _ in range(150)]
        while len(server.heads) < len(requests):
            await asyncio.sleep(0)
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)

        assert server.connections == 150
