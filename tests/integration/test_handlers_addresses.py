"""Handlers and the limits of addresses: what is sent, dialled or sent again needs a permit of its address."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from consumer.handlers.check import check
from consumer.handlers.fetch import fetch
from consumer.handlers.webhook import send_webhook
from consumer.http.client import Client
from consumer.politeness.address_limiters import AddressLimiters
from consumer.politeness.host_limiter import PermitRequest, Priority
from consumer.politeness.host_limiters import FirstPermit, HostLimiters, Permit
from consumer.secrets import Signer
from shared.hosts import HostLimit, NamedLimit, NetworkLimit, address_key
from shared.identity import new_id
from shared.kinds.check import CheckArgs, CheckMethod
from shared.kinds.fetch import FetchArgs
from shared.kinds.requests import Robots
from shared.kinds.webhook import WebhookArgs
from shared.messages import JobMessage
from shared.outcomes import Failed, Outcome, Succeeded
from tests.support.factories import make_webhook_secret
from tests.support.http_servers import KEEP_OPEN, RawServer, client_that_reaches_loopback, raw_server

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
HERE, THERE = "127.0.0.1", "127.0.0.2"
NAMES: dict[str, list[str] | OSError] = {
    "a.example": [HERE],
    "b.example": [HERE],
    "there.example": [THERE],
    "two.example": [HERE, THERE],
    "dead.example": ["127.0.0.3", "127.0.0.4", "127.0.0.5"],
    "half.example": ["127.0.0.3", HERE],
}

Work = Callable[[str, Client], Coroutine[None, None, Outcome]]


@contextlib.asynccontextmanager
async def polite_client(
    limit: HostLimit | None = None,
    *,
    networks: Sequence[str] = (),
    named: Sequence[str] = (),
    max_wait_seconds: float = 0.05,
    plain: bool | None = None,
) -> AsyncIterator[Client]:
    """Give a client for which each address takes one request at once, unless told otherwise."""
    async with client_that_reaches_loopback(names=NAMES, plain=plain) as client:
        addresses = AddressLimiters(limit or HostLimit(1), [NetworkLimit.parse(entry) for entry in networks])
        yield replace(
            client,
            limiters=HostLimiters(None, [NamedLimit.parse(entry) for entry in named]),
            addresses=addresses,
            first_permit=FirstPermit(max_wait_seconds=max_wait_seconds),
        )


def take(client: Client, address: str) -> Permit:
    permit = client.addresses.permit_now(address_key(address), PermitRequest(Priority.BULK, 0))
    assert permit is not None
    return permit


@contextlib.contextmanager
def held(client: Client, address: str) -> Iterator[None]:
    """Hold the one permit of an address, as another name of it does."""
    permit = take(client, address)
    try:
        yield
    finally:
        permit.release()


def assert_address_was_busy(outcome: Outcome, name: str = "a.example") -> None:
    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.transient, outcome.result) == ("host_busy", True, None)
    assert f"{HERE}, the address of {name}" in outcome.explanation


def url_of(name: str, server: RawServer) -> str:
    return f"http://{name}:{server.port}/"


async def check_it(url: str, client: Client) -> Outcome:
    return await check(CheckArgs(url=url), client)


async def fetch_it(url: str, client: Client) -> Outcome:
    return await fetch(FetchArgs(url=url), client)


async def respect_it(url: str, client: Client) -> Outcome:
    return await fetch(FetchArgs(url=url, robots=Robots.RESPECT), client)


async def call_it(url: str, client: Client) -> Outcome:
    job = JobMessage(id=new_id(), kind="webhook", args={})
    signer = Signer([SecretStr(make_webhook_secret())])
    now = datetime.now(UTC)
    args = WebhookArgs(url=url, type="a.b", timestamp=now, data={}, timeout_seconds=5)
    return await send_webhook(args, replace(client, job=job, signer=signer))


@pytest.mark.parametrize("plain", [False, True], ids=["fast", "plain"])
@pytest.mark.parametrize("work", [check_it, fetch_it, respect_it, call_it])
async def test_nothing_is_sent_to_an_address_without_a_permit(work: Work, *, plain: bool) -> None:
    async with polite_client(plain=plain) as client, raw_server(OK) as server:
        with held(client, HERE):
            outcome = await work(url_of("a.example", server), client)
            connections_meanwhile = server.connections
        after = await work(url_of("b.example", server), client)

    assert_address_was_busy(outcome)
    assert connections_meanwhile == 0
    assert isinstance(after, Succeeded)


async def test_a_hop_needs_a_permit_of_its_address() -> None:
    async with polite_client() as client, raw_server(OK) as target:
        location = (
            f"HTTP/1.1 302 Found\r\nLocation: {url_of('a.example', target)}\r\nContent-Length: 0\r\n\r\n"
        )
        async with raw_server(location.encode(), host=THERE) as server:
            with held(client, HERE):
                outcome = await fetch_it(url_of("there.example", server), client)
            connections_meanwhile = target.connections
            after = await fetch_it(url_of("there.example", server), client)

    assert_address_was_busy(outcome)
    assert connections_meanwhile == 0
    assert isinstance(after, Succeeded)


@pytest.mark.parametrize("plain", [False, True], ids=["fast", "plain"])
async def test_a_kept_connection_needs_a_permit_of_its_address(*, plain: bool) -> None:
    async with polite_client(plain=plain) as client, raw_server(OK, then=KEEP_OPEN) as server:
        url = url_of("a.example", server)
        await fetch_it(url, client)
        with held(client, HERE):
            outcome = await fetch_it(url, client)
            heads_meanwhile = len(server.heads)

        after = await fetch_it(url, client)

    assert_address_was_busy(outcome)
    assert heads_meanwhile == 1
    assert isinstance(after, Succeeded)
    assert server.connections == 1


async def test_a_request_that_is_sent_again_needs_a_permit_again() -> None:
    # The second answer never comes: the host hangs up on the kept connection, and the GET goes out once more.
    async with (
        polite_client(HostLimit(8, 5), max_wait_seconds=5) as client,
        raw_server(OK, b"", OK, then=KEEP_OPEN) as server,
    ):
        await fetch_it(url_of("a.example", server), client)
        started = client.addresses.now()

        outcome = await fetch_it(url_of("a.example", server), client)

    assert isinstance(outcome, Succeeded) and len(server.heads) == 3
    # The second of two permits comes a fifth of a second after the first.
    assert client.addresses.now() - started >= 0.15


async def test_all_permits_of_addresses_are_given_back() -> None:
    async with polite_client(max_wait_seconds=5) as client, raw_server(NOT_FOUND, OK) as server:
        urls = [url_of(name, server) for name in ("a.example", "b.example", "half.example", "two.example")]
        async with asyncio.timeout(20):
            await asyncio.gather(*(check_it(url, client) for url in urls))

        assert client.addresses._entries
        assert all(entry.limiter.is_idle for entry in client.addresses._entries.values())


async def test_a_name_of_two_addresses_goes_to_the_one_that_is_free() -> None:
    async with polite_client() as client, raw_server(OK, host="0.0.0.0") as server:
        with held(client, HERE):
            outcome = await check_it(url_of("two.example", server), client)

    assert isinstance(outcome, Succeeded)
    assert (outcome.result["verdict"], outcome.result["ip"]) == ("ok", THERE)


async def test_an_address_that_could_not_be_tried_is_no_verdict_on_the_name() -> None:
    # Nothing listens on the first address of the name, and the second has no permit.
    async with polite_client() as client, raw_server(OK) as server:
        with held(client, HERE):
            outcome = await check_it(url_of("half.example", server), client)
            connections_meanwhile = server.connections
        after = await check_it(url_of("half.example", server), client)

    assert_address_was_busy(outcome, "half.example")
    assert connections_meanwhile == 0
    assert isinstance(after, Succeeded) and after.result["verdict"] == "ok"


async def test_addresses_that_refuse_are_dialled_once_each_and_are_down(unused_port: int) -> None:
    # aiohttp would try what is left of them again, and there is one permit in ten seconds.
    async with polite_client(HostLimit(8, 0.1)) as client:
        args = CheckArgs(url=f"http://dead.example:{unused_port}/", method=CheckMethod.GET)

        outcome = await check(args, client)

    assert isinstance(outcome, Failed) and outcome.reason == "connection_refused"
    assert outcome.result is not None and outcome.result["verdict"] == "down"


async def test_waiting_for_an_address_counts_as_no_ones_time() -> None:
    wait_seconds, limit_seconds = 2.5, 2.0
    async with polite_client(max_wait_seconds=5) as client, raw_server(OK) as server:
        permit = take(client, HERE)
        asyncio.get_running_loop().call_later(wait_seconds, permit.release)
        args = CheckArgs(
            url=url_of("a.example", server), method=CheckMethod.GET, connect_timeout_seconds=limit_seconds
        )

        outcome = await check(args, client)

    assert isinstance(outcome, Succeeded) and outcome.result["verdict"] == "ok"
    (hop,) = outcome.result["hops"]
    assert hop["seconds"] < wait_seconds
    assert hop["timings"]["dns_seconds"] < wait_seconds
    assert outcome.result["total_seconds"] >= wait_seconds


@pytest.mark.parametrize("work", [check, fetch], ids=["check", "fetch"])
async def test_an_attempt_whose_time_runs_out_while_it_waits_blames_nobody(
    work: Callable[..., Coroutine[None, None, Outcome]],
) -> None:
    args_model = CheckArgs if work is check else FetchArgs
    async with polite_client(max_wait_seconds=5) as client, raw_server(OK) as server:
        with held(client, HERE):
            args = args_model(url=url_of("a.example", server), timeout_seconds=0.2)
            outcome = await work(args, client)

    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.transient, outcome.result) == ("host_busy", True, None)
    assert server.connections == 0


@pytest.mark.parametrize("can_go_back", [False, True])
async def test_the_second_look_at_a_host_that_hangs_up_in_tls_needs_permits(*, can_go_back: bool) -> None:
    connections = 0

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.close()

    first = FirstPermit(request=PermitRequest(Priority.BULK, 5) if can_go_back else None)
    server = await asyncio.start_server(hang_up, HERE, 0)
    async with server, polite_client(HostLimit(8, 0.1)) as client:
        url = f"https://a.example:{server.sockets[0].getsockname()[1]}/"
        outcome = await check_it(url, replace(client, first_permit=first))

    assert isinstance(outcome, Failed) and outcome.reason == "tls_interrupted"
    assert connections == 1
    # What was found out is not thrown away for want of a second look.
    assert (first.busy_address, first.request) == (None, None)


async def test_a_network_that_an_operator_knows_has_a_limit_of_its_own() -> None:
    async with (
        polite_client(networks=["127.0.0.0/8=1:0", "127.0.0.0/31=2:0"]) as client,
        raw_server(OK, host="0.0.0.0") as server,
    ):
        with held(client, HERE), held(client, THERE):
            here = await fetch_it(url_of("a.example", server), client)
            there = await fetch_it(url_of("there.example", server), client)

    assert isinstance(here, Succeeded)
    assert isinstance(there, Failed) and there.reason == "host_busy"


async def test_an_address_allows_what_the_named_host_that_asks_allows() -> None:
    async with polite_client(named=["b.example=2:0"]) as client, raw_server(OK) as server:
        with held(client, HERE):
            unnamed = await fetch_it(url_of("a.example", server), client)
            named = await fetch_it(url_of("b.example", server), client)

    assert_address_was_busy(unnamed)
    assert isinstance(named, Succeeded)


async def test_a_first_request_that_finds_its_address_busy_gives_its_attempt_back_at_once() -> None:
    async with polite_client() as client, raw_server(OK) as server:
        request = PermitRequest(Priority.BULK, 5)
        first = FirstPermit(max_wait_seconds=60, request=request)
        with held(client, HERE):
            async with asyncio.timeout(30):
                outcome = await check_it(url_of("a.example", server), replace(client, first_permit=first))

        assert_address_was_busy(outcome)
        assert (first.busy_address, first.request) == (HERE, request)
        assert client.addresses.known(f"a.example:{server.port}") == (HERE,)
        assert server.connections == 0


async def test_an_attempt_that_has_sent_something_cannot_be_given_back() -> None:
    async with polite_client() as client, raw_server(OK) as server:
        first = FirstPermit(request=PermitRequest(Priority.BULK, 5))

        await check_it(url_of("a.example", server), replace(client, first_permit=first))

    assert (first.busy_address, first.request) == (None, None)


async def test_a_permit_from_before_the_attempt_is_used_whatever_the_order_of_the_addresses() -> None:
    async with polite_client() as client, raw_server(OK, host="0.0.0.0") as server:
        first = FirstPermit(None, take(client, THERE))
        with first:
            admitted = replace(client, first_permit=first)
            outcome = await check_it(url_of("two.example", server), admitted)

        assert isinstance(outcome, Succeeded) and outcome.result["ip"] == THERE
        take(client, HERE).release()
        take(client, THERE).release()


async def test_a_name_that_has_moved_meanwhile_needs_a_permit_of_where_it_is_now() -> None:
    async with polite_client() as client, raw_server(OK, host=THERE) as server:
        first = FirstPermit(None, take(client, HERE), max_wait_seconds=0.05)
        with held(client, THERE), first:
            outcome = await fetch_it(url_of("there.example", server), replace(client, first_permit=first))

        assert isinstance(outcome, Failed) and outcome.reason == "host_busy"
        assert server.connections == 0
        take(client, HERE).release()
