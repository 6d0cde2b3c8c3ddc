"""The gates of all hosts of a worker, and the waiting at them: one timer a host, no decision."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from consumer.politeness.gate import HostGate
from consumer.politeness.ticket import Refusal, Ticket
from shared.hosts import HostLimit, NamedLimit, limit_of

MAX_HOSTS = 10_000
"""About 1 KB each. The ones longest idle are forgotten first, and what they complained of with them."""

# Timers of the loop have milliseconds; a shorter wait would only turn round.
_SHORTEST_TIMER_SECONDS = 0.001


@dataclass(slots=True)
class _Entry:
    gate: HostGate
    timer: asyncio.TimerHandle | None = None


class Turn:
    """Leave to make one request to one host now; `release` it when the answer has been read."""

    __slots__ = ("_entry", "_gates", "_is_over", "_ticket", "host")

    def __init__(self, gates: "Gates", host: str, entry: _Entry, ticket: Ticket) -> None:
        """Make one; only `Gates` does."""
        self.host = host
        self._gates = gates
        self._entry = entry
        self._ticket = ticket
        self._is_over = False

    def answered(self, status: int, *, retry_after_seconds: float | None) -> None:
        """Tell the host's gate of an answer."""
        now = self._gates.now()
        self._entry.gate.answered(self._ticket, status, retry_after_seconds=retry_after_seconds, now=now)
        self._gates.learned(self.host, self._entry)

    def failed(self) -> None:
        """Tell the host's gate that no connection could be made."""
        self._entry.gate.failed(self._ticket, self._gates.now())
        self._gates.learned(self.host, self._entry)

    def release(self) -> None:
        """Make room for another; again does nothing."""
        if not self._is_over:
            self._is_over = True
            self._entry.gate.end(self._ticket, self._gates.now())
            self._gates.learned(self.host, self._entry)


class Gates:
    """Gives turns. Belongs to one event loop; limits are this process's own."""

    def __init__(
        self,
        default: HostLimit | None = None,
        named: Iterable[NamedLimit] = (),
        *,
        failures_to_open: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make gates that know no host yet; without arguments nothing is limited.

        Args:
            default: The limit of hosts that none of `named` fits.
            named: Limits of hosts by name.
            failures_to_open: Failures in a row that open a host's breaker; 0 is never.
            clock: Seconds that only grow.
        """
        self._default = default or HostLimit()
        self._named = tuple(named)
        self._failures_to_open = failures_to_open
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._answers: dict[Ticket, asyncio.Future[Turn | Refusal]] = {}

    def now(self) -> float:
        """Return the time of the gates' clock."""
        return self._clock()

    def turn_now(self, host: str, ticket: Ticket) -> Turn | None:
        """Return a turn if the host is free at this moment and nobody waits for it."""
        entry = self._entry(host)
        return Turn(self, host, entry, ticket) if entry.gate.starts_at_once(ticket, self._clock()) else None

    async def turn(self, host: str, ticket: Ticket, *, has_seat: bool = True) -> Turn | Refusal:
        """Return a turn, maybe after a wait of at most the ticket's patience; or why there is none."""
        return self.turn_now(host, ticket) or await self.wait_turn(host, ticket, has_seat=has_seat)

    async def wait_turn(self, host: str, ticket: Ticket, *, has_seat: bool = True) -> Turn | Refusal:
        """Return what `turn` does, for a ticket that `turn_now` had none for."""
        entry = self._entry(host)
        if refusal := entry.gate.ask(ticket, self._clock(), has_seat=has_seat):
            return refusal
        answer: asyncio.Future[Turn | Refusal] = asyncio.get_running_loop().create_future()
        self._answers[ticket] = answer
        self._give_out(host, entry)
        try:
            return await answer
        except asyncio.CancelledError:
            self._take_back(host, entry, ticket, answer)
            raise

    def learned(self, host: str, entry: _Entry) -> None:
        """Give out what has become possible, now that a gate has learned something."""
        if entry.gate.has_line or entry.timer is not None:
            self._give_out(host, entry)

    def limit_rate(self, host: str, per_second: float) -> None:
        """Lower the rate of a host, as its `crawl-delay` asks; a higher one than it has changes nothing."""
        self._entry(host).gate.pace.limit_to(per_second)

    def _entry(self, host: str) -> _Entry:
        entry = self._entries.get(host)
        if entry is None:
            self._forget_idle()
            limit = limit_of(host, self._named, self._default)
            entry = self._entries[host] = _Entry(HostGate(limit, failures_to_open=self._failures_to_open))
        self._entries.move_to_end(host)
        return entry

    def _forget_idle(self) -> None:
        if len(self._entries) < MAX_HOSTS:
            return
        # Those with somebody in them are as many as the prefetch at most: one of the first is idle.
        idle = next((host for host, entry in self._entries.items() if entry.gate.is_idle), None)
        if idle is not None:
            del self._entries[idle]

    def _give_out(self, host: str, entry: _Entry) -> None:
        now = self._clock()
        for ticket in entry.gate.starts(now):
            self._answer(ticket, Turn(self, host, entry, ticket))
        for ticket, refusal in entry.gate.gives_up(now):
            self._answer(ticket, refusal)
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        wakes_at = entry.gate.wakes_at(now)
        if wakes_at is not None:
            seconds = max(wakes_at - now, _SHORTEST_TIMER_SECONDS)
            entry.timer = asyncio.get_running_loop().call_later(seconds, self._give_out, host, entry)

    def _answer(self, ticket: Ticket, answer: Turn | Refusal) -> None:
        waiting = self._answers.pop(ticket)
        if not waiting.cancelled():
            waiting.set_result(answer)
        elif isinstance(answer, Turn):
            # Its job was cancelled in this very moment.
            asyncio.get_running_loop().call_soon(answer.release)

    def _take_back(
        self, host: str, entry: _Entry, ticket: Ticket, answer: asyncio.Future[Turn | Refusal]
    ) -> None:
        if self._answers.pop(ticket, None) is not None:
            entry.gate.leave(ticket)
            self._give_out(host, entry)
        elif answer.done() and not answer.cancelled() and isinstance(turn := answer.result(), Turn):
            turn.release()
