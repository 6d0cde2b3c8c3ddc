"""The session and the redirect loop against servers that say exactly what they should not."""

import asyncio
import socket
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from aiohttp import ClientResponse

from consumer.http.client import Client, HttpRequest
from consumer.http.failures import Failure
from consumer.http.redirect_chain import RedirectChain, final_answer
from deploy.local.target_site import open_target
from shared.kinds.requests import Redirects
from tests.support.http_servers import (
    CLOSE_AFTER,
    KEEP_OPEN,
    STAY_SILENT,
    client_that_reaches_loopback,
    raw_server,
    self_signed_tls,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def redirect(location: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode("latin-1")


async def ask(
    url: str,
    *,
    method: str = "GET",
    max_redirects: int = 10,
    names: dict[str, list[str] | OSError] | None = None,
) -> tuple[int | Failure, RedirectChain]:
    chain = RedirectChain(url)
    async with (
        asyncio.timeout(10),
        client_that_reaches_loopback(names=names) as client,
        final_answer(client, chain, HttpRequest(method, url, max_redirects=max_redirects)) as answer,
    ):
        return answer if isinstance(answer, Failure) else answer.status, chain


def answer_to(client: Client, request: HttpRequest) -> AbstractAsyncContextManager[ClientResponse | Failure]:
    return final_answer(client, RedirectChain(request.url), request)


async def ask_forever(client: Client, url: str) -> None:
    async with answer_to(client, HttpRequest("GET", url)) as answer:
        assert not isinstance(answer, Failure)
        await answer.read()


def reason(answer: int | Failure) -> str:
    assert isinstance(answer, Failure)
    return answer.reason


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"<html>HTTP/0.9</html>",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok",
        b"\x16\x03\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\r\n\r\n",
    ],
)
async def test_garbage_is_a_protocol_error_and_never_a_status(garbage: bytes) -> None:
    async with raw_server(garbage) as server:
        answer, chain = await ask(server.url)

    assert reason(answer) == "protocol_error"
    assert chain.status is None


@pytest.mark.parametrize("fields", [b"X: " + b"a" * 70_000 + b"\r\n", b"X: y\r\n" * 2_000])
async def test_a_header_beyond_our_limits_is_not_called_wrong(fields: bytes) -> None:
    async with raw_server(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n") as server:
        answer, chain = await ask(server.url)

    assert (reason(answer), chain.status) == ("header_too_large", None)


async def test_a_server_that_hangs_up_is_asked_once_and_not_again_in_silence() -> None:
    async with raw_server(b"") as server:
        answer, _ = await ask(server.url)

        assert reason(answer) == "connection_reset"
        assert len(server.heads) == 1


async def test_a_kept_connection_that_turns_out_dead_is_replaced_without_a_word() -> None:
    async with (
        raw_server(OK, b"", OK, then=KEEP_OPEN) as server,
        client_that_reaches_loopback() as client,
    ):
        for _ in range(2):
            async with final_answer(
                client, RedirectChain(server.url), HttpRequest("GET", server.url)
            ) as answer:
                assert not isinstance(answer, Failure)
                assert await answer.read() == b"ok"

        assert (len(server.heads), server.connections) == (3, 2)


async def test_what_may_not_be_sent_twice_is_not_repeated_on_a_kept_connection_either() -> None:
    async with (
        raw_server(OK, b"", OK, then=KEEP_OPEN) as server,
        client_that_reaches_loopback() as client,
    ):
        answers = []
        for method in ("GET", "POST"):
            async with final_answer(
                client, RedirectChain(server.url), HttpRequest(method, server.url)
            ) as answer:
                answers.append(answer)
                if not isinstance(answer, Failure):
                    await answer.read()

        assert isinstance(answers[1], Failure)
        assert answers[1].reason == "connection_reset"
        assert (len(server.heads), server.connections) == (2, 1)


async def test_a_port_where_nobody_listens_is_refused(unused_port: int) -> None:
    answer, _ = await ask(f"http://127.0.0.1:{unused_port}/")

    assert reason(answer) == "connection_refused"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nowhere.example", "dns_no_such_name"),
        ("later.example", "dns_failed"),
        ("a..example", "dns_no_such_name"),
    ],
)
async def test_dns_tells_no_such_name_from_a_dns_that_is_down(name: str, expected: str) -> None:
    names: dict[str, list[str] | OSError] = {"later.example": socket.gaierror(socket.EAI_AGAIN, "later")}

    answer, _ = await ask(f"http://{name}/", names=names)

    assert reason(answer) == expected


async def test_a_certificate_that_nobody_trusts_is_told_from_a_port_without_tls(tmp_path: Path) -> None:
    async with raw_server(OK, tls=self_signed_tls(tmp_path)) as server:
        untrusted, _ = await ask(server.url)
        assert server.heads == []
    async with open_target() as plain:
        no_tls, _ = await ask(plain.url.replace("http:", "https:"))

    assert reason(untrusted) == "bad_certificate"
    assert reason(no_tls) == "tls_failed"


