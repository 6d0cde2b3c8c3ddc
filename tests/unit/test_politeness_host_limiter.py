"""The limiter of one host, in a time that the tests make: limits, pauses and lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.politeness.admission import PrefetchShare
from consumer.politeness.host_limiter import (
    LONGEST_DEFERRAL_SECONDS,
    LONGEST_PAUSE_SECONDS,
    HostLimiter,
    PermitRequest,
    Priority,
    RateClock,
    Refusal,
)
from shared.hosts import HostLimit
from shared.outcomes import DeferralReason


def make_limiter(concurrency: int = 4, rate: float = 0.0) -> HostLimiter:
    return HostLimiter(HostLimit(concurrency, rate))


def make_request(priority: Priority = Priority.BULK) -> PermitRequest:
    return PermitRequest(priority, 5.0)


def started(limiter: HostLimiter, now: float, request: PermitRequest | None = None) -> PermitRequest:
    """Let one request start and return its request."""
    request = request or make_request()
    assert limiter.ask(request, now, has_slot=True) is None
    assert list(limiter.starts(now)) == [request]
    return request


def refused(limiter: HostLimiter, now: float, request: PermitRequest | None = None) -> Refusal:
    refusal = limiter.ask(request or make_request(), now, has_slot=True)
    assert refusal is not None
    return refusal


@given(
    waits=st.lists(st.floats(0, 0.5), min_size=2, max_size=60),
    per_second=st.floats(0.5, 100),
)
def test_a_rate_holds_over_every_stretch_of_time(waits: list[float], per_second: float) -> None:
    clock, now, starts = RateClock(), 0.0, list[float]()
    for wait in waits:
        now = max(now + wait, clock.ready_at)
        clock.take(now, per_second=per_second)
        starts.append(now)

    for count, start in enumerate(starts):
        assert start - starts[0] >= count / per_second - 1e-6


def test_no_more_run_at_once_than_the_limit_and_the_next_starts_when_one_ends() -> None:
    limiter = make_limiter(2)
    first, _ = started(limiter, 0.0), started(limiter, 0.0)
    third = make_request()

    assert limiter.ask(third, 0.0, has_slot=True) is None
    assert list(limiter.starts(0.0)) == []
    limiter.end(first, 0.1)
    assert list(limiter.starts(0.1)) == [third]


def test_a_person_goes_before_a_batch_and_an_attempt_under_way_before_both() -> None:
    limiter = make_limiter(1)
    running = started(limiter, 0.0)
    waiting = [make_request(priority) for priority in reversed(Priority)]
    for request in waiting:
        assert limiter.ask(request, 0.0, has_slot=True) is None

    limiter.end(running, 0.1)

    assert list(limiter.starts(0.1)) == [waiting[-1]]


def test_jobs_that_are_sent_away_come_back_one_after_the_other_and_soon() -> None:
    limiter = make_limiter(4, 10)
    started(limiter, 0.0)

    refusals = [limiter.ask(make_request(), 0.0, has_slot=False) for _ in range(2_000)]

    seconds = [refusal.seconds for refusal in refusals if refusal]
    assert seconds[:3] == pytest.approx([1.0, 1.1, 1.2])
    # Nobody knows how fast the host will be in an hour.
    assert max(seconds) == LONGEST_DEFERRAL_SECONDS
    assert {refusal.reason for refusal in refusals if refusal} == {DeferralReason.BUSY}


def test_without_a_slot_a_job_still_starts_when_it_is_its_permit() -> None:
    request = make_request()
    limiter = make_limiter()

    assert limiter.ask(request, 0.0, has_slot=False) is None
    assert list(limiter.starts(0.0)) == [request]


def test_a_pause_holds_for_all_and_sends_those_away_who_wait() -> None:
    limiter = make_limiter(1)
    request, waiting = started(limiter, 0.0), make_request()
    assert limiter.ask(waiting, 0.0, has_slot=True) is None

    limiter.pause(30.0, 0.1)
    limiter.end(request, 0.1)

    assert list(limiter.starts(0.1)) == []
    ((request, refusal),) = limiter.gives_up(0.1)
    assert (request, refusal.reason) == (waiting, DeferralReason.PAUSED)
    assert refusal.seconds >= 30.0
    started(limiter, 31.0)


def test_a_pause_is_capped() -> None:
    limiter = make_limiter()

    limiter.pause(86_400.0, 0.0)

    assert refused(limiter, 0.0).seconds < LONGEST_PAUSE_SECONDS + 2


def test_a_job_waits_in_hand_no_longer_than_its_patience() -> None:
    limiter = make_limiter(1)
    started(limiter, 0.0)
    waiting = make_request()
    assert limiter.ask(waiting, 0.0, has_slot=True) is None

    assert limiter.wakes_at(0.0) == 5.0
    assert [request for request, _ in limiter.gives_up(5.0)] == [waiting]


def test_a_crawl_delay_lowers_the_rate_and_never_raises_it() -> None:
    limiter = make_limiter(4, 10)

    limiter.limit_to(100)
    assert limiter.limit.rate_per_second == 10
    limiter.limit_to(0.5)
    assert limiter.limit.rate_per_second == 0.5


def test_a_waiting_share_always_has_a_slot_for_another_host() -> None:
    share = PrefetchShare(100)
    slots = [share.slot("a.example") for _ in range(100)]

    taken = sum(slot.__enter__() for slot in slots)

    assert taken == 25
    with share.slot("b.example") as has_slot:
        assert has_slot
    for slot in slots:
        slot.__exit__(None, None, None)
    with share.slot("a.example") as has_slot:
        assert has_slot


class Twin:
    """Two limiters of the same history: one is always asked for the long way, one for the short way first."""

    def __init__(self) -> None:
        self.long, self.short = make_limiter(2, 5.0), make_limiter(2, 5.0)
        self.running: list[tuple[PermitRequest, PermitRequest]] = []
        self._waiting: list[tuple[PermitRequest, PermitRequest]] = []

    def ask(self, priority: Priority, now: float) -> None:
        one, other = make_request(priority), make_request(priority)
        refusal = self.long.ask(one, now, has_slot=True)
        if self.short.starts_at_once(other, now):
            assert refusal is None and list(self.long.starts(now)) == [one]
            self.running.append((one, other))
            return
        assert refusal == self.short.ask(other, now, has_slot=True)
        if refusal is None:
            self._waiting.append((one, other))
        self.start(now)

    def start(self, now: float) -> None:
        places = {id(request): place for place, pair in enumerate(self._waiting) for request in pair}
        started = [places[id(request)] for request in self.long.starts(now)]
        assert started == [places[id(request)] for request in self.short.starts(now)]
        self.running += [self._waiting[place] for place in started]
        self._waiting = [pair for place, pair in enumerate(self._waiting) if place not in started]

    def end(self, now: float, *, pauses: bool) -> None:
        pair = self.running.pop(0)
        for limiter, request in zip((self.long, self.short), pair, strict=True):
            if pauses:
                limiter.pause(1.0, now)
            limiter.end(request, now)
        self.start(now)


@given(
    steps=st.lists(
        st.tuples(st.floats(0, 1.0), st.booleans(), st.sampled_from(Priority), st.booleans()), max_size=40
    )
)
def test_a_free_host_is_given_the_short_way_exactly_when_it_is_the_long_way(
    steps: list[tuple[float, bool, Priority, bool]],
) -> None:
    twin, now = Twin(), 0.0
    for wait, pauses, priority, is_end in steps:
        now += wait
        twin.start(now)
        if is_end and twin.running:
            twin.end(now, pauses=pauses)
        else:
            twin.ask(priority, now)
