"""For how long queues have been seen empty, without a look between that saw anything. Pure."""

from collections.abc import Iterable, Mapping

# Longer between two looks, store or broker were away: nobody knows what passed through meanwhile.
_LONGEST_GAP_SECONDS = 30.0


class QuietQueues:
    """Since when each queue has been seen empty, in the memory of one ledger, by its monotonic clock."""

    def __init__(self, quiet_after_seconds: float) -> None:
        """Have seen nothing; a queue is quiet when it was empty at two looks at least so far apart."""
        self._quiet_after_seconds = quiet_after_seconds
        self._empty_since: dict[str, float] = {}
        self._looked_at: float | None = None

    def forget(self) -> None:
        """Begin anew: what was seen before says nothing any more."""
        self._empty_since.clear()
        self._looked_at = None

    def note(self, ready: Mapping[str, int], *, now: float) -> None:
        """Note a look: how many messages of each queue are ready, at a time of the monotonic clock."""
        if self._looked_at is not None and now - self._looked_at > _LONGEST_GAP_SECONDS:
            self.forget()
        self._looked_at = now
        for name, messages in ready.items():
            if messages:
                self._empty_since.pop(name, None)
            else:
                self._empty_since.setdefault(name, now)

    def are_quiet(self, names: Iterable[str]) -> bool:
        """Return whether all of these queues have been empty long enough, as of the last look."""
        return all(self._is_quiet(name) for name in names)

    def _is_quiet(self, name: str) -> bool:
        since = self._empty_since.get(name)
        if since is None or self._looked_at is None:
            return False
        return self._looked_at - since >= self._quiet_after_seconds
