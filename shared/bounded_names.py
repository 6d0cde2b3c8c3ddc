"""Names that clients choose, as labels of metrics: so many are told apart, the rest is one.

Each value of a label is a series that Prometheus keeps for weeks, so clients must not be able to make many.
"""

from typing import Final

MAX_NAMES: Final = 100
OTHER: Final = "other"


class BoundedNames:
    """Knows the first names that it was asked for, for as long as the process lives."""

    def __init__(self, limit: int = MAX_NAMES) -> None:
        """Make one that knows none yet."""
        self._limit = limit
        self._names: set[str] = set()

    def label(self, name: str) -> str:
        """Return the name itself, or `other` when there were too many before it."""
        if name not in self._names:
            if len(self._names) >= self._limit:
                return OTHER
            self._names.add(name)
        return name