async def test_hops_are_recorded_in_order_with_status_and_time() -> None:
    async with raw_server(redirect("/b", 301), redirect("c?d=e", 307), OK) as server:
        answer, chain = await ask(f"{server.url}a/")

        assert answer == 200
        assert [(hop["url"].removeprefix(server.url), hop["status"]) for hop in chain.hops] == [
            ("a/", 301),
            ("b", 307),
            ("c?d=e", 200),
        ]
        assert all(0 < hop["seconds"] < 10 for hop in chain.hops)


@pytest.mark.parametrize(("limit", "status"), [(2, "too_many_redirects"), (3, 200)])
async def test_exactly_max_redirects_are_followed(limit: int, status: int | str) -> None:
    async with raw_server(redirect("/1"), redirect("/2"), redirect("/3"), OK) as server:
        answer, chain = await ask(server.url, max_redirects=limit)

    assert (reason(answer) if isinstance(answer, Failure) else answer) == status
    assert len(chain.hops) == limit + 1


async def test_no_redirect_is_followed_when_none_may_be() -> None:
    async with raw_server(redirect("/1")) as server:
        answer, chain = await ask(server.url, max_redirects=0)

        assert reason(answer) == "too_many_redirects"
        assert (len(server.heads), chain.status) == (1, 302)


@pytest.mark.parametrize("locations", [["/"], ["/#a"], ["/1", "/2", "/1"]])
async def test_a_redirect_that_leads_back_is_a_loop(locations: list[str]) -> None:
    async with raw_server(*map(redirect, locations)) as server:
        answer, chain = await ask(server.url, max_redirects=20)

        assert reason(answer) == "redirect_loop"
        assert len(chain.hops) == len(locations)


@pytest.mark.parametrize(
    "location",
    [
        "ftp://127.0.0.1/",
        "javascript:alert(1)",
        "file:///etc/passwd",
        "http://[x:y]/",
        "data:,x",
        "http://127.0.0.1:99999/",
        "gopher://127.0.0.1:70/",
        "http://[::1%25lo]/",
        "http://" + "a" * 9_000,
    ],
)
async def test_a_redirect_to_no_http_url_is_not_followed(location: str) -> None:
    async with raw_server(redirect(location)) as server:
        answer, chain = await ask(server.url)

    assert reason(answer) == "redirect_invalid"
    assert chain.status == 302


async def test_a_redirect_without_location_is_the_answer() -> None:
    async with raw_server(b"HTTP/1.1 302 Found\r\nURI: /elsewhere\r\nContent-Length: 0\r\n\r\n") as server:
        answer, _ = await ask(server.url)

    assert answer == 302


async def test_a_location_beyond_ascii_is_followed_as_browsers_do() -> None:
    location = "/caf\xe9 \xe8?q=\xff"
    async with raw_server(redirect(location), OK) as server:
        answer, _ = await ask(server.url)

        assert answer == 200
        assert server.heads[1].startswith("GET /caf%E9%20%E8?q=%FF HTTP/1.1")


@pytest.mark.parametrize(
    ("method", "status", "following"),
    [
        ("POST", 301, "GET"),
        ("POST", 302, "GET"),
        ("POST", 303, "GET"),
        ("POST", 307, "POST"),
        ("POST", 308, "POST"),
        ("HEAD", 303, "HEAD"),
        ("HEAD", 301, "HEAD"),
        ("PUT", 302, "PUT"),
        ("PUT", 303, "GET"),
    ],
)
async def test_the_method_after_a_redirect_follows_rfc_9110(method: str, status: int, following: str) -> None:
    async with raw_server(redirect("/next", status), OK, then=KEEP_OPEN) as server:
        await ask(server.url, method=method)

        assert server.heads[1].split()[:2] == [following, "/next"]


async def test_credentials_go_to_their_own_origin_only_and_are_never_recorded() -> None:
    async with raw_server(OK) as stranger:
        away = redirect(f"http://other:pass@127.0.0.1:{stranger.port}/")
        async with raw_server(redirect("/second"), away) as server:
            answer, chain = await ask(server.url.replace("//", "//user:s%20ecret@"))

            assert answer == 200
            assert [("Authorization: Basic dXNlcjpzIGVjcmV0" in head) for head in server.heads] == [
                True,
                True,
            ]
            assert "Authorization" not in stranger.heads[0]
    assert not any("secret" in hop["url"] or "pass" in hop["url"] or "@" in hop["url"] for hop in chain.hops)


