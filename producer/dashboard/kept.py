"""What all viewers of a process share: made at most once in a while, and only while somebody looks."""

import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")

# Of so many projects and stretches of time the last is kept.
_MOST_KEYS = 200


class Kept(Generic[T]):
    """Values by their key, each made anew when it is asked for and older than so many seconds."""

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._values: dict[Hashable, tuple[float, T]] = {}
        self._locks: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the value of a key; of all who ask at once, one makes it and the others wait for it."""
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            made_at, value = self._values.get(key, (float("-inf"), None))
            if value is not None and self._clock() - made_at < self._seconds:
                return value
            made = make()
            with self._lock:
                self._values.pop(key, None)
                self._values[key] = self._clock(), made
                while len(self._values) > _MOST_KEYS:
                    oldest = next(iter(self._values))
                    del self._values[oldest]
                    self._locks.pop(oldest, None)
            return made
