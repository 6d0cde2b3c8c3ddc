"""Handlers and the limiters: each request takes a permit, answers are reported, robots.txt is respected."""

import asyncio
import socket
from dataclasses import replace

import pytest

from consumer.handlers.check import check
from consumer.handlers.fetch import fetch
from consumer.http.client import Client
from consumer.politeness.host_limiter import PermitRequest, Priority, Refusal
from consumer.politeness.host_limiters import FirstPermit, HostLimiters, Permit
from shared.hosts import HostLimit, host_key
from shared.kinds.check import CheckArgs
from shared.kinds.fetch import FetchArgs
from shared.kinds.requests import Robots
from shared.messages import HostWord
from shared.outcomes import DeferralReason, Failed, Succeeded
from tests.support.http_servers import KEEP_OPEN, RawServer, client_that_reaches_loopback, raw_server

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def text(body: str, *, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def redirect(url: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n".encode()


def paths(server: RawServer) -> list[str]:
    return [head.split()[1] for head in server.heads]


async def ask_limiter(client: Client, url: str) -> Permit | Refusal:
    host = host_key(url)
    assert host is not None
    return await client.limiters.permit(host, PermitRequest(Priority.BULK, 0.5))


async def test_head_and_get_and_every_hop_take_a_permit_and_give_it_back() -> None:
    async with client_that_reaches_loopback() as bare, raw_server(OK, then=KEEP_OPEN) as there:
        missing = text("", status="404 Not Found")
        async with raw_server(missing, redirect(there.url), then=KEEP_OPEN) as here:
            client = Client(bare.session, limiters=HostLimiters(HostLimit(1, 20)))
            started = asyncio.get_running_loop().time()

            outcome = await check(CheckArgs(url=here.url), client)

            assert isinstance(outcome, Succeeded) and outcome.result["verdict"] == "ok"
            assert asyncio.get_running_loop().time() - started >= 1 / 20
            for url in (here.url, there.url):
                permit = await ask_limiter(client, url)
                assert isinstance(permit, Permit)
                permit.release()


async def test_a_host_that_asks_for_a_pause_gets_it_from_all_jobs() -> None:
    limited = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 60\r\nContent-Length: 0\r\n\r\n"
    async with client_that_reaches_loopback() as client, raw_server(limited) as server:
        outcome = await check(CheckArgs(url=server.url), client)

        refusal = await ask_limiter(client, server.url)

    assert isinstance(outcome, Failed) and outcome.retry_after_seconds == 60
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.seconds > 58) == (DeferralReason.PAUSED, True)


async def test_a_redirect_to_a_host_that_is_paused_fails_for_now_and_blames_nobody() -> None:
    limited = b"HTTP/1.1 503 Unavailable\r\nRetry-After: 60\r\nContent-Length: 0\r\n\r\n"
    async with client_that_reaches_loopback() as client, raw_server(limited) as there:
        await check(CheckArgs(url=there.url), client)
        async with raw_server(redirect(there.url)) as here:
            outcome = await check(CheckArgs(url=here.url), client)

    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.transient, outcome.result) == ("host_paused", True, None)
    assert outcome.retry_after_seconds is not None and outcome.retry_after_seconds > 50


async def test_the_ledger_is_told_of_a_host_that_refuses_connections(unused_port: int) -> None:
    first = FirstPermit()
    async with client_that_reaches_loopback() as bare:
        await check(CheckArgs(url=f"http://127.0.0.1:{unused_port}/"), replace(bare, first_permit=first))

    assert first.asked == (HostWord(host=f"127.0.0.1:{unused_port}", silent=1),)


async def test_a_name_that_does_not_exist_says_nothing_of_a_host() -> None:
    names: dict[str, list[str] | OSError] = {"gone.example": socket.gaierror(socket.EAI_NONAME, "no")}
    first = FirstPermit()
    async with client_that_reaches_loopback(names=names) as bare:
        outcome = await check(CheckArgs(url="http://gone.example/"), replace(bare, first_permit=first))

    assert isinstance(outcome, Succeeded) and outcome.result["reason"] == "dns_no_such_name"
    assert first.asked == (HostWord(host="gone.example"),)


async def test_the_ledger_is_told_of_each_host_of_a_chain_and_of_what_it_asks_for() -> None:
    limited = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n"
    first = FirstPermit()
    async with (
        client_that_reaches_loopback() as bare,
        raw_server(limited, limited) as last,
        raw_server(redirect(last.url), redirect(last.url)) as here,
    ):
        await fetch(FetchArgs(url=here.url), replace(bare, first_permit=first))

    key, last_key = host_key(here.url), host_key(last.url)
    assert key is not None and last_key is not None
    assert first.asked == (
        HostWord(host=key, good=1),
        HostWord(host=last_key, too_many=1, pause_seconds=30.0),
    )


