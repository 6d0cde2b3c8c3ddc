"""The limiter of one host, in a time that the tests make: limits, pauses, complaints and failures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.politeness.admission import PrefetchShare
from consumer.politeness.host_health import FIRST_REST_SECONDS, FLOOR, LONGEST_REST_SECONDS, Breaker, Pace
from consumer.politeness.host_limiter import (
    DEFERRALS_BEFORE_ASKING_ANYWAY,
    LONGEST_PAUSE_SECONDS,
    HostLimiter,
    PermitRequest,
    Priority,
    RateClock,
    Refusal,
)
from shared.hosts import HostLimit
from shared.outcomes import DeferralReason


def make_limiter(concurrency: int = 4, rate: float = 0.0, *, failures_to_open: int = 3) -> HostLimiter:
    return HostLimiter(HostLimit(concurrency, rate), failures_to_open=failures_to_open)


def make_request(
    priority: Priority = Priority.BULK, *, deferrals: int = 0, promised_at: float | None = None
) -> PermitRequest:
    max_foreseen_seconds = 5.0 if deferrals or priority is Priority.UNDER_WAY else 1.0
    return PermitRequest(priority, max_foreseen_seconds, 5.0, deferrals=deferrals, promised_at=promised_at)


def started(limiter: HostLimiter, now: float, request: PermitRequest | None = None) -> PermitRequest:
    """Let one request start and return its request."""
    request = request or make_request()
    assert limiter.ask(request, now, has_slot=True) is None
    assert list(limiter.starts(now)) == [request]
    return request


def fail(limiter: HostLimiter, now: float) -> None:
    request = started(limiter, now)
    limiter.failed(request, now)
    limiter.end(request, now)


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


@given(
    happenings=st.lists(st.tuples(st.booleans(), st.floats(0, 10)), max_size=200),
    limit=st.builds(HostLimit, st.integers(1, 2_000), st.floats(0.01, 1_000)),
)
def test_a_pace_stays_between_its_floor_and_its_limit(
    happenings: list[tuple[bool, float]], limit: HostLimit
) -> None:
    pace, now = Pace(limit), 0.0
    for is_success, seconds in happenings:
        now += seconds
        before = pace.per_second
        if is_success:
            pace.speed_up()
        else:
            pace.slow_down(started_at=now, now=now)

        assert limit.rate_per_second * FLOOR <= pace.per_second <= limit.rate_per_second
        assert 1 <= pace.concurrency <= limit.concurrency
        assert (pace.per_second >= before) == is_success or before == limit.rate_per_second * FLOOR


def test_complaints_of_requests_that_were_under_way_together_halve_the_pace_once() -> None:
    limiter = make_limiter(4, failures_to_open=0)
    requests = [started(limiter, 0.0) for _ in range(4)]

    for request in requests:
        limiter.answered(request, 429, retry_after_seconds=None, now=1.0)

    assert limiter.pace.concurrency == 2


@given(happenings=st.lists(st.sampled_from(["ok", "fail", "lost", "wait"]), max_size=80))
def test_a_breaker_that_is_open_lets_one_probe_through_at_a_time(happenings: list[str]) -> None:
    breaker, now, asking = Breaker(2), 0.0, list[object]()
    for happening in happenings:
        if breaker.admits(now):
            was_closed, who = breaker.is_closed, object()
            breaker.started(who, now)
            asking = [*asking, who] if was_closed else [who]
        if happening == "wait":
            now += 5.0
        elif asking:
            who = asking.pop()
            if happening == "ok":
                breaker.succeeded()
                asking = []
            elif happening == "fail":
                breaker.failed(who, now)
            breaker.ended(who)
        if not breaker.is_closed:
            assert not (breaker.admits(now) and breaker.probe is not None)
            assert breaker.rest_seconds <= LONGEST_REST_SECONDS


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


def test_a_job_that_is_sent_away_takes_the_next_permit_on_the_plan() -> None:
    limiter = make_limiter(4, 10)
    started(limiter, 0.0)

    refusals = [limiter.ask(make_request(), 0.0, has_slot=False) for _ in range(30)]

    seconds = [refusal.seconds for refusal in refusals if refusal]
    assert seconds[0] == pytest.approx(1.0)
    # A tenth of the permits is left out.
    assert seconds[-1] == pytest.approx(1.0 + 29 * 0.11)
    assert {refusal.reason for refusal in refusals if refusal} == {DeferralReason.BUSY}


def test_a_new_job_does_not_overtake_those_that_were_sent_away() -> None:
    limiter = make_limiter(4, 10)
    started(limiter, 0.0)
    for _ in range(30):
        refused(limiter, 0.0, PermitRequest(Priority.BULK, -1.0, 5.0))

    assert refused(limiter, 2.0).seconds == pytest.approx(1.0 + 30 * 0.11 - 2.0)


def test_a_job_that_is_back_too_early_keeps_its_permit() -> None:
    limiter = make_limiter(1)
    started(limiter, 0.0)

    refusal = refused(limiter, 0.5, make_request(deferrals=1, promised_at=9.0))

    assert refusal.seconds == pytest.approx(8.5)


def test_a_job_that_is_back_too_early_is_taken_at_once_when_the_host_is_free() -> None:
    limiter = make_limiter(1)

    started(limiter, 0.5, make_request(deferrals=1, promised_at=9.0))


def test_without_a_slot_a_job_still_starts_when_it_is_its_permit() -> None:
    request = make_request()
    limiter = make_limiter()

    assert limiter.ask(request, 0.0, has_slot=False) is None
    assert list(limiter.starts(0.0)) == [request]


def test_retry_after_pauses_the_host_for_all_and_sends_those_away_who_wait() -> None:
    limiter = make_limiter(1, failures_to_open=0)
    request, waiting = started(limiter, 0.0), make_request()
    assert limiter.ask(waiting, 0.0, has_slot=True) is None

    limiter.answered(request, 429, retry_after_seconds=30.0, now=0.1)
    limiter.end(request, 0.1)

    assert list(limiter.starts(0.1)) == []
    ((request, refusal),) = limiter.gives_up(0.1)
    assert (request, refusal.reason) == (waiting, DeferralReason.PAUSED)
    assert refusal.seconds >= 30.0
    started(limiter, 31.0, make_request(deferrals=1, promised_at=31.0))


@pytest.mark.parametrize("status", [403, 429, 500, 503, 529])
def test_an_error_that_asks_for_it_pauses_the_host(status: int) -> None:
    limiter = make_limiter(failures_to_open=0)

    limiter.answered(started(limiter, 0.0), status, retry_after_seconds=30.0, now=0.0)

    assert refused(limiter, 0.0).reason == DeferralReason.PAUSED


@pytest.mark.parametrize("status", [200, 302, 404, 409, 413])
def test_an_answer_that_concerns_one_url_pauses_no_host(status: int) -> None:
    limiter = make_limiter(failures_to_open=0)

    limiter.answered(started(limiter, 0.0), status, retry_after_seconds=30.0, now=0.0)

    started(limiter, 0.0)


def test_a_pause_is_capped() -> None:
    limiter = make_limiter(failures_to_open=0)
    other = started(limiter, 0.0)

    limiter.answered(other, 503, retry_after_seconds=86_400.0, now=0.0)

    assert refused(limiter, 0.0).seconds < LONGEST_PAUSE_SECONDS + 2


def test_a_host_that_fails_again_and_again_is_left_alone_then_asked_by_one() -> None:
    limiter = make_limiter(failures_to_open=3)
    for _ in range(3):
        fail(limiter, 0.0)

    assert refused(limiter, 1.0).reason is DeferralReason.OPEN
    probe, other = make_request(deferrals=1, promised_at=10.0), make_request(deferrals=1, promised_at=10.0)
    now = FIRST_REST_SECONDS
    assert limiter.ask(probe, now, has_slot=True) is None
    assert limiter.ask(other, now, has_slot=True) is None
    assert list(limiter.starts(now)) == [probe]

    limiter.answered(probe, 200, retry_after_seconds=None, now=now)
    assert list(limiter.starts(now)) == [other]


def test_a_probe_that_fails_sends_those_away_who_wait_for_twice_as_long() -> None:
    limiter = make_limiter(failures_to_open=1)
    fail(limiter, 0.0)
    now = FIRST_REST_SECONDS
    probe = started(limiter, now, make_request(deferrals=1, promised_at=now))
    waiting = make_request(deferrals=1, promised_at=now)
    assert limiter.ask(waiting, now, has_slot=True) is None

    limiter.failed(probe, now)
    limiter.end(probe, now)

    ((_, refusal),) = limiter.gives_up(now)
    assert refusal.reason is DeferralReason.OPEN
    assert refusal.seconds >= 2 * FIRST_REST_SECONDS


def test_a_probe_that_learned_nothing_makes_share_for_another() -> None:
    limiter = make_limiter(failures_to_open=1)
    fail(limiter, 0.0)
    now = FIRST_REST_SECONDS

    limiter.end(started(limiter, now, make_request(deferrals=1, promised_at=now)), now)

    started(limiter, now, make_request(deferrals=1, promised_at=now))


def test_a_job_that_was_sent_away_often_asks_a_failing_host_anyway() -> None:
    limiter = make_limiter(failures_to_open=1)
    fail(limiter, 0.0)

    started(limiter, 1.0, make_request(deferrals=DEFERRALS_BEFORE_ASKING_ANYWAY, promised_at=1.0))


def test_a_job_waits_in_hand_no_longer_than_its_patience() -> None:
    limiter = make_limiter(1)
    started(limiter, 0.0)
    waiting = make_request()
    assert limiter.ask(waiting, 0.0, has_slot=True) is None

    assert limiter.wakes_at(0.0) == 5.0
    assert [request for request, _ in limiter.gives_up(5.0)] == [waiting]


def test_a_crawl_delay_lowers_the_rate_and_never_raises_it() -> None:
    limiter = make_limiter(4, 10)

    limiter.pace.limit_to(100)
    assert limiter.pace.per_second == 10
    limiter.pace.limit_to(0.5)
    assert limiter.pace.per_second == 0.5


def test_a_waiting_share_always_has_a_slot_for_another_host() -> None:
    share = PrefetchShare(100)
    slots = [share.slot("a.example") for _ in range(100)]

    taken = sum(slot.__enter__() for slot in slots)

    assert taken == share.slots_of_one_host == 25
    with share.slot("a.example", deferrals=2) as has_slot:
        assert has_slot
    with share.slot("b.example") as has_slot:
        assert has_slot
    for slot in slots:
        slot.__exit__(None, None, None)
    with share.slot("a.example") as has_slot:
        assert has_slot


class Twin:
    """Two limiters of the same history: one is always asked for the long way, one for the short way first."""

    def __init__(self) -> None:
        self.long, self.short = (
            make_limiter(2, 5.0, failures_to_open=2),
            make_limiter(2, 5.0, failures_to_open=2),
        )
        self.running: list[tuple[PermitRequest, PermitRequest]] = []
        self._waiting: list[tuple[PermitRequest, PermitRequest]] = []

    def ask(self, priority: Priority, now: float, *, deferrals: int, promised_at: float | None) -> None:
        one = make_request(priority, deferrals=deferrals, promised_at=promised_at)
        other = make_request(priority, deferrals=deferrals, promised_at=promised_at)
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

    def end(self, now: float, *, status: int) -> None:
        pair = self.running.pop(0)
        for limiter, request in zip((self.long, self.short), pair, strict=True):
            limiter.answered(request, status, retry_after_seconds=1.0 if status == 503 else None, now=now)
            limiter.end(request, now)
        self.start(now)


@given(
    steps=st.lists(
        st.tuples(
            st.floats(0, 1.0),
            st.sampled_from([200, 500, 503]),
            st.sampled_from(Priority),
            st.sampled_from([0, 1, DEFERRALS_BEFORE_ASKING_ANYWAY]),
            st.none() | st.floats(0, 3.0),
            st.booleans(),
        ),
        max_size=40,
    )
)
def test_a_free_host_is_given_the_short_way_exactly_when_it_is_the_long_way(
    steps: list[tuple[float, int, Priority, int, float | None, bool]],
) -> None:
    twin, now = Twin(), 0.0
    for wait, status, priority, deferrals, turn_in, is_end in steps:
        now += wait
        twin.start(now)
        if is_end and twin.running:
            twin.end(now, status=status)
        else:
            promised_at = None if turn_in is None or not deferrals else now + turn_in
            twin.ask(priority, now, deferrals=deferrals, promised_at=promised_at)
