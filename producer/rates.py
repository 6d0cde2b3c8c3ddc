"""How many requests a second one caller may send, over all API processes. Pure.

Each process has an account of each caller: a token bucket that fills with the process's part of the rate.
The parts follow what processes are asked for: where together it is more than the rate, each has as much of
the rate as it has of the requests; where it is less, each has what the others leave.
"""

import math
from typing import Final

LAPSES_SECONDS: Final = 3.0
"""What a process has said of a caller holds for so long; an account that is quiet for so long is dropped."""

# What an account has at its birth, and what it saves up, in seconds of its rate. All processes begin alone,
# so the first is small; the second is what a process may lose when the machine gives it no turn.
_FIRST_SECONDS = 0.1
_SAVED_SECONDS = 0.25
# Below this part of the rate a process tells nobody what it is asked for, and may always pass so much.
_QUIET_PART = 0.05
# What is asked for is the mean of so long, or of so many requests at the full rate if that takes longer.
_MEAN_SECONDS = 0.5
_MEAN_REQUESTS = 5
# Of less time than this nobody can tell a rate.
_SHORTEST_SECONDS = 0.05


class Account:
    """What one process lets through of one caller. Times are monotonic."""

    def __init__(self, rate_per_second: int, *, now: float) -> None:
        """Begin as the only process that is asked."""
        self.rate_per_second = rate_per_second
        self.asked_per_second = 0.0
        self._part_per_second = float(rate_per_second)
        self._tokens = max(1.0, rate_per_second * _FIRST_SECONDS)
        self._filled_at = self._measured_at = self._loud_at = now
        self._mean_of_seconds = 0.0
        self._asked = 0

    def take(self, now: float) -> bool:
        """Return whether one more request is let in."""
        self._asked += 1
        most = max(1.0, self._part_per_second * _SAVED_SECONDS)
        self._tokens = min(most, self._tokens + (now - self._filled_at) * self._part_per_second)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    @property
    def left(self) -> int:
        """How many more requests are let in within a second."""
        return min(self.rate_per_second, int(self._tokens + self._part_per_second))

    @property
    def wait_seconds(self) -> int:
        """How long to wait until one more request is let in, in whole seconds."""
        return max(1, math.ceil((1 - self._tokens) / self._part_per_second))

    def measure(self, now: float) -> None:
        """Note what was asked for since the last time."""
        seconds = now - self._measured_at
        if seconds < _SHORTEST_SECONDS:
            return
        longest = max(_MEAN_SECONDS, _MEAN_REQUESTS / self.rate_per_second)
        self._mean_of_seconds = min(self._mean_of_seconds + seconds, max(longest, seconds))
        weight = seconds / self._mean_of_seconds
        self.asked_per_second += (self._asked / seconds - self.asked_per_second) * weight
        self._asked, self._measured_at = 0, now
        if self.is_loud:
            self._loud_at = now

    def share(self, others_per_second: float) -> None:
        """Take this process's part of the rate, given what the others are asked for."""
        rate, own = self.rate_per_second, self.asked_per_second
        together = own + others_per_second
        part = rate * own / together if together > rate else rate - others_per_second
        self._part_per_second = max(part, rate * _QUIET_PART)

    @property
    def is_loud(self) -> bool:
        """Whether the other processes have to know of it."""
        return self.asked_per_second > self.rate_per_second * _QUIET_PART

    def is_over(self, now: float) -> bool:
        """Return whether it has been quiet for so long that it says no more than a new one."""
        return now - self._loud_at > LAPSES_SECONDS and not self._asked
