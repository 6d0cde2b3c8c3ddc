"""The gate of one host: who may ask it now, who waits, and who had better come back later. Pure.

Nothing here reads a clock or waits: `now` is passed in, in seconds that only grow.
"""

from bisect import insort
from collections.abc import Iterator

from consumer.politeness.breaker import Breaker
from consumer.politeness.pace import Pace
from consumer.politeness.rate import RateClock
from consumer.politeness.ticket import Priority, Refusal, Ticket
from shared.hosts import HostLimit
from shared.outcomes import DeferralReason

LONGEST_PAUSE_SECONDS = 300.0
"""How long one `Retry-After` may hold up all jobs of a host; the job that got it waits as long as it says."""

SHORTEST_DEFERRAL_SECONDS = 1.0
"""The first step of the delay ladder."""

DEFERRALS_BEFORE_ASKING_ANYWAY = 5
"""A job that was deferred so often no longer heeds an open breaker: a host that is gone must not hold
up the end of a batch for ever."""

_GUESSED_VISIT_SECONDS = 0.25
# Timers are late and hosts slow down. A plan without slack is overbooked then, and who finds no seat is sent
# away again; a turn that is left over goes to whoever is back too early.
_PLANNED_SLACK = 1.1
_WEIGHT_OF_LATEST = 0.2


