"""What a fault is: what it hurts, what is promised nevertheless, and how it is done and undone."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.faults.world import World

# What a client logs that loses its broker, by itself or by what the broker says.
LOST_BROKER = ("broker_connection_lost", "broker_unavailable")

Inject = Callable[[World, random.Random], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to hurt the system.

    Attributes:
        name: In words; the row of docs/reliability.md.
        hurts: What it takes for itself; two faults at once never hurt the same.
        promise: What a user may count on nevertheless.
        inject: Does it, and returns when it is undone.
        may_repeat: Whether work that was in hand may be done again: somebody died, or lost what it had.
        spread_seconds: Over how long jobs are handed in meanwhile.
        deadline_seconds: After it everything has to have ended within this time.
        pages: The pages that jobs ask for meanwhile, instead of the usual.
        traces: Events of which some process logs at least one when the fault really hits; a fault that leaves
            none of its traces has proved nothing.
        undo: Done when everything has ended, where undoing at once would undo the test.
        has_third_parties: Whether jobs also come straight into RabbitMQ. What takes the recorder's copy
            of such a job away takes all that anybody knows of it.
        is_mixed: Whether it may happen beside others, in a soak.
    """

    name: str
    hurts: str
    promise: str
    inject: Inject
    may_repeat: bool
    spread_seconds: float = 2.0
    deadline_seconds: float = 60.0
    pages: tuple[str, ...] = ()
    traces: tuple[str, ...] = ()
    undo: Inject | None = None
    has_third_parties: bool = True
    is_mixed: bool = True
