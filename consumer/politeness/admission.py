"""Letting a job in: an attempt begins with its host's turn, waits a moment for it, or is deferred."""

from collections.abc import Mapping
from typing import Any

from consumer.politeness.first_turn import PATIENCE_SECONDS, attempt_with
from consumer.politeness.gate import SHORTEST_DEFERRAL_SECONDS
from consumer.politeness.gates import Gates, Turn
from consumer.politeness.room import WaitingRoom
from consumer.politeness.ticket import Priority, Refusal, Ticket
from shared.clock import utc_now
from shared.hosts import host_key
from shared.kinds.registry import Lane
from shared.messages import JobMessage
from shared.outcomes import DeferralReason, Deferred

HOPE_SECONDS = 1.0
"""A job that comes for the first time waits in hand for a turn that is foreseen this soon."""

_SAID = {
    DeferralReason.BUSY: "{host} is at its limit for this worker",
    DeferralReason.PAUSED: "{host} asked us to stay away for a while",
    DeferralReason.OPEN: "{host} has failed again and again, and is left alone for a while",
}


class Admission:
    """Asks the gates for the first turn of each attempt."""

    def __init__(self, gates: Gates, *, prefetch_by_lane: Mapping[Lane, int]) -> None:
        """Make one; the prefetch limits bound how many jobs wait in hand."""
        self._gates = gates
        self._prefetch_by_lane = prefetch_by_lane
        self._rooms: dict[tuple[str, Lane], WaitingRoom] = {}

    async def admit(self, job: JobMessage) -> attempt_with | Deferred | None:
        """Return the turn to hold during the attempt, maybe after a moment; or that it is deferred.

        A job whose deadline has passed and one without a URL meet no gate: None.
        """
        host = _host_of(job)
        if host is None or (job.expires_at is not None and utc_now() >= job.expires_at):
            return None
        room = self._room(job)
        ticket = self._ticket(job, room)
        turn: Turn | Refusal | None = self._gates.turn_now(host, ticket)
        if turn is None:
            with room.seat(host, deferrals=job.deferrals) as has_seat:
                turn = await self._gates.wait_turn(host, ticket, has_seat=has_seat)
        if isinstance(turn, Refusal):
            said = f"Deferred, because {_SAID[turn.reason].format(host=host)}."
            return Deferred(turn.seconds, turn.reason, said)
        return attempt_with(turn, patience_seconds=_patience_seconds(job.args))

    def _room(self, job: JobMessage) -> WaitingRoom:
        key = job.kind, job.lane
        if key not in self._rooms:
            self._rooms[key] = WaitingRoom(self._prefetch_by_lane[job.lane])
        return self._rooms[key]

    def _ticket(self, job: JobMessage, room: WaitingRoom) -> Ticket:
        turn_at = None
        if job.turn_at is not None:
            # Messages carry wall-clock time, gates keep their own.
            turn_at = self._gates.now() + (job.turn_at - utc_now()).total_seconds()
        return Ticket(
            Priority.INTERACTIVE if job.lane is Lane.INTERACTIVE else Priority.BULK,
            hope_seconds=PATIENCE_SECONDS if job.deferrals else HOPE_SECONDS,
            patience_seconds=PATIENCE_SECONDS,
            deferrals=job.deferrals,
            turn_at=turn_at,
            spacing_seconds=SHORTEST_DEFERRAL_SECONDS / room.seats_of_one,
        )


def _host_of(job: JobMessage) -> str | None:
    url = job.args.get("url")
    return host_key(url) if isinstance(url, str) else None


def _patience_seconds(args: Mapping[str, Any]) -> float:
    # A quarter of the attempt's time, so that our waiting never looks like the target's silence.
    limit_seconds = args.get("timeout_seconds")
    if not isinstance(limit_seconds, int | float):
        return PATIENCE_SECONDS
    return min(PATIENCE_SECONDS, limit_seconds / 4)
