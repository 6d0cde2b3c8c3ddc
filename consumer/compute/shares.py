"""Whose call comes next when compute processes are scarce: of those who have used the least lately. Pure."""

import math
from collections.abc import Collection, Sequence
from typing import Final

HALF_LIFE_SECONDS: Final = 10.0
"""What somebody has used counts half after this time."""

HEAVY_SECONDS: Final = 1.0
"""Who has used more than this lately never takes the last free process."""

_FORGOTTEN_SECONDS = 0.001
_MOST_NAMES = 10_000

Names = Sequence[str]
"""For whom a call is: its batch or job, and the host that it asked. The one that has used the most counts."""


class Shares:
    """What each batch and each host has used of the processes lately, in seconds of the processor."""

    def __init__(self) -> None:
        """Begin with nothing used."""
        self._used: dict[str, tuple[float, float]] = {}

    def use(self, names: Names, seconds: float, *, now: float) -> None:
        """Note that a call took so many seconds of the processor."""
        for name in names:
            self._used[name] = self.used(name, now=now) + seconds, now
        if len(self._used) > _MOST_NAMES:
            self._used = {
                name: used
                for name, used in self._used.items()
                if self.used(name, now=now) > _FORGOTTEN_SECONDS
            }

    def used(self, name: str, *, now: float) -> float:
        """Return what somebody has used lately."""
        seconds, at = self._used.get(name, (0.0, now))
        return seconds * math.pow(0.5, (now - at) / HALF_LIFE_SECONDS)

    def next_of(self, waiting: Collection[Names], *, is_last: bool, now: float) -> Names | None:
        """Return whose call comes next, None when nobody's may.

        Args:
            waiting: Those who wait, in the order in which they came.
            is_last: Whether only one process is free, of several.
        """
        if not waiting:
            return None
        chosen = min(waiting, key=lambda names: self._used_by(names, now))
        return None if is_last and self._used_by(chosen, now) > HEAVY_SECONDS else chosen

    def _used_by(self, names: Names, now: float) -> float:
        return max((self.used(name, now=now) for name in names), default=0.0)
