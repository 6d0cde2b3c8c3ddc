"""Limits of addresses: one machine is one machine, whatever it is called. No network."""

import asyncio
import uuid
from dataclasses import dataclass
from typing import Any

import pytest

from consumer.politeness import address_limiters as limiters_module
from consumer.politeness.address_limiters import (
    KNOWN_SECONDS,
    AddressBusy,
    AddressLimiters,
    AddressPermits,
)
from consumer.politeness.admission import Admission
from consumer.politeness.host_limiter import PermitRequest, Priority
from consumer.politeness.host_limiters import NO_PERMIT, FirstPermit, HostLimiters, Permit
from shared.hosts import HostLimit, NamedLimit, NetworkLimit, address_key, network_limit
from shared.kinds.registry import Lane
from shared.messages import JobMessage
from shared.outcomes import DeferralReason, Deferred
from shared.settings import Settings

HERE, THERE = "203.0.113.7", "203.0.113.8"
PREFETCH = {Lane.INTERACTIVE: 20, Lane.BULK: 100}


@dataclass
class Clock:
    """A clock that stands still until it is moved."""

    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


def make_job(url: str = "http://a.example/", **fields: Any) -> JobMessage:
    return JobMessage(id=uuid.uuid4(), kind="check", lane=Lane.BULK, args={"url": url}, **fields)


def make_request() -> PermitRequest:
    return PermitRequest(Priority.BULK, 0)


def permits_of(addresses: AddressLimiters, first: FirstPermit = NO_PERMIT) -> AddressPermits:
    return AddressPermits(addresses, HostLimiters(), "a.example", first)


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("64:ff9b::203.0.113.7", "203.0.113.7"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:ffff:ffff:ffff:ffff", "2001:db8:0:1::/64"),
        ("2001:db8:0:2::1", "2001:db8:0:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_a_machine_has_one_key_however_its_address_is_written(address: str, key: str) -> None:
    assert address_key(address) == key


@pytest.mark.parametrize(
    ("key", "limit"),
    [
        ("104.16.0.1", HostLimit(64, 400)),
        ("104.17.1.1", HostLimit(2, 1)),
        ("104.17.1.2", HostLimit(3, 0)),
        ("203.0.113.7", None),
        ("2606:4700:0:1::/64", HostLimit(32, 200)),
        ("2001:db8::/64", None),
    ],
)
def test_the_smallest_network_wins(key: str, limit: HostLimit | None) -> None:
    said = "104.16.0.0/13=64:400,104.17.1.0/24=2:1,104.17.1.2/32=3:0,2606:4700::/32=32:200"

    assert network_limit(key, [NetworkLimit.parse(entry) for entry in said.split(",")]) == limit


def test_networks_and_names_are_set_in_one_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRIEVER_HOST_LIMITS", "example.com=2:0.5, 104.16.0.0/13=64:400,2606:4700::/32=8:20")

    named, first, second = Settings().host_limits

    assert isinstance(named, NamedLimit) and named.pattern == "example.com"
    assert isinstance(first, NetworkLimit) and str(first.network) == "104.16.0.0/13"
    assert isinstance(second, NetworkLimit) and second.limit == HostLimit(8, 20)


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (HostLimit(8, 20), HostLimit(4, 50), HostLimit(8, 50)),
        (HostLimit(8, 20), HostLimit(4, 0), HostLimit(8, 0)),
        (HostLimit(8, 0), HostLimit(9, 10), HostLimit(9, 0)),
    ],
)
def test_a_raised_limit_allows_what_either_allows(one: HostLimit, other: HostLimit, both: HostLimit) -> None:
    assert one.at_least(other) == both


