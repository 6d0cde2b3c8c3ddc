"""The limiter of a host or address: which request may go now, which waits, and which comes back later. Pure.

Nothing here reads a clock or waits: `now` is passed in, in seconds that only grow.
"""

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from consumer.politeness.host_health import Breaker, Pace
from shared.hosts import HostLimit
from shared.outcomes import DeferralReason

LONGEST_PAUSE_SECONDS = 300.0
"""How long one `Retry-After` may pause all jobs of a host; the job that got it waits as long as it says."""

SHORTEST_DEFERRAL_SECONDS = 1.0
"""The first step of the delay ladder."""

DEFERRALS_BEFORE_ASKING_ANYWAY = 5
"""A job that was deferred this often ignores an open breaker, so that a dead host cannot hold up the end of a
batch for ever."""

_GUESSED_REQUEST_SECONDS = 0.25
# Timers are late and hosts slow down, and a plan without slack would be overbooked: jobs that come back and
# find no slot are deferred again. A permit that is left over goes to a job that is back early.
_PLANNED_SLACK = 1.1
_WEIGHT_OF_LATEST = 0.2


class Priority(IntEnum):
    """Who goes first: an attempt under way, then a person who waits, then a batch."""

    UNDER_WAY = 0
    INTERACTIVE = 1
    BULK = 2


@dataclass(slots=True, eq=False)
class PermitRequest:
    """What a job asks a limiter for. Times are of the limiter's clock.

    Attributes:
        max_foreseen_seconds: It waits only for a permit that is foreseen within this time.
        max_wait_seconds: It waits no longer than this, whatever was foreseen.
        deferrals: How often this attempt was deferred before.
        promised_at: The time that it was promised when it was deferred.
        spacing_seconds: How far apart deferred jobs must come back, so that those of one step of the
            delay ladder, which come back together, find slots.
        arrived_at: When it began to wait.
    """

    priority: Priority
    max_foreseen_seconds: float
    max_wait_seconds: float
    deferrals: int = 0
    promised_at: float | None = None
    spacing_seconds: float = 0.0
    arrived_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """There is no permit now; there may be one in `seconds`."""

    seconds: float
    reason: DeferralReason


