"""What `check` makes of a site that is flaky on purpose, and of worse ones."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from consumer.handlers.check import check
from consumer.http.client import Client
from deploy.local.target_site import TargetSite, open_target
from shared.kinds.check import CheckArgs, CheckMethod, CheckResult, Verdict
from shared.outcomes import Failed, Outcome, Succeeded
from tests.support.http_servers import (
    STAY_SILENT,
    client_that_reaches_loopback,
    raw_server,
    self_signed_tls,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
NOT_ALLOWED = b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
async def target() -> AsyncIterator[TargetSite]:
    async with open_target() as site:
        yield site


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with client_that_reaches_loopback(names={}) as opened:
        yield opened


def seen(outcome: Outcome) -> CheckResult:
    assert outcome.result is not None
    return CheckResult.model_validate(outcome.result)


async def test_a_good_url_is_ok(target: TargetSite, client: Client) -> None:
    outcome = await check(CheckArgs(url=f"{target.url}/ok"), client)

    assert isinstance(outcome, Succeeded)
    result = seen(outcome)
    assert (result.verdict, result.reason, result.status) == (Verdict.OK, "ok", 200)
    assert [(hop.method, hop.status) for hop in result.hops] == [("HEAD", 200)]
    assert result.total_seconds > 0


async def test_a_moved_url_is_ok_and_shows_its_way(target: TargetSite, client: Client) -> None:
    result = seen(await check(CheckArgs(url=f"{target.url}/moved"), client))

    assert [hop.status for hop in result.hops] == [301, 301, 301, 200]
    assert (result.verdict, result.final_url) == (Verdict.OK, f"{target.url}/ok")


@pytest.mark.parametrize(("path", "reason"), [("/missing", "http_404"), ("/loop", "redirect_loop")])
async def test_a_definite_failure_is_a_verdict_and_not_retried(
    target: TargetSite, client: Client, path: str, reason: str
) -> None:
    outcome = await check(CheckArgs(url=f"{target.url}{path}"), client)

    assert isinstance(outcome, Succeeded)
    assert (seen(outcome).verdict, seen(outcome).reason) == (Verdict.BROKEN, reason)
    assert seen(outcome).explanation.endswith(".")


async def test_a_name_that_does_not_exist_is_broken(client: Client) -> None:
    outcome = await check(CheckArgs(url="http://nowhere.example/"), client)

    assert isinstance(outcome, Succeeded)
    result = seen(outcome)
    assert (result.verdict, result.reason, result.status) == (Verdict.BROKEN, "dns_no_such_name", None)
    assert result.hops == []


async def test_a_bad_certificate_is_broken(client: Client, tmp_path: Path) -> None:
    async with raw_server(OK, tls=self_signed_tls(tmp_path)) as server:
        outcome = await check(CheckArgs(url=server.url), client)

    assert isinstance(outcome, Succeeded)
    assert (seen(outcome).verdict, seen(outcome).reason) == (Verdict.BROKEN, "bad_certificate")


@pytest.mark.parametrize(
    "answer", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"]
)
async def test_what_may_pass_is_down_and_tried_again(client: Client, answer: bytes) -> None:
    async with raw_server(answer) as server:
        outcome = await check(CheckArgs(url=server.url), client)

        assert isinstance(outcome, Failed)
        assert outcome.transient
        assert seen(outcome).verdict is Verdict.DOWN
        assert [head.split()[0] for head in server.heads] == ["HEAD", "GET"]


async def test_a_host_that_refuses_is_down_and_asked_once(client: Client, unused_port: int) -> None:
    outcome = await check(CheckArgs(url=f"http://127.0.0.1:{unused_port}/"), client)

    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.transient) == ("connection_refused", True)


@pytest.mark.parametrize("lie", [403, 404, 405, 500, 501, 503, 999])
async def test_get_has_the_last_word_when_head_lies(client: Client, lie: int) -> None:
    async with raw_server(NOT_ALLOWED.replace(b"405", str(lie).encode()), OK) as server:
        result = seen(await check(CheckArgs(url=server.url), client))

        assert result.verdict is Verdict.OK
        assert [(hop.method, hop.status) for hop in result.hops] == [("HEAD", lie), ("GET", 200)]


async def test_get_is_asked_when_head_hangs_and_both_share_the_time() -> None:
    half_a_line = b"HTTP/1.1 "
    async with (
        raw_server(half_a_line, OK, then=STAY_SILENT) as server,
        client_that_reaches_loopback() as client,
    ):
        outcome = await check(CheckArgs(url=server.url, timeout_seconds=1), client)

    assert isinstance(outcome, Succeeded)
    assert 0.5 <= seen(outcome).total_seconds < 1


@pytest.mark.parametrize(("method", "asked"), [(CheckMethod.HEAD, ["HEAD"]), (CheckMethod.GET, ["GET"])])
async def test_a_method_that_was_asked_for_is_the_only_one(
    client: Client, method: CheckMethod, asked: list[str]
) -> None:
    async with raw_server(NOT_ALLOWED) as server:
        await check(CheckArgs(url=server.url, method=method), client)

        assert [head.split()[0] for head in server.heads] == asked


async def test_a_host_that_never_answers_runs_into_the_time_limit(target: TargetSite, client: Client) -> None:
    outcome = await check(CheckArgs(url=f"{target.url}/hang", timeout_seconds=0.3), client)

    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.transient) == ("timeout", True)
    assert outcome.explanation == (
        "There was no complete answer within 0.3 seconds; the time ran out while waiting for the answer."
    )
    assert seen(outcome).final_url == f"{target.url}/hang"


async def test_a_header_that_drips_is_bounded_by_the_time_limit() -> None:
    early = b"HTTP/1.1 103 Early\r\n\r\n" * 5
    async with raw_server(early, then=STAY_SILENT) as server, client_that_reaches_loopback() as client:
        outcome = await check(CheckArgs(url=server.url, timeout_seconds=0.4), client)

    assert isinstance(outcome, Failed)
    assert outcome.reason == "timeout"


async def test_a_body_is_not_read(target: TargetSite, client: Client) -> None:
    url = f"{target.url}/drip?seconds=60"

    outcome = await check(CheckArgs(url=url, method=CheckMethod.GET, timeout_seconds=5), client)

    assert isinstance(outcome, Succeeded)
    assert seen(outcome).total_seconds < 5


async def test_a_host_that_asks_us_to_wait_is_not_asked_again_at_once(
    target: TargetSite, client: Client
) -> None:
    url = f"{target.url}/limited/a"

    first = await check(CheckArgs(url=url), client)
    second = await check(CheckArgs(url=url), client)

    assert isinstance(first, Failed)
    assert (first.reason, first.retry_after_seconds) == ("http_429", 2)
    assert seen(first).status == 429
    assert isinstance(second, Succeeded)
    assert target.state.hits["/limited/a"] == 2


async def test_a_flaky_page_is_ok_at_the_third_attempt(target: TargetSite, client: Client) -> None:
    args = CheckArgs(url=f"{target.url}/flaky/a")

    outcomes = [await check(args, client) for _ in range(3)]

    assert [isinstance(outcome, Succeeded) for outcome in outcomes] == [False, False, True]


async def test_a_cancelled_check_stops_and_lets_the_cancellation_through(
    target: TargetSite, client: Client
) -> None:
    async with aiohttp.ClientSession() as control:
        running = asyncio.create_task(check(CheckArgs(url=f"{target.url}/gate/a"), client))
        async with control.get(f"{target.url}/control/waiting/a?at_least=1"):
            running.cancel()

        with pytest.raises(asyncio.CancelledError):
            await running