class HostGate:
    """Limits at once and a second, a pause that all jobs share, and a breaker, for one host."""

    def __init__(self, limit: HostLimit, *, failures_to_open: int) -> None:
        """Make the gate of a host that nothing is known of."""
        self.pace = Pace(limit)
        self.breaker = Breaker(failures_to_open)
        self._rate = RateClock()
        self._paused_until = 0.0
        self._running: dict[Ticket, float] = {}
        self._waiting: list[Ticket] = []
        self._planned_until = dict.fromkeys(Priority, 0.0)
        self._visit_seconds = _GUESSED_VISIT_SECONDS

    @property
    def is_idle(self) -> bool:
        """Whether nobody runs or waits here."""
        return not self._running and not self._waiting

    @property
    def has_line(self) -> bool:
        """Whether anybody waits here."""
        return bool(self._waiting)

    def starts_at_once(self, ticket: Ticket, now: float) -> bool:
        """Give the ticket out if its turn is now and nobody waits; return whether it is running.

        What `ask` and `starts` would say, for a host that is free: then nothing need be foreseen.
        """
        is_planned = ticket.turn_at is not None or self._planned_until[ticket.priority] <= now
        if self._waiting or not is_planned or not self._can_start(ticket, now):
            return False
        ticket.arrived_at = now
        self._start(ticket, now)
        return True

    def ask(self, ticket: Ticket, now: float, *, has_seat: bool) -> Refusal | None:
        """Return a refusal, or None: then the ticket is in line, and `starts` gives it out in its turn.

        Args:
            has_seat: Whether it may wait in hand; a ticket whose turn is now needs no seat.
        """
        ticket.arrived_at = now
        turn_at = self._foreseen(ticket, now)
        is_first = not any(waiting.priority <= ticket.priority for waiting in self._waiting)
        starts_now = turn_at <= now and is_first and self._can_start(ticket, now)
        if starts_now or (has_seat and turn_at - now <= ticket.hope_seconds):
            insort(self._waiting, ticket, key=_order)
            return None
        return self._refuse(ticket, now)

    def starts(self, now: float) -> Iterator[Ticket]:
        """Give out the tickets whose turn is now; each counts as running until `end`."""
        while self._waiting and self._can_start(self._waiting[0], now):
            ticket = self._waiting.pop(0)
            self._start(ticket, now)
            yield ticket

    def gives_up(self, now: float) -> Iterator[tuple[Ticket, Refusal]]:
        """Give out the waiting tickets that shall wait no longer: a pause has begun, or it took too long."""
        for ticket in list(self._waiting):
            leaves_at = ticket.arrived_at + ticket.patience_seconds
            if now >= leaves_at or self._opens_at(ticket, now) > leaves_at:
                self._waiting.remove(ticket)
                yield ticket, self._refuse(ticket, now)

    def wakes_at(self, now: float) -> float | None:
        """Return when `starts` or `gives_up` may have something to give out, if nothing happens before."""
        if not self._waiting:
            return None
        wakes = min(ticket.arrived_at + ticket.patience_seconds for ticket in self._waiting)
        first = self._waiting[0]
        starts_at = max(self._opens_at(first, now), self._rate.ready_at)
        # When it could start by now and does not, only the end of another visit helps.
        return min(wakes, starts_at) if starts_at > now else wakes

    def leave(self, ticket: Ticket) -> None:
        """Take back a ticket that waits."""
        self._waiting.remove(ticket)

    def answered(self, ticket: Ticket, status: int, *, retry_after_seconds: float | None, now: float) -> None:
        """Learn from an answer: 429 and 503 slow the host's pace down, success recovers it."""
        if status in {429, 503}:
            self.pace.slow_down(started_at=self._running.get(ticket, now), now=now)
            pause_seconds = min(retry_after_seconds or 0.0, LONGEST_PAUSE_SECONDS)
            self._paused_until = max(self._paused_until, now + pause_seconds)
        elif 200 <= status < 400:
            self.pace.speed_up()
        if status >= 500:
            self.breaker.failed(ticket, now)
        else:
            self.breaker.succeeded()

    def failed(self, ticket: Ticket, now: float) -> None:
        """Learn that no connection to the host could be made."""
        self.breaker.failed(ticket, now)

    def end(self, ticket: Ticket, now: float) -> None:
        """Make room for another."""
        seconds = now - self._running.pop(ticket)
        self._visit_seconds += _WEIGHT_OF_LATEST * (seconds - self._visit_seconds)
        self.breaker.ended(ticket)

    def _start(self, ticket: Ticket, now: float) -> None:
        self._running[ticket] = now
        self._rate.take(now, per_second=self.pace.per_second)
        self.breaker.started(ticket, now)
        if ticket.priority is Priority.UNDER_WAY:
            self._push_plans(now)

    def _can_start(self, ticket: Ticket, now: float) -> bool:
        return (
            len(self._running) < self.pace.concurrency
            and now >= self._rate.ready_at
            and now >= self._paused_until
            and (self._asks_anyway(ticket) or self.breaker.admits(now))
        )

    def _asks_anyway(self, ticket: Ticket) -> bool:
        return ticket.deferrals >= DEFERRALS_BEFORE_ASKING_ANYWAY

    def _opens_at(self, ticket: Ticket, now: float) -> float:
        rests_until = self.breaker.rests_until or 0.0
        return max(now, self._paused_until, 0.0 if self._asks_anyway(ticket) else rests_until)

    def _foreseen(self, ticket: Ticket, now: float) -> float:
        """Return when the ticket's turn will be, as far as can be told."""
        soonest = self._soonest(ticket, now)
        if ticket.turn_at is None:
            # Behind all those that were sent away to come back before.
            return max(soonest, self._planned_until[ticket.priority])
        # It comes back before its turn, for steps are rounded down. A host that is free takes it at once.
        return now if soonest <= now else max(soonest, ticket.turn_at)

    def _soonest(self, ticket: Ticket, now: float) -> float:
        ahead = sum(waiting.priority <= ticket.priority for waiting in self._waiting)
        is_full = len(self._running) >= self.pace.concurrency
        opens_at = max(self._opens_at(ticket, now), self._rate.ready_at)
        return opens_at + (ahead + is_full) * self._interval_seconds(now)

    def _interval_seconds(self, now: float) -> float:
        """Return how far apart turns are: what the rate says, or what the host's slowness makes of it."""
        # A visit that has not ended yet tells too, or the first slow ones would be learned of too late.
        oldest_at = next(iter(self._running.values()), now)
        slow = max(self._visit_seconds, now - oldest_at) / self.pace.concurrency
        return max(slow, 1 / self.pace.per_second) if self.pace.per_second else slow

    def _refuse(self, ticket: Ticket, now: float) -> Refusal:
        opens_at = self._opens_at(ticket, now)
        reason = DeferralReason.BUSY
        if opens_at > now:
            reason = DeferralReason.PAUSED if opens_at <= self._paused_until else DeferralReason.OPEN
        soonest = now + SHORTEST_DEFERRAL_SECONDS
        if ticket.priority is Priority.UNDER_WAY:
            return Refusal(max(self._soonest(ticket, now), soonest) - now, reason)
        promised = ticket.turn_at
        if promised is not None and promised >= max(soonest, opens_at):
            # Back too early, for steps are rounded down: it keeps its turn.
            return Refusal(promised - now, reason)
        turn_at = max(self._soonest(ticket, now), self._planned_until[ticket.priority], soonest)
        spacing_seconds = max(self._interval_seconds(now) * _PLANNED_SLACK, ticket.spacing_seconds)
        self._planned_until[ticket.priority] = turn_at + spacing_seconds
        return Refusal(turn_at - now, reason)

    def _push_plans(self, now: float) -> None:
        # A second request of an attempt takes a turn that was not planned.
        for priority, planned_until in self._planned_until.items():
            if planned_until > now:
                self._planned_until[priority] = planned_until + self._interval_seconds(now)


def _order(ticket: Ticket) -> tuple[int, float]:
    return ticket.priority, ticket.arrived_at if ticket.turn_at is None else ticket.turn_at
