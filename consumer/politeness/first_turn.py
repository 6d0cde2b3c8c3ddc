"""The turn that an attempt was given before it began, on its way to its first request.

It travels in a context variable: between the gate and the request there is a handler, which knows
nothing of politeness.
"""

from contextvars import ContextVar, Token
from dataclasses import dataclass

from consumer.politeness.gates import Turn

PATIENCE_SECONDS = 5.0
"""How long a further request of an attempt waits for its turn, unless the attempt has less time."""


@dataclass(slots=True)
class _Attempt:
    turn: Turn | None
    patience_seconds: float


_attempt: ContextVar[_Attempt | None] = ContextVar("_attempt", default=None)


class attempt_with:  # noqa: N801 - used like a function, as in contextlib
    """While inside, let the first request to the turn's host have it; release it at the end if nobody did."""

    __slots__ = ("_attempt", "_token")

    def __init__(self, turn: Turn, *, patience_seconds: float) -> None:
        self._attempt = _Attempt(turn, patience_seconds)
        self._token: Token[_Attempt | None] | None = None

    def __enter__(self) -> None:
        self._token = _attempt.set(self._attempt)

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _attempt.reset(self._token)
        if self._attempt.turn is not None:
            self._attempt.turn.release()


def take_first_turn(host: str) -> Turn | None:
    """Return the turn that the current attempt came with, once, if it is for this host."""
    attempt = _attempt.get()
    if attempt is None or attempt.turn is None or attempt.turn.host != host:
        return None
    turn, attempt.turn = attempt.turn, None
    return turn


def patience_seconds() -> float:
    """Return how long a further request of the current attempt may wait for its turn."""
    attempt = _attempt.get()
    return PATIENCE_SECONDS if attempt is None else attempt.patience_seconds
