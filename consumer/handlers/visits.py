"""One chain of requests, politely: each asks its host's gate for a turn, and tells it how it went."""

from typing import Self

from consumer.handlers.failures import Failure, host_without_turn
from consumer.politeness.first_turn import patience_seconds, take_first_turn
from consumer.politeness.gates import Gates, Turn
from consumer.politeness.ticket import Priority, Refusal, Ticket
from shared.hosts import host_key


class Visit:
    """The hosts of one chain of redirects, one after the other. Leaving it ends the last turn."""

    def __init__(self, gates: Gates) -> None:
        """Begin a chain; nobody is asked yet."""
        self._gates = gates
        self._turn: Turn | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def has_first_turn(self, url: str) -> bool:
        """Return whether the attempt came with a turn for this URL's host, and take it: `turn`, at once."""
        self.release()
        host = host_key(url)
        self._turn = None if host is None else take_first_turn(host)
        return self._turn is not None

    async def turn(self, url: str) -> Failure | None:
        """Return None when a request to this URL may start now, or why not; the one before is over.

        The first request of an attempt has its turn already. Others go before all jobs that wait, and
        wait for a moment themselves, within the attempt's time.
        """
        host = host_key(url)
        if self.has_first_turn(url) or host is None:
            return None  # What cannot be asked is refused by who asks.
        patience = patience_seconds()
        answer = await self._gates.turn(host, Ticket(Priority.UNDER_WAY, patience, patience))
        if isinstance(answer, Refusal):
            return host_without_turn(answer.reason, host, answer.seconds)
        self._turn = answer
        return None

    def answered(self, status: int, *, retry_after_seconds: float | None) -> None:
        """Tell the host's gate of an answer."""
        if self._turn is not None:
            self._turn.answered(status, retry_after_seconds=retry_after_seconds)

    def failed(self, failure: Failure) -> None:
        """Tell the host's gate of a request without an answer.

        Only what speaks of the whole host counts: that no connection could be made, for now. A name
        that does not exist and a bad certificate are answers.
        """
        if self._turn is not None and failure.before_sending and failure.transient and not failure.is_ours:
            self._turn.failed()

    def release(self) -> None:
        """End the turn of the last request; its answer has been read, or is not wanted."""
        if self._turn is not None:
            self._turn.release()
            self._turn = None