class HostLimiter:
    """The concurrency, rate, shared pause and circuit breaker of one host.

    An address has one, too. Nobody tells it of answers, so it has no complaints and its breaker stays closed.
    """

    def __init__(self, limit: HostLimit, *, failures_to_open: int, early_seconds: float = 0.0) -> None:
        """Make the limiter of a host about which nothing is known.

        Args:
            early_seconds: How much before its time a request may start, without more in the long run.
        """
        self.pace = Pace(limit)
        self.breaker = Breaker(failures_to_open)
        self._rate = RateClock(early_seconds)
        self._paused_until = 0.0
        self._running: dict[PermitRequest, float] = {}
        self._waiting: list[PermitRequest] = []
        # By priority; a list, because a dictionary would hash members of an enumeration in Python.
        self._planned_until = [0.0] * len(Priority)
        self._request_seconds = _GUESSED_REQUEST_SECONDS

    @property
    def is_idle(self) -> bool:
        """Whether no request runs or waits."""
        return not self._running and not self._waiting

    @property
    def has_line(self) -> bool:
        """Whether a request waits."""
        return bool(self._waiting)

    def starts_at_once(self, request: PermitRequest, now: float) -> bool:
        """Start a request if it may go now and none waits; return whether it runs.

        The short way through `ask` and `starts` for a host that is free: nothing need be foreseen.
        """
        is_planned = request.promised_at is not None or self._planned_until[request.priority] <= now
        if self._waiting or not is_planned or not self._can_start(request, now):
            return False
        request.arrived_at = now
        self._start(request, now)
        return True

    def ask(self, request: PermitRequest, now: float, *, has_slot: bool) -> Refusal | None:
        """Return a refusal, or None: the request waits in line, and `starts` yields it when it may go.

        Args:
            has_slot: Whether it may wait; a request that may go now needs no slot.
        """
        request.arrived_at = now
        starts_at = self._foreseen(request, now)
        is_first = not any(waiting.priority <= request.priority for waiting in self._waiting)
        starts_now = starts_at <= now and is_first and self._can_start(request, now)
        if starts_now or (has_slot and starts_at - now <= request.max_foreseen_seconds):
            insort(self._waiting, request, key=_order)
            return None
        return self._refuse(request, now)

    def starts(self, now: float) -> Iterator[PermitRequest]:
        """Yield the requests that may go now; each counts as running until `end`."""
        while self._waiting and self._can_start(self._waiting[0], now):
            request = self._waiting.pop(0)
            self._start(request, now)
            yield request

    def gives_up(self, now: float) -> Iterator[tuple[PermitRequest, Refusal]]:
        """Yield the requests that wait no longer: a pause has begun, or it took too long."""
        for request in list(self._waiting):
            leaves_at = request.arrived_at + request.max_wait_seconds
            if now >= leaves_at or self._opens_at(request, now) > leaves_at:
                self._waiting.remove(request)
                yield request, self._refuse(request, now)

    def wakes_at(self, now: float) -> float | None:
        """Return when `starts` or `gives_up` may yield something, if nothing happens before."""
        if not self._waiting:
            return None
        wakes = min(request.arrived_at + request.max_wait_seconds for request in self._waiting)
        first = self._waiting[0]
        starts_at = max(self._opens_at(first, now), self._rate.ready_at)
        # If it could start by now and does not, it waits for another request to end.
        return min(wakes, starts_at) if starts_at > now else wakes

    def leave(self, request: PermitRequest) -> None:
        """Forget a request that waits."""
        self._waiting.remove(request)

    def answered(
        self, request: PermitRequest, status: int, *, retry_after_seconds: float | None, now: float
    ) -> None:
        """Learn from an answer: one that asks for less slows the host's pace down, success recovers it."""
        if status in {429, 503} or (retry_after_seconds is not None and (status == 403 or status >= 500)):
            self.pace.slow_down(started_at=self._running.get(request, now), now=now)
            pause_seconds = min(retry_after_seconds or 0.0, LONGEST_PAUSE_SECONDS)
            self._paused_until = max(self._paused_until, now + pause_seconds)
        elif 200 <= status < 400:
            self.pace.speed_up()
        if status >= 500:
            self.breaker.failed(request, now)
        else:
            self.breaker.succeeded()

    def failed(self, request: PermitRequest, now: float) -> None:
        """Learn that no connection to the host could be made."""
        self.breaker.failed(request, now)

    def end(self, request: PermitRequest, now: float) -> None:
        """End a running request; another may start."""
        seconds = now - self._running.pop(request)
        self._request_seconds += _WEIGHT_OF_LATEST * (seconds - self._request_seconds)
        self.breaker.ended(request)

    def _start(self, request: PermitRequest, now: float) -> None:
        self._running[request] = now
        self._rate.take(now, per_second=self.pace.per_second)
        self.breaker.started(request, now)
        if request.priority is Priority.UNDER_WAY:
            self._push_plans(now)

    def _can_start(self, request: PermitRequest, now: float) -> bool:
        return (
            len(self._running) < self.pace.concurrency
            and now >= self._rate.ready_at
            and now >= self._paused_until
            and (self._asks_anyway(request) or self.breaker.admits(now))
        )

    def _asks_anyway(self, request: PermitRequest) -> bool:
        return request.deferrals >= DEFERRALS_BEFORE_ASKING_ANYWAY

    def _opens_at(self, request: PermitRequest, now: float) -> float:
        rests_until = self.breaker.rests_until or 0.0
        return max(now, self._paused_until, 0.0 if self._asks_anyway(request) else rests_until)

    def _foreseen(self, request: PermitRequest, now: float) -> float:
        """Return when the request may go, as far as can be told."""
        soonest = self._soonest(request, now)
        if request.promised_at is None:
            # It goes behind those that were deferred to come back before.
            return max(soonest, self._planned_until[request.priority])
        # It is back before the promised time, because steps are rounded down; a free host takes it at once.
        return now if soonest <= now else max(soonest, request.promised_at)

    def _soonest(self, request: PermitRequest, now: float) -> float:
        ahead = sum(waiting.priority <= request.priority for waiting in self._waiting)
        is_full = len(self._running) >= self.pace.concurrency
        opens_at = max(self._opens_at(request, now), self._rate.ready_at)
        return opens_at + (ahead + is_full) * self._interval_seconds(now)

    def _interval_seconds(self, now: float) -> float:
        """Return how far apart permits are: what the rate says, or what the host's slowness makes of it."""
        # A running request counts too, or the first slow ones would be noticed too late.
        oldest_at = next(iter(self._running.values()), now)
        slow = max(self._request_seconds, now - oldest_at) / self.pace.concurrency
        return max(slow, 1 / self.pace.per_second) if self.pace.per_second else slow

    def _refuse(self, request: PermitRequest, now: float) -> Refusal:
        opens_at = self._opens_at(request, now)
        reason = DeferralReason.BUSY
        if opens_at > now:
            reason = DeferralReason.PAUSED if opens_at <= self._paused_until else DeferralReason.OPEN
        soonest = now + SHORTEST_DEFERRAL_SECONDS
        if request.priority is Priority.UNDER_WAY:
            return Refusal(max(self._soonest(request, now), soonest) - now, reason)
        promised = request.promised_at
        if promised is not None and promised >= max(soonest, opens_at):
            # Back too early, because steps are rounded down: the promise stands.
            return Refusal(promised - now, reason)
        promised_at = max(self._soonest(request, now), self._planned_until[request.priority], soonest)
        spacing_seconds = max(self._interval_seconds(now) * _PLANNED_SLACK, request.spacing_seconds)
        self._planned_until[request.priority] = promised_at + spacing_seconds
        return Refusal(promised_at - now, reason)

    def _push_plans(self, now: float) -> None:
        # A further request of an attempt takes a permit that was not planned.
        for priority, planned_until in enumerate(self._planned_until):
            if planned_until > now:
                self._planned_until[priority] = planned_until + self._interval_seconds(now)


def _order(request: PermitRequest) -> tuple[int, float]:
    return request.priority, request.arrived_at if request.promised_at is None else request.promised_at


@dataclass(slots=True)
class RateClock:
    """A rate as a clock: the generic cell rate algorithm (GCRA, ITU-T I.371) with a burst of one.

    A pause is not saved up for a burst after it.

    Attributes:
        early_seconds: How early a request may be; those after it wait as if it had been on time.
    """

    early_seconds: float = 0.0
    _due_at: float = 0.0

    @property
    def ready_at(self) -> float:
        """When the next request may start."""
        return self._due_at - self.early_seconds

    def take(self, now: float, *, per_second: float) -> None:
        """Note a request that starts now.

        Args:
            per_second: The rate of this moment; 0 is no limit.
        """
        if per_second:
            self._due_at = max(self._due_at, now) + 1 / per_second
