"""The pace of a host: its limit, halved when the host complains, recovered bit by bit (AIMD). Pure."""

from dataclasses import dataclass

from shared.hosts import HostLimit

FLOOR = 1 / 32
"""Of the limit: five complaints deep. Slower than that is for `Retry-After` and the breaker to say."""

RECOVERY = 1 / 50
"""Of the limit, for each success: about fifty of them undo a complaint and what is left of it."""


@dataclass(slots=True)
class Pace:
    """How hard a host may be asked at the moment: never harder than its limit."""

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
            started_at: When the request began that the host complained of.
        """
        if started_at >= self.halved_at:
            self.share = max(self.share / 2, FLOOR)
            self.halved_at = now

    def speed_up(self) -> None:
        """Recover a little, after a success."""
        if self.share < 1.0:
            self.share = min(self.share + RECOVERY, 1.0)

    def limit_to(self, per_second: float) -> None:
        """Lower the limit of the rate for good, as a `crawl-delay` asks."""
        if not self.limit.rate_per_second or per_second < self.limit.rate_per_second:
            self.limit = HostLimit(self.limit.concurrency, per_second)