async def test_a_file_that_denies_keeps_a_job_from_asking_and_is_read_once() -> None:
    robots = text("User-agent: *\nDisallow: /private\n")
    async with client_that_reaches_loopback() as client, raw_server(robots, OK, then=KEEP_OPEN) as server:
        args = {"robots": Robots.RESPECT, "timeout_seconds": 5}
        denied = [
            await fetch(FetchArgs(url=f"{server.url}private/{number}", **args), client)  # type: ignore[arg-type]
            for number in range(2)
        ]
        allowed = await fetch(FetchArgs(url=f"{server.url}public", **args), client)  # type: ignore[arg-type]
        ignored = await fetch(FetchArgs(url=f"{server.url}private/9"), client)

    assert all(isinstance(outcome, Failed) and outcome.reason == "robots_denied" for outcome in denied)
    assert not any(isinstance(outcome, Failed) and outcome.transient for outcome in denied)
    assert isinstance(allowed, Succeeded) and isinstance(ignored, Succeeded)
    assert paths(server) == ["/robots.txt", "/public", "/private/9"]


async def test_many_jobs_of_an_origin_read_its_file_once() -> None:
    robots = text("User-agent: *\nDisallow:\n")
    async with client_that_reaches_loopback() as client, raw_server(robots, OK, then=KEEP_OPEN) as server:
        args = [FetchArgs(url=f"{server.url}{n}", robots=Robots.RESPECT) for n in range(10)]

        outcomes = await asyncio.gather(*(fetch(one, client) for one in args))

    assert all(isinstance(outcome, Succeeded) for outcome in outcomes)
    assert paths(server).count("/robots.txt") == 1


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ((text("", status="404 Not Found"), OK), None),
        ((text("", status="403 Forbidden"), OK), None),
        ((text("", status="500 Oops"), OK), "robots_unreachable"),
        ((text("", status="429 Too Many Requests"), OK), "robots_unreachable"),
        ((b"garbage\r\n\r\n", OK), "robots_unreachable"),
        # Six redirects are one more than is followed, and then there is no file.
        (
            (*(redirect(f"/{n}") for n in range(6)), OK),
            None,
        ),
        (
            (*(redirect(f"/{n}") for n in range(5)), text("User-agent: *\nDisallow: /"), OK),
            "robots_denied",
        ),
        # What comes after 500 KiB does not count.
        ((text("#" * 600_000 + "\nUser-agent: *\nDisallow: /"), OK), None),
    ],
)
async def test_what_a_file_that_is_not_plainly_there_means(
    answers: tuple[bytes, ...], reason: str | None
) -> None:
    async with client_that_reaches_loopback() as client, raw_server(*answers) as server:
        outcome = await fetch(FetchArgs(url=f"{server.url}page", robots=Robots.RESPECT), client)

    if reason is None:
        assert isinstance(outcome, Succeeded)
    else:
        assert isinstance(outcome, Failed)
        assert (outcome.reason, outcome.transient) == (reason, reason == "robots_unreachable")


async def test_a_redirect_asks_the_file_of_where_it_leads() -> None:
    robots = text("User-agent: *\nDisallow: /\n")
    async with client_that_reaches_loopback() as client, raw_server(robots) as there:
        allowed = text("", status="404 Not Found")
        async with raw_server(allowed, redirect(there.url)) as here:
            outcome = await fetch(FetchArgs(url=here.url, robots=Robots.RESPECT), client)

    assert isinstance(outcome, Failed) and outcome.reason == "robots_denied"
    assert paths(there) == ["/robots.txt"]


async def test_reading_the_file_of_a_host_that_takes_one_at_a_time_holds_up_nothing() -> None:
    robots = text("User-agent: *\nCrawl-delay: 0.1\n")
    async with client_that_reaches_loopback() as bare:
        async with raw_server(robots, redirect("/next"), OK) as server:
            client = Client(bare.session, limiters=HostLimiters(HostLimit(1)))
            async with asyncio.timeout(5):
                outcome = await fetch(FetchArgs(url=server.url, robots=Robots.RESPECT), client)

        assert isinstance(outcome, Succeeded)
        host = host_key(server.url)
        assert host is not None
        assert client.limiters._entries[host].limiter.limit.rate_per_second == 10


async def test_a_host_that_cannot_be_reached_is_named_as_that_and_not_as_its_file(unused_port: int) -> None:
    async with client_that_reaches_loopback() as client:
        url = f"http://127.0.0.1:{unused_port}/"
        outcome = await fetch(FetchArgs(url=url, robots=Robots.RESPECT), client)

    assert isinstance(outcome, Failed) and outcome.reason == "connection_refused"
