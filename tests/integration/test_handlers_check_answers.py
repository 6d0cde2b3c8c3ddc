"""What `check` says of real servers that nobody here wrote: nginx, httpbin, and TLS of every sort."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from consumer.handlers.check import check
from consumer.http.client import Client
from shared.kinds.check import CheckArgs, CheckResult, Family, Verdict
from shared.outcomes import Failed, Outcome
from tests.support.http_servers import KEEP_OPEN, STAY_SILENT, client_that_reaches_loopback, raw_server
from tests.support.httpbin import running_httpbin
from tests.support.nginx import nginx
from tests.support.tls import Authority

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with nginx() as url:
        yield url


@pytest.fixture(scope="module")
def bin_url() -> Iterator[str]:
    with running_httpbin() as url:
        yield url


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
async def client(authority: Authority) -> AsyncIterator[Client]:
    async with client_that_reaches_loopback(names={}, tls=authority.client()) as opened:
        yield opened


async def outcome_of(client: Client, url: str, **args: Any) -> Outcome:
    async with asyncio.timeout(10):
        return await check(CheckArgs.model_validate({"url": url, **args}), client)


async def seen(client: Client, url: str, **args: Any) -> CheckResult:
    outcome = await outcome_of(client, url, **args)
    assert outcome.result is not None
    assert isinstance(outcome, Failed) is (outcome.result["verdict"] == Verdict.DOWN)
    return CheckResult.model_validate(outcome.result)


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, Verdict.OK),
        (204, Verdict.OK),
        (401, Verdict.BLOCKED),
        (403, Verdict.BLOCKED),
        (451, Verdict.BLOCKED),
        (404, Verdict.BROKEN),
        (410, Verdict.BROKEN),
        (405, Verdict.BROKEN),
        (500, Verdict.DOWN),
        (502, Verdict.DOWN),
        (503, Verdict.DOWN),
        (504, Verdict.DOWN),
    ],
)
async def test_each_status_of_nginx_has_its_verdict(
    site: str, client: Client, status: int, verdict: Verdict
) -> None:
    result = await seen(client, f"{site}/status/{status}")

    assert (result.verdict, result.status) == (verdict, status)
    assert result.reason == ("ok" if verdict is Verdict.OK else f"http_{status}")


async def test_an_nginx_that_hangs_up_is_down(site: str, client: Client) -> None:
    result = await seen(client, f"{site}/hang-up")

    assert (result.verdict, result.reason, result.status) == (Verdict.DOWN, "connection_reset", None)


@pytest.mark.parametrize(("path", "reason"), [("/limited", "http_429"), ("/busy", "http_503")])
async def test_an_nginx_that_limits_us_is_down(site: str, client: Client, path: str, reason: str) -> None:
    first = await seen(client, f"{site}{path}", method="GET")
    second = await seen(client, f"{site}{path}", method="GET")

    assert (first.verdict, second.verdict, second.reason) == (Verdict.OK, Verdict.DOWN, reason)


async def test_a_page_is_expanded_and_its_title_and_fragment_are_found(site: str, client: Client) -> None:
    result = await seen(
        client, f"{site}/moved", title=True, assertions={"fragment": True, "contains": ["Welcome"]}
    )

    assert (result.verdict, result.title) == (Verdict.OK, "A page & its title")
    assert [hop.method for hop in result.hops] == ["GET", "GET"]
    assert (result.hops[0].location, result.final_url) == (f"{site}/page.html#there",) * 2
    assert result.bytes is not None and result.bytes > 150
    assert [assertion.passed for assertion in result.assertions] == [True, True]


@pytest.mark.parametrize(
    ("fragment", "passed"),
    [
        ("there", True),
        ("caf%C3%A9", True),
        ("top", True),
        (":~:text=Welcome", True),
        ("", True),
        ("hidden", False),
        ("scripted", False),
        ("There", False),
    ],
)
async def test_a_fragment_must_be_in_the_page_and_not_in_a_comment(
    site: str, client: Client, fragment: str, passed: bool
) -> None:
    result = await seen(client, f"{site}/page.html#{fragment}", assertions={"fragment": True})

    assert (result.verdict is Verdict.OK) is passed


async def test_a_failed_assertion_is_broken_and_named(site: str, client: Client) -> None:
    assertions = {
        "json": [{"path": "status", "equals": "up"}, {"path": "length(items)", "equals": 4}],
        "not_contains": ["up"],
        "header": [{"name": "Content-Type", "regex": "^application/json"}],
        "regex": [r"items.*\["],
    }

    result = await seen(client, f"{site}/data.json", assertions=assertions)

    assert (result.verdict, result.reason) == (Verdict.BROKEN, "assertion_failed")
    assert result.explanation == "An assertion does not hold: not_contains up, nor do 1 more."
    assert [(each.assertion, each.passed, each.observed) for each in result.assertions] == [
        ("not_contains", False, None),
        ("regex", True, 'items": ['),
        ("json", True, '"up"'),
        ("json", False, "3"),
        ("header", True, "application/json"),
    ]


@pytest.mark.parametrize(
    ("statuses", "verdict"),
    [(["404"], Verdict.OK), ([200, "400-499"], Verdict.OK), (["200-299"], Verdict.BROKEN)],
)
async def test_the_job_says_which_statuses_are_good(
    bin_url: str, client: Client, statuses: list[str | int], verdict: Verdict
) -> None:
    assert (await seen(client, f"{bin_url}/status/404", statuses=statuses)).verdict is verdict


async def test_a_success_that_is_not_accepted_is_broken(bin_url: str, client: Client) -> None:
    result = await seen(client, f"{bin_url}/status/200", statuses=["404"])

    assert (result.verdict, result.reason) == (Verdict.BROKEN, "http_200")


async def test_a_reported_redirect_is_good(bin_url: str, client: Client) -> None:
    result = await seen(client, f"{bin_url}/redirect/2", redirects="report")

    assert (result.verdict, result.status) == (Verdict.OK, 302)
    assert result.hops[-1].location == f"{bin_url}/relative-redirect/1"


async def test_wrong_credentials_are_broken_and_missing_ones_blocked(bin_url: str, client: Client) -> None:
    place = bin_url.removeprefix("http://")

    right = await seen(client, f"http://ann:secret@{place}/basic-auth/ann/secret")
    wrong = await seen(client, f"http://ann:other@{place}/basic-auth/ann/secret")
    none = await seen(client, f"{bin_url}/basic-auth/ann/secret")

    assert [result.verdict for result in (right, wrong, none)] == [
        Verdict.OK,
        Verdict.BROKEN,
        Verdict.BLOCKED,
    ]
    assert "secret@" not in right.model_dump_json()


@pytest.mark.parametrize(
    ("head", "verdict"),
    [
        ("403 No\r\ncf-mitigated: challenge", Verdict.BLOCKED),
        ("503 No\r\ncf-mitigated: challenge\r\nRetry-After: 1", Verdict.BLOCKED),
        ("202 Wait\r\nx-amzn-waf-action: challenge", Verdict.BLOCKED),
        ("405 No\r\nx-amzn-waf-action: captcha", Verdict.BLOCKED),
        ("999 No", Verdict.BLOCKED),
        ("503 No\r\nServer: cloudflare", Verdict.DOWN),
        ("200 OK\r\nX-DataDome: protected", Verdict.OK),
    ],
)
async def test_a_bot_wall_is_known_by_its_marks(client: Client, head: str, verdict: Verdict) -> None:
    answer = f"HTTP/1.1 {head}\r\nContent-Length: 0\r\n\r\n".encode()
    async with raw_server(answer) as server:
        assert (await seen(client, server.url)).verdict is verdict


async def test_every_phase_of_a_verified_request_is_timed_and_its_certificate_shown(
    authority: Authority, client: Client
) -> None:
    async with raw_server(OK, tls=authority.good(days=30)) as server:
        result = await seen(client, server.url, method="GET", assertions={"min_certificate_days": 7})

    timings = result.timings
    assert timings.dns_seconds is None
    assert timings.connect_seconds and timings.tls_seconds and timings.first_byte_seconds
    assert timings.total_seconds >= timings.tls_seconds + timings.first_byte_seconds
    assert (result.verdict, result.ip, result.family) == (Verdict.OK, "127.0.0.1", Family.IPV4)
    assert result.certificate is not None and result.certificate.trusted
    assert result.certificate.names == ["127.0.0.1"]
    assert result.certificate.days_left == pytest.approx(30, abs=0.1)
    assert result.certificate.protocol == "TLSv1.3"
    assert "Retriever tests" in result.certificate.issuer


async def test_a_kept_connection_has_an_address_and_a_certificate_but_no_phases(
    authority: Authority, client: Client
) -> None:
    empty = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    async with raw_server(empty, then=KEEP_OPEN, tls=authority.good()) as server:
        await seen(client, server.url)
        result = await seen(client, server.url)

        assert server.connections == 1
    assert (result.ip, result.timings.connect_seconds, result.timings.tls_seconds) == (
        "127.0.0.1",
        None,
        None,
    )
    assert result.certificate is not None and result.timings.first_byte_seconds


@pytest.mark.parametrize(
    ("sort", "words"),
    [
        ("expired", "has expired"),
        ("wrong_host", "another address"),
        ("unknown_root", "an authority that we do not trust"),
    ],
)
async def test_a_bad_certificate_is_broken_and_shown_but_nothing_is_sent(
    authority: Authority, client: Client, sort: str, words: str
) -> None:
    async with raw_server(OK, tls=getattr(authority, sort)()) as server:
        result = await seen(client, server.url)

        assert server.heads == []
    assert (result.verdict, result.reason, result.status) == (Verdict.BROKEN, "bad_certificate", None)
    assert words in result.explanation
    assert result.certificate is not None and not result.certificate.trusted
    assert result.certificate.days_left is not None
    assert (result.certificate.days_left < 0) is (sort == "expired")


async def test_a_certificate_that_ends_soon_is_a_failed_assertion(
    authority: Authority, client: Client
) -> None:
    async with raw_server(OK, tls=authority.good(days=3)) as server:
        result = await seen(client, server.url, assertions={"min_certificate_days": 14})

    assert (result.verdict, result.reason) == (Verdict.BROKEN, "assertion_failed")


async def test_a_way_back_to_http_is_marked_and_may_be_refused(authority: Authority, client: Client) -> None:
    async with raw_server(OK) as plain:
        away = f"HTTP/1.1 302 Found\r\nLocation: {plain.url}\r\nContent-Length: 0\r\n\r\n".encode()
        async with raw_server(away, tls=authority.good()) as server:
            followed = await seen(client, server.url)
            refused = await seen(client, server.url, allow_downgrade=False)

    assert (followed.verdict, followed.redirects_to_http) == (Verdict.OK, True)
    assert (refused.verdict, refused.reason) == (Verdict.BROKEN, "redirect_downgrade")
    assert followed.certificate is None


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"first_byte_timeout_seconds": 0.2}, "first_byte_timeout"),
        ({"timeout_seconds": 0.4}, "timeout"),
        ({"connect_timeout_seconds": 0.2, "timeout_seconds": 0.8}, "timeout"),
    ],
)
async def test_a_limit_that_is_reached_names_its_phase(
    client: Client, limits: dict[str, float], reason: str
) -> None:
    async with raw_server(b"HTTP/1.1 ", then=STAY_SILENT) as server:
        result = await seen(client, server.url, method="GET", **limits)

    assert (result.verdict, result.reason) == (Verdict.DOWN, reason)


async def test_a_port_that_takes_the_connection_but_no_tls_is_late_in_tls(client: Client) -> None:
    async with raw_server(OK, then=STAY_SILENT) as server:
        url = server.url.replace("http:", "https:")
        result = await seen(client, url, connect_timeout_seconds=0.3)

    assert (result.verdict, result.reason) == (Verdict.DOWN, "tls_timeout")


async def test_a_body_that_the_host_cuts_is_down_and_our_own_limit_says_nothing_of_it(
    bin_url: str, client: Client
) -> None:
    args = {"max_body_bytes": 1_000, "assertions": {"contains": ["nowhere"]}}
    large = await outcome_of(client, f"{bin_url}/bytes/5000", **args)
    async with raw_server(OK.replace(b"Length: 2", b"Length: 9")) as server:
        cut = await seen(client, server.url, title=True)

    assert isinstance(large, Failed)
    assert (large.reason, large.transient, large.result) == ("body_too_large", False, None)
    assert (cut.verdict, cut.reason) == (Verdict.DOWN, "body_truncated")


async def test_a_latency_beyond_its_limit_is_a_failed_assertion(bin_url: str, client: Client) -> None:
    slow = await seen(client, f"{bin_url}/delay/0.3", method="GET", assertions={"max_latency_seconds": 0.1})

    assert slow.reason == "assertion_failed"
    assert slow.assertions[0].observed is not None and float(slow.assertions[0].observed) >= 0.3
