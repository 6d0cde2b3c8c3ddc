"""The worker's DNS against a real DNS server that says exactly what it should not."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from ipaddress import ip_network

import pytest

from consumer.egress import AddressClass, EgressDenied
from consumer.handlers.check import check
from consumer.resolver import MAX_ADDRESSES, BoundedResolver
from shared.kinds.check import CheckArgs, CheckResult, Verdict
from shared.outcomes import Failed, Outcome, Succeeded
from tests.support.dns import SILENCE, Names, dns_server
from tests.support.http_servers import client_that_reaches_loopback, raw_server, trap

PUBLIC = "93.184.215.14"
CROWD = [*(f"93.184.215.{n}" for n in range(1, 30)), "2606:2800:21f::1", "2606:2800:21f::2"]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture(scope="module")
def dns() -> Iterator[Names]:
    with dns_server(
        {
            "here.example": [["127.0.0.1"]],
            "servfail.example": ["SERVFAIL"],
            "refused.example": ["REFUSED"],
            "empty.example": [[]],
            "silent.example": [SILENCE],
            "mixed.example": [[PUBLIC, "127.0.0.1"]],
            "mapped.example": [[PUBLIC, "::ffff:a00:1"]],
            "rebinding.example": [[PUBLIC], ["127.0.0.1"]],
            "crowd.example": [
                [*(f"93.184.215.{n}" for n in range(1, 30)), "2606:2800:21f::1", "2606:2800:21f::2"]
            ],
        }
    ) as names:
        yield names


@asynccontextmanager
async def resolver(dns: Names) -> AsyncIterator[BoundedResolver]:
    opened = BoundedResolver(timeout_seconds=2, servers=[dns.server])
    try:
        yield opened
    finally:
        await opened.close()


async def look(dns: Names, url: str) -> Outcome:
    async with asyncio.timeout(10), client_that_reaches_loopback(dns_servers=[dns.server]) as client:
        return await check(CheckArgs(url=url), client)


async def test_a_name_leads_to_its_server(dns: Names) -> None:
    async with raw_server(OK) as server:
        outcome = await look(dns, f"http://here.example:{server.port}/")

    assert isinstance(outcome, Succeeded)
    result = CheckResult.model_validate(outcome.result)
    assert (result.verdict, result.ip) == (Verdict.OK, "127.0.0.1")
    assert result.timings.dns_seconds is not None and result.timings.dns_seconds > 0


@pytest.mark.parametrize(
    ("name", "verdict", "reason"),
    [
        ("nowhere.example", Verdict.BROKEN, "dns_no_such_name"),
        ("empty.example", Verdict.BROKEN, "dns_no_address"),
        ("servfail.example", Verdict.DOWN, "dns_failed"),
        ("refused.example", Verdict.DOWN, "dns_failed"),
        ("silent.example", Verdict.DOWN, "dns_timeout"),
    ],
)
async def test_what_the_dns_says_decides_between_broken_and_down(
    dns: Names, name: str, verdict: Verdict, reason: str
) -> None:
    outcome = await look(dns, f"http://{name}/")

    assert outcome.result is not None
    assert (outcome.result["verdict"], outcome.result["reason"]) == (verdict, reason)
    assert isinstance(outcome, Failed) is (verdict is Verdict.DOWN)


@pytest.mark.parametrize(
    ("name", "denied"), [("mixed.example", AddressClass.LOOPBACK), ("mapped.example", AddressClass.PRIVATE)]
)
async def test_a_name_that_leads_inside_and_outside_is_refused_as_a_whole(
    dns: Names, name: str, denied: AddressClass
) -> None:
    async with resolver(dns) as opened:
        with pytest.raises(EgressDenied) as refusal:
            await opened.resolve(name, 80)

    assert refusal.value.address_class is denied


async def test_a_name_that_turns_inside_between_two_lookups_is_refused_then(dns: Names) -> None:
    async with resolver(dns) as opened:
        first = await opened.resolve("rebinding.example", 80)
        with pytest.raises(EgressDenied):
            await opened.resolve("rebinding.example", 80)

    assert [found["host"] for found in first] == [PUBLIC]


async def test_a_name_that_leads_inside_reaches_no_listener(dns: Names) -> None:
    only = [ip_network("127.0.0.2/32")]
    async with (
        trap() as listener,
        client_that_reaches_loopback(allow=only, dns_servers=[dns.server]) as client,
    ):
        outcome = await check(CheckArgs(url=f"http://here.example:{listener.port}/"), client)

        assert isinstance(outcome, Failed)
        assert (outcome.reason, outcome.transient, outcome.result) == ("egress_denied", False, None)
        assert listener.connections == 0


async def test_of_many_addresses_a_few_of_both_families_are_tried(dns: Names) -> None:
    async with resolver(dns) as opened:
        found = await opened.resolve("crowd.example", 80)

    families = [":" in place["host"] for place in found]
    assert (len(found), families.count(True)) == (MAX_ADDRESSES, 2)
