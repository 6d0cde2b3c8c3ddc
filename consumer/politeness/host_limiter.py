"""The limiter of a host or address in one worker: what goes now, what waits, what comes back. Pure.

It is the second line. The ledger releases a job when its host has room over the whole fleet; what comes
another way meets no other limit: jobs of third parties, further requests of an attempt, retries, the many
names of one machine. Nothing here reads a clock or waits: `now` is passed in, in seconds that only grow.
"""

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from shared.hosts import HostLimit
from shared.outcomes import DeferralReason

LONGEST_PAUSE_SECONDS = 300.0
"""How long one `Retry-After` may pause all jobs of a host; the job that got it waits as long as it says."""

SHORTEST_DEFERRAL_SECONDS = 1.0
"""The first step of the delay ladder."""

LONGEST_DEFERRAL_SECONDS = 60.0
"""A job that is back too early is deferred again; one that is away for long is of no use to a host that has
become faster."""

_GUESSED_REQUEST_SECONDS = 0.25
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
        max_wait_seconds: It waits only for a permit that is foreseen within this time, and no longer.
        arrived_at: When it began to wait.
    """

    priority: Priority
    max_wait_seconds: float
    arrived_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """There is no permit now; there may be one in `seconds`."""

    seconds: float
    reason: DeferralReason


class HostLimiter:
    """The concurrency, the rate and the pause of one host; of an address nobody tells of pauses.

    Attributes:
        limit: How hard it may be asked.
    """

    def __init__(self, limit: HostLimit, *, early_seconds: float = 0.0) -> None:
        """Make the limiter of a host about which nothing is known.

        Args:
            early_seconds: How much before its time a request may start, without more in the long run.
        """
        self.limit = limit
        self._rate = RateClock(early_seconds)
        self._paused_until = 0.0
        self._running: dict[PermitRequest, float] = {}
        self._waiting: list[PermitRequest] = []
        # Deferred jobs come back one after the other, and not all at once.
        self._comes_back_at = 0.0
        self._request_seconds = _GUESSED_REQUEST_SECONDS

    @property
    def is_idle(self) -> bool:
        """Whether no request runs or waits."""
        return not self._running and not self._waiting

    @property
    def has_line(self) -> bool:
        """Whether a request waits."""
        return bool(self._waiting)

    def raise_to(self, limit: HostLimit) -> None:
        """Raise the limit to at least another one."""
        self.limit = self.limit.at_least(limit)

    def limit_to(self, per_second: float) -> None:
        """Lower the rate for good, as a `crawl-delay` asks."""
        if not self.limit.rate_per_second or per_second < self.limit.rate_per_second:
            self.limit = HostLimit(self.limit.concurrency, per_second)

    def starts_at_once(self, request: PermitRequest, now: float) -> bool:
        """Start a request if it may go now and none waits; return whether it runs.

        The short way through `ask` and `starts` for a host that is free: nothing need be foreseen.
        """
        if self._waiting or not self._can_start(now):
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
        starts_at = self._soonest(request, now)
        if starts_at <= now or (has_slot and starts_at - now <= request.max_wait_seconds):
            insort(self._waiting, request, key=_order)
            return None
        return self._refuse(request, now)

    def starts(self, now: float) -> Iterator[PermitRequest]:
        """Yield the requests that may go now; each counts as running until `end`."""
        while self._waiting and self._can_start(now):
            request = self._waiting.pop(0)
            self._start(request, now)
            yield request

    def gives_up(self, now: float) -> Iterator[tuple[PermitRequest, Refusal]]:
        """Yield the requests that wait no longer: a pause has begun, or it took too long."""
        for request in list(self._waiting):
            leaves_at = request.arrived_at + request.max_wait_seconds
            if now >= leaves_at or self._paused_until > leaves_at:
                self._waiting.remove(request)
                yield request, self._refuse(request, now)

    def wakes_at(self, now: float) -> float | None:
        """Return when `starts` or `gives_up` may yield something, if nothing happens before."""
        if not self._waiting:
            return None
        wakes = min(request.arrived_at + request.max_wait_seconds for request in self._waiting)
        starts_at = max(self._paused_until, self._rate.ready_at)
        # If it could start by now and does not, it waits for another request to end.
        return min(wakes, starts_at) if starts_at > now else wakes

    def leave(self, request: PermitRequest) -> None:
        """Forget a request that waits."""
        self._waiting.remove(request)

    def pause(self, seconds: float, now: float) -> None:
        """Let no request go for some time, as the host has asked."""
        self._paused_until = max(self._paused_until, now + min(seconds, LONGEST_PAUSE_SECONDS))

    def end(self, request: PermitRequest, now: float) -> None:
        """End a running request; another may start."""
        seconds = now - self._running.pop(request)
        self._request_seconds += _WEIGHT_OF_LATEST * (seconds - self._request_seconds)

    def _start(self, request: PermitRequest, now: float) -> None:
        self._running[request] = now
        self._rate.take(now, per_second=self.limit.rate_per_second)

    def _can_start(self, now: float) -> bool:
        is_free = len(self._running) < self.limit.concurrency
        return is_free and now >= self._rate.ready_at and now >= self._paused_until

    def _soonest(self, request: PermitRequest, now: float) -> float:
        """Return when the request may go, as far as can be told."""
        ahead = sum(waiting.priority <= request.priority for waiting in self._waiting)
        is_full = len(self._running) >= self.limit.concurrency
        opens_at = max(now, self._paused_until, self._rate.ready_at)
        return opens_at + (ahead + is_full) * self._interval_seconds(now)

    def _interval_seconds(self, now: float) -> float:
        """Return how far apart permits are: what the rate says, or what the host's slowness makes of it."""
        # A running request counts too, or the first slow ones would be noticed too late.
        oldest_at = next(iter(self._running.values()), now)
        slow = max(self._request_seconds, now - oldest_at) / self.limit.concurrency
        return max(slow, 1 / self.limit.rate_per_second) if self.limit.rate_per_second else slow

    def _refuse(self, request: PermitRequest, now: float) -> Refusal:
        reason = DeferralReason.PAUSED if self._paused_until > now else DeferralReason.BUSY
        soonest = max(self._soonest(request, now), now + SHORTEST_DEFERRAL_SECONDS)
        if request.priority is Priority.UNDER_WAY:
            return Refusal(soonest - now, reason)
        longest = max(now + LONGEST_DEFERRAL_SECONDS, self._paused_until)
        at = min(max(soonest, self._comes_back_at), longest)
        self._comes_back_at = at + self._interval_seconds(now)
        return Refusal(at - now, reason)


def _order(request: PermitRequest) -> tuple[int, float]:
    return request.priority, request.arrived_at


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