async def test_a_cookie_of_a_redirect_is_sent_back_in_its_chain_alone() -> None:
    cookie = b"HTTP/1.1 302 Found\r\nLocation: /b\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"
    async with raw_server(cookie, OK, then=KEEP_OPEN) as server, client_that_reaches_loopback() as client:
        for _ in range(2):
            async with answer_to(client, HttpRequest("GET", server.url)) as answer:
                assert not isinstance(answer, Failure)
                await answer.read()

        assert ["a=b" in head for head in server.heads] == [False, True, False]


async def test_a_body_on_the_way_is_not_waited_for() -> None:
    endless = b"HTTP/1.1 302 Found\r\nContent-Length: 1000000\r\nLocation: "
    async with (
        raw_server(OK) as end,
        raw_server(endless + end.url.encode() + b"\r\n\r\nx", then=STAY_SILENT) as server,
    ):
        answer, _ = await ask(server.url)

    assert answer == 200


@pytest.mark.parametrize(("more", "seconds"), [("Retry-After: 9\r\n", 9), ("", None)])
async def test_a_wait_that_a_redirect_asks_for_is_over_with_the_next_request(
    more: str, seconds: float | None
) -> None:
    moved = b"HTTP/1.1 302 Found\r\nRetry-After: 7\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n"
    down = f"HTTP/1.1 503 Down\r\n{more}Content-Length: 0\r\n\r\n".encode()
    async with raw_server(moved, down) as server:
        answer, chain = await ask(server.url)

    assert (answer, chain.retry_after_seconds) == (503, seconds)


async def test_a_redirect_decides_no_wait_for_a_target_that_cannot_be_reached(unused_port: int) -> None:
    moved = f"HTTP/1.1 302 Found\r\nRetry-After: 3600\r\nLocation: http://127.0.0.1:{unused_port}/\r\n\r\n"
    async with raw_server(moved.encode()) as server:
        answer, chain = await ask(server.url)

    assert (reason(answer), chain.retry_after_seconds) == ("connection_refused", None)


async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    async with raw_server(OK) as proxy, raw_server(OK) as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)

        answer, _ = await ask(server.url)

        assert answer == 200
        assert (proxy.connections, len(server.heads)) == (0, 1)


async def test_the_request_says_who_we_are_and_what_we_can_read() -> None:
    async with raw_server(OK, then=CLOSE_AFTER) as server:
        await ask(server.url)

        assert "User-Agent: Retriever/test\r\n" in server.heads[0]
        assert "Accept-Encoding: gzip, deflate, br\r\n" in server.heads[0]


async def test_many_requests_at_once_do_not_wait_for_one_another() -> None:
    async with (
        raw_server(b"HTTP/1.1 200 OK\r\n", then=STAY_SILENT) as server,
        client_that_reaches_loopback() as client,
    ):
        requests = [asyncio.create_task(ask_forever(client, server.url)) for _ in range(150)]
        async with asyncio.timeout(10):
            while len(server.heads) < len(requests):
                await asyncio.sleep(0)
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)

        assert server.connections == 150


async def test_headers_of_the_job_stay_with_its_own_origin() -> None:
    async with (
        asyncio.timeout(10),
        raw_server(OK) as elsewhere,
        raw_server(redirect(f"{elsewhere.url}/x")) as home,
        client_that_reaches_loopback() as client,
        final_answer(
            client,
            RedirectChain(home.url),
            HttpRequest("GET", home.url, headers={"X-Api-Key": "k", "Cookie": "a=b"}),
        ) as answer,
    ):
        assert not isinstance(answer, Failure)

    assert "x-api-key: k" in home.heads[0].lower()
    assert "x-api-key" not in elsewhere.heads[0].lower()
    assert "cookie" not in elsewhere.heads[0].lower()


async def test_a_body_is_not_taken_to_another_origin() -> None:
    async with (
        asyncio.timeout(10),
        raw_server(OK) as elsewhere,
        raw_server(redirect(f"{elsewhere.url}/x", 307)) as home,
        client_that_reaches_loopback() as client,
        answer_to(client, HttpRequest("POST", home.url, body=b"secret")) as answer,
    ):
        assert isinstance(answer, Failure)

    assert answer.reason == "redirect_with_body"
    assert elsewhere.connections == 0


@pytest.mark.parametrize(
    ("redirects", "expected"), [(Redirects.REPORT, 302), (Redirects.REFUSE, "redirect_refused")]
)
async def test_a_redirect_is_not_followed_when_the_job_says_so(
    redirects: Redirects, expected: int | str
) -> None:
    async with (
        asyncio.timeout(10),
        raw_server(OK) as elsewhere,
        raw_server(redirect(elsewhere.url)) as home,
        client_that_reaches_loopback() as client,
        answer_to(client, HttpRequest("GET", home.url, redirects=redirects)) as answer,
    ):
        came = answer.reason if isinstance(answer, Failure) else answer.status

    assert came == expected
    assert elsewhere.connections == 0
