"""How long a peer may keep us waiting: some seconds, which the bytes that it moves give back. Pure."""

MIN_BYTES_PER_SECOND = 1_024
"""A peer that moves fewer for longer than its patience is cut off. Apache's default is 500."""


class Patience:
    """Seconds that are left of some. A peer that is slow but steady has all of them for ever."""

    __slots__ = ("_seconds", "left_seconds")

    def __init__(self, seconds: float) -> None:
        """Begin with all of it."""
        self._seconds = self.left_seconds = seconds

    def spend(self, seconds: float, *, moved_bytes: int) -> bool:
        """Take off what was waited, give back what the bytes earn, and return whether any is left."""
        earned = moved_bytes / MIN_BYTES_PER_SECOND
        self.left_seconds = min(self._seconds, self.left_seconds - seconds + earned)
        return self.left_seconds > 0

    def restore(self) -> None:
        """Begin anew."""
        self.left_seconds = self._seconds
