"""How many deliveries of one queue may wait in hand for their host's turn. Pure."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

_DEFERRALS_FOR_ANY_SEAT = 2


class WaitingRoom:
    """Half of a queue's prefetch: the other half is always there for hosts that are free.

    A host may take as many seats as are left free, so one alone takes half of them, two a third each,
    and there is always a seat for another.
    """

    def __init__(self, prefetch: int) -> None:
        """Make the room of a queue with this prefetch limit."""
        self._seats = max(prefetch // 2, 1)
        self._taken: Counter[str] = Counter()

    @property
    def seats_of_one(self) -> int:
        """How many seats a host gets when it is the only busy one."""
        return max(self._seats // 2, 1)

    @contextmanager
    def seat(self, host: str, *, deferrals: int = 0) -> Iterator[bool]:
        """Take a seat while inside, if there is one for this host; yield whether there is.

        Who was sent away twice may take any that is free.
        """
        free = self._seats - self._taken.total()
        has_seat = self._taken[host] < free or (free > 0 and deferrals >= _DEFERRALS_FOR_ANY_SEAT)
        self._taken[host] += has_seat
        try:
            yield has_seat
        finally:
            self._taken[host] -= has_seat
            if not self._taken[host]:
                del self._taken[host]
