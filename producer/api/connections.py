"""The connections to the API: how many there may be and whose, and how long each may keep us waiting.

No timer runs for a single one: all are looked at every second, which costs less than two timers a request.
"""

import heapq
import math
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

from producer.api.refusals import Refusal, Refusals
from shared.hosts import MACHINE_PREFIX_V6, address_key

# This part of the connections is closed at once, or kept for other addresses than the one with the most.
_PART = 16
# These beyond the limit may ask how the service is, and nothing else.
_MAX_SURPLUS = 64


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections there may be, and how long each may wait.

    Attributes:
        max_connections: At once.
        head_seconds: For the request line and header fields of a request.
        idle_seconds: Between two requests.
        body_seconds: For what is left of a body once its request is answered: clients read the answer then.
        unread_seconds: How long an answer may stay unread; what is read gives seconds back.
        max_heads_bytes: Of all heads that have come in part, and are not small.
        max_unsent_bytes: Of all answers that wait to be read; above it the slowest readers are cut off.
    """

    max_connections: int = 10_000
    head_seconds: float = 15.0
    idle_seconds: float = 5.0
    body_seconds: float = 30.0
    unread_seconds: float = 30.0
    max_heads_bytes: int = 16_777_216
    max_unsent_bytes: int = 67_108_864

    @property
    def max_of_one_address(self) -> int:
        """How many of them one address may have."""
        return self.max_connections - max(1, self.max_connections // _PART)

    @property
    def max_surplus(self) -> int:
        """How many more there may be that only ask how the service is."""
        return max(1, min(_MAX_SURPLUS, self.max_connections // 4))


class Connection(Protocol):
    """What is known of one connection.

    Attributes:
        address: Whose it is, as `address_of` returns it.
        waits_since: When it began to wait for a request; None while one is being answered.
        deadline: When what it waits for must have come, on the clock of the event loop.
        is_surplus: Whether it may only ask how the service is.
    """

    address: str
    waits_since: float | None
    deadline: float
    is_surplus: bool

    @property
    def unread_left_seconds(self) -> float:
        """How long its answer may still stay unread."""

    def on_deadline(self) -> None:
        """End it, because something has not come."""

    def watch_answer(self, seconds: float) -> int:
        """Return how many bytes of answers wait to be read, after some more seconds."""

    def abort(self) -> None:
        """End it at once, unread bytes and all."""


class Connections:
    """All connections to one API process."""

    def __init__(self, limits: ConnectionLimits, refusals: Refusals) -> None:
        """Begin with none."""
        self.limits = limits
        self.refusals = refusals
        self._open: set[Connection] = set()
        self._of_address: Counter[str] = Counter()
        self._heads_bytes = 0
        self._looked_at: float | None = None

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._open)

    def admit(self, newcomer: Connection) -> bool:
        """Take a connection, and return whether it may stay.

        Where there are too many, of all or of its address, those that have waited longest for a request are
        closed: of the address that has the most. Where none waits, some more may ask how the service is.
        """
        self._open.add(newcomer)
        self._of_address[newcomer.address] += 1
        excess = self._excess(newcomer.address)
        if excess <= 0:
            return True
        for each in self._longest_waiting(newcomer):
            self.refusals.count(Refusal.CLOSED_FOR_ANOTHER, client=each.address)
            self.end(each)
        excess = self._excess(newcomer.address)
        newcomer.is_surplus = excess > 0
        return excess <= self.limits.max_surplus

    def forget(self, gone: Connection) -> None:
        """Count a connection no more; harmless when it is gone already."""
        if gone in self._open:
            self._open.remove(gone)
            self._of_address[gone.address] -= 1
            if not self._of_address[gone.address]:
                del self._of_address[gone.address]

    def keep_heads(self, more_bytes: int) -> bool:
        """Count bytes of heads that have come in part, fewer when negative, and return whether they fit."""
        self._heads_bytes += more_bytes
        return self._heads_bytes <= self.limits.max_heads_bytes

    def end(self, connection: Connection) -> None:
        """End a connection at once: who says nothing may not read either, so nothing is flushed."""
        self.forget(connection)
        connection.abort()

    def look(self, now: float) -> None:
        """End those that have kept the service waiting for too long; call it about every second.

        Args:
            now: By the clock of the event loop.
        """
        seconds = now - (self._looked_at if self._looked_at is not None else now)
        self._looked_at = now
        unsent: dict[Connection, int] = {}
        for each in tuple(self._open):
            if now > each.deadline:
                each.on_deadline()
            if size := each.watch_answer(seconds):
                unsent[each] = size
        for each in self._slow_readers(unsent):
            self.refusals.count(Refusal.ANSWER_UNREAD, client=each.address)
            self.end(each)

    def _slow_readers(self, unsent: dict[Connection, int]) -> list[Connection]:
        """Return who has read nothing for too long, and who is slowest where too much waits to be read."""
        surplus_bytes = sum(unsent.values()) - self.limits.max_unsent_bytes
        slow = []
        for each in sorted(unsent, key=lambda connection: connection.unread_left_seconds):
            is_late = each.unread_left_seconds <= 0
            # Who has only just been answered is not slow.
            is_slow = surplus_bytes > 0 and each.unread_left_seconds < self.limits.unread_seconds
            if not (is_late or is_slow):
                break
            slow.append(each)
            surplus_bytes -= unsent[each]
        return slow

    def _excess(self, address: str) -> int:
        """Return how many connections there are too many, of all or of an address."""
        limits = self.limits
        return max(
            len(self._open) - limits.max_connections,
            self._of_address[address] - limits.max_of_one_address,
        )

    def _longest_waiting(self, newcomer: Connection) -> list[Connection]:
        is_crowd = self._of_address[newcomer.address] > self.limits.max_of_one_address
        address = newcomer.address if is_crowd else None
        # What was taken together with it may have sent a request that nobody could read yet.
        now = math.inf if newcomer.waits_since is None else newcomer.waits_since
        waiting = [
            (self._of_address[each.address], each)
            for each in self._open
            if each.waits_since is not None and each.waits_since < now and address in {None, each.address}
        ]
        most = max((count for count, _ in waiting), default=0)
        crowd = (each for count, each in waiting if count == most)
        # Finding them takes a while, so many are found at once.
        wanted = max(1, self.limits.max_connections // _PART)
        return heapq.nsmallest(wanted, crowd, key=lambda each: each.waits_since or 0.0)


def address_of(client: tuple[str, int] | None) -> str:
    """Return the address whose connections are counted together: an IPv6 address stands for its /64."""
    if client is None:
        return ""
    # Logs name it as an address.
    return address_key(client[0]).removesuffix(f"/{MACHINE_PREFIX_V6}")
