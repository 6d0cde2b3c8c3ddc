"""What asks a host's gate for a turn, and what the gate says when there is none."""

from dataclasses import dataclass
from enum import IntEnum

from shared.outcomes import DeferralReason


class Priority(IntEnum):
    """Who goes first: an attempt under way, then a person who waits, then a batch."""

    UNDER_WAY = 0
    INTERACTIVE = 1
    BULK = 2


@dataclass(slots=True, eq=False)
class Ticket:
    """One wish for a turn. Times are of the gate's clock.

    Attributes:
        hope_seconds: It waits in hand only for a turn that is foreseen this soon.
        patience_seconds: It waits in hand no longer than this, whatever was foreseen.
        deferrals: How often this attempt was deferred before.
        turn_at: When its turn was promised to be.
        spacing_seconds: How far apart deferred jobs must come back, so that those of one step of the
            delay ladder, which come back together, find seats.
        arrived_at: When it began to wait.
    """

    priority: Priority
    hope_seconds: float
    patience_seconds: float
    deferrals: int = 0
    turn_at: float | None = None
    spacing_seconds: float = 0.0
    arrived_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """There is no turn now; there may be one in so many seconds."""

    seconds: float
    reason: DeferralReason
