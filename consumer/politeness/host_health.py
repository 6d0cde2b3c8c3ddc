"""What a host's answers say of its health: a pace that follows complaints, and a circuit breaker. Pure."""

from dataclasses import dataclass

from shared.hosts import HostLimit

FLOOR = 1 / 32
"""The slowest pace, as a share of the limit: five complaints deep. Below that, `Retry-After` and the breaker
decide."""

RECOVERY = 1 / 50
"""What each success adds, as a share of the limit: about fifty successes undo a complaint."""

FIRST_REST_SECONDS = 10.0
LONGEST_REST_SECONDS = 120.0


@dataclass(slots=True)
class Pace:
    """How hard a host may be asked now, never harder than its limit; a complaint halves it (AIMD)."""

    limit: HostLimit
    share: float = 1.0
    halved_at: float = float("-inf")

    @property
    def concurrency(self) -> int:
        """Requests at once, at least one."""
        return max(int(self.limit.concurrency * self.share), 1)

    @property
    def per_second(self) -> float:
        """Requests a second; 0 is no limit."""
        return self.limit.rate_per_second * self.share

    def slow_down(self, *, started_at: float, now: float) -> None:
        """Halve the pace, once for all requests that were under way together.

        Args:
            started_at: When the request began about which the host complained.
        """
        if started_at >= self.halved_at:
            self.share = max(self.share / 2, FLOOR)
            self.halved_at = now

    def speed_up(self) -> None:
        """Recover a little, after a success."""
        if self.share < 1.0:
            self.share = min(self.share + RECOVERY, 1.0)

    def raise_to(self, limit: HostLimit) -> None:
        """Raise the limit to at least another one."""
        self.limit = self.limit.at_least(limit)

    def limit_to(self, per_second: float) -> None:
        """Lower the rate limit for good, as a `crawl-delay` asks."""
        if not self.limit.rate_per_second or per_second < self.limit.rate_per_second:
            self.limit = HostLimit(self.limit.concurrency, per_second)


@dataclass(slots=True)
class Breaker:
    """Closed while the host answers; open for a rest after too many failures in a row.

    Attributes:
        failures_to_open: 0 never opens.
        rests_until: While open: when the rest ends.
        probe: The one request after the rest; any object.
    """

    failures_to_open: int
    failures: int = 0
    rest_seconds: float = 0.0
    rests_until: float | None = None
    probe: object | None = None

    @property
    def is_closed(self) -> bool:
        """Whether every request may go."""
        return self.rests_until is None

    def admits(self, now: float) -> bool:
        """Return whether one more request may go: any while closed, one probe after the rest."""
        return self.rests_until is None or (now >= self.rests_until and self.probe is None)

    def started(self, who: object, now: float) -> None:
        """Note a request that starts; after a rest it is the probe."""
        if self.rests_until is not None and self.admits(now):
            self.probe = who

    def succeeded(self) -> None:
        """Close: the host answers."""
        self.failures, self.rest_seconds, self.rests_until, self.probe = 0, 0.0, None, None

    def failed(self, who: object, now: float) -> None:
        """Count a failure; open after too many, and rest twice as long after a probe that failed."""
        if self.rests_until is None:
            self.failures += 1
            if self.failures_to_open and self.failures >= self.failures_to_open:
                self._rest(now)
        elif who is self.probe:
            self._rest(now)

    def ended(self, who: object) -> None:
        """Note a request that ended; a probe that learned nothing lets the next one try."""
        if self.probe is who:
            self.probe = None

    def _rest(self, now: float) -> None:
        self.rest_seconds = min(max(self.rest_seconds * 2, FIRST_REST_SECONDS), LONGEST_REST_SECONDS)
        self.rests_until = now + self.rest_seconds
        self.probe = None
