"""A rate as a clock: the generic cell rate algorithm (GCRA, ITU-T I.371) with a burst of one."""

from dataclasses import dataclass


@dataclass(slots=True)
class RateClock:
    """Says when the next request may start. A pause is not saved up for a burst after it."""

    ready_at: float = 0.0

    def take(self, now: float, *, per_second: float) -> None:
        """Note a request that starts now.

        Args:
            per_second: The rate of this moment; 0 is no limit.
        """
        if per_second:
            self.ready_at = max(self.ready_at, now) + 1 / per_second