def test_a_thousand_names_of_one_address_get_what_one_host_gets() -> None:
    clock = Clock()
    addresses = AddressLimiters(HostLimit(8, 20), clock=clock)
    names = [
        AddressPermits(addresses, HostLimiters(), f"n{number}.example", NO_PERMIT) for number in range(1_000)
    ]
    running: list[tuple[float, AddressPermits]] = []
    started: list[float] = []

    for _ in range(5_000):
        clock.now += 0.001
        while running and running[0][0] <= clock.now:
            running.pop(0)[1].release()
        if names[0].dial(HERE):
            permits = names.pop(0)
            permits.connected(HERE)
            started.append(clock.now)
            running.append((clock.now + 0.3, permits))
        assert len(running) <= 8

    assert max(sum(start <= time < start + 1 for time in started) for start in started) <= 21
    assert 99 <= len(started) <= 101


def test_requests_a_little_early_make_no_more_of_them() -> None:
    clock = Clock()
    addresses = AddressLimiters(HostLimit(1_000, 20), clock=clock)
    started = 0

    for step in range(10_000):
        clock.now = 1_000.0 + step * 0.001
        started += addresses.permit_now(HERE, make_request()) is not None

    assert started in {200, 201}


def test_every_dial_needs_a_permit_and_one_stays_once_there_is_a_connection() -> None:
    addresses = AddressLimiters(HostLimit(2))
    permits = permits_of(addresses)

    dials = [permits.dial(address) for address in (HERE, THERE, HERE, HERE)]
    permits.connected(HERE)

    assert dials == [True, True, True, False]
    others = [addresses.permit_now(key, make_request()) for key in (HERE, HERE, THERE, THERE)]
    assert [permit is not None for permit in others] == [True, False, True, True]
    permits.release()
    assert addresses.permit_now(HERE, make_request()) is not None


def test_all_addresses_of_one_network_of_ipv6_share_its_limit() -> None:
    permits = permits_of(AddressLimiters(HostLimit(1)))

    assert [permits.dial(f"2001:db8:0:1::{number:x}") for number in range(1, 4)] == [True, False, False]


def test_a_host_is_known_by_its_addresses_for_a_while_the_latest_first() -> None:
    clock = Clock()
    addresses = AddressLimiters(clock=clock)
    permits = permits_of(addresses)
    permits.choose([HERE, THERE])
    permits.connected(THERE)

    assert addresses.known("a.example") == (THERE, HERE)
    assert addresses.known("b.example") == ()
    clock.now += KNOWN_SECONDS
    assert addresses.known("a.example") == ()


def test_few_hosts_and_addresses_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiters_module, "MAX_KNOWN_HOSTS", 10)
    addresses = AddressLimiters()

    for number in range(100):
        addresses.note(f"n{number}.example", (HERE,))

    assert len(addresses._known) == 10
    assert addresses.known("n99.example") == (HERE,)


async def test_a_first_request_waits_for_no_address_and_a_later_one_does() -> None:
    addresses = AddressLimiters(HostLimit(1))
    held = addresses.permit_now(HERE, make_request())
    assert held is not None
    first = FirstPermit(request=PermitRequest(Priority.BULK, 5))

    with pytest.raises(AddressBusy):
        await permits_of(addresses, first).wait(HERE)
    later = permits_of(addresses, FirstPermit(max_wait_seconds=30))
    waiting = asyncio.create_task(later.wait(HERE))
    await asyncio.sleep(0)
    held.release()

    async with asyncio.timeout(10):
        await waiting
    assert first.busy_address == HERE
    assert later.dial(HERE)


async def test_a_job_of_a_busy_address_is_deferred_with_a_sentence_that_names_it() -> None:
    hosts, addresses = HostLimiters(HostLimit(1)), AddressLimiters(HostLimit(1, 0.1))
    addresses.note("b.example", (HERE,))
    admission = Admission(hosts, addresses, prefetch_by_lane=PREFETCH)
    assert addresses.permit_now(HERE, make_request()) is not None

    deferred = await admission.admit(make_job("http://b.example/"))

    assert isinstance(deferred, Deferred) and deferred.reason is DeferralReason.BUSY
    assert deferred.explanation == (
        f"Deferred, because {HERE}, the address of b.example, is at its limit for this worker."
    )
    assert 9 < deferred.seconds < 21
    # The host's permit went back.
    assert hosts.permit_now("b.example", make_request()) is not None


async def test_a_job_whose_attempt_was_given_back_waits_for_the_address_that_was_busy() -> None:
    addresses = AddressLimiters(HostLimit(1))
    admission = Admission(HostLimiters(), addresses, prefetch_by_lane=PREFETCH)
    held = addresses.permit_now(HERE, make_request())
    assert held is not None
    admitting = asyncio.create_task(admission.admit(make_job(), address=HERE))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not admitting.done()

    held.release()

    async with asyncio.timeout(10):
        permit = await admitting
    assert isinstance(permit, FirstPermit)
    with permit:
        assert addresses.permit_now(HERE, make_request()) is None
    assert addresses.permit_now(HERE, make_request()) is not None


async def test_a_job_that_is_cancelled_while_it_waits_for_an_address_gives_back_its_host() -> None:
    hosts, addresses = HostLimiters(HostLimit(1)), AddressLimiters(HostLimit(1))
    admission = Admission(hosts, addresses, prefetch_by_lane=PREFETCH)
    assert addresses.permit_now(HERE, make_request()) is not None
    admitting = asyncio.create_task(admission.admit(make_job(), address=HERE))
    for _ in range(3):
        await asyncio.sleep(0)

    admitting.cancel()
    await asyncio.gather(admitting, return_exceptions=True)

    assert hosts.permit_now("a.example", make_request()) is not None


async def test_a_job_takes_the_address_of_its_host_that_is_free() -> None:
    addresses = AddressLimiters(HostLimit(1))
    addresses.note("a.example", (HERE, THERE))
    assert addresses.permit_now(HERE, make_request()) is not None
    admission = Admission(HostLimiters(), addresses, prefetch_by_lane=PREFETCH)

    permit = await admission.admit(make_job())

    assert isinstance(permit, FirstPermit)
    of_address = permit.take_address()
    assert isinstance(of_address, Permit) and of_address.host == THERE


async def test_a_job_waits_for_its_address_as_long_as_for_its_host_and_no_attempt_counts_it_twice() -> None:
    addresses = AddressLimiters(HostLimit(8, 20))
    addresses.note("a.example", (HERE,))
    admission = Admission(HostLimiters(HostLimit(8, 20)), addresses, prefetch_by_lane=PREFETCH)

    async with asyncio.timeout(20):
        for _ in range(5):
            permit = await admission.admit(make_job())
            assert isinstance(permit, FirstPermit)
            with permit:
                pass

    assert addresses._entries[HERE].limiter.is_idle


async def test_many_names_of_a_slow_machine_leave_slots_for_other_hosts() -> None:
    addresses = AddressLimiters(HostLimit(1))
    admission = Admission(HostLimiters(HostLimit(1)), addresses, prefetch_by_lane=PREFETCH)
    held = [addresses.permit_now(key, make_request()) for key in (HERE, THERE)]
    for number in range(100):
        addresses.note(f"n{number}.example", (HERE,))
    addresses.note("other.example", (THERE,))

    async def come(name: str) -> Deferred | FirstPermit:
        permit = await admission.admit(make_job(f"http://{name}/", deferrals=1))
        if isinstance(permit, FirstPermit):
            with permit:
                pass
        return permit

    coming = [asyncio.create_task(come(f"n{number}.example")) for number in range(100)]
    for _ in range(5):
        await asyncio.sleep(0)
    other = asyncio.create_task(come("other.example"))
    for _ in range(5):
        await asyncio.sleep(0)

    # At most a quarter of the prefetch, as of one host; of hundred hosts it would be the half.
    assert 10 <= sum(not task.done() for task in coming) <= 25
    assert not other.done()
    for permit in held:
        assert permit is not None
        permit.release()
    async with asyncio.timeout(10):
        assert isinstance(await other, FirstPermit)
        await asyncio.gather(*coming)
