"""Fair turns: of what few can do at a time, one caller's many leave room for another's one. Pure asyncio."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class TurnNotCome(Exception):
    """No place was free within the time; `has_share` says whether the caller holds all that one may have."""

    def __init__(self, *, has_share: bool) -> None:
        super().__init__("no turn")
        self.has_share = has_share


class FairTurns:
    """So many places. Who waits has the next turn when they hold fewest, callers in rotation.

    Not thread-safe: for the coroutines of one event loop.
    """

    def __init__(self, places: int, *, share: int | None = None) -> None:
        """Make turns that nobody has taken.

        Args:
            places: How many turns are held at a time.
            share: How many of them one caller may hold; the others stay free for other callers.
        """
        self.places = places
        self.share = places if share is None else share
        self._held: Counter[str] = Counter()
        # In the order of their next turns.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def turn(self, caller: str, *, wait_seconds: float | None = None) -> AsyncIterator[None]:
        """Hold a place for the block.

        Raises:
            TurnNotCome: none was free within `wait_seconds`.
        """
        try:
            async with asyncio.timeout(wait_seconds):
                await self._take(caller)
        except TimeoutError:
            raise TurnNotCome(has_share=self._held[caller] >= self.share) from None
        try:
            yield
        finally:
            self._give_back(caller)

    async def _take(self, caller: str) -> None:
        if self._has_room(caller):
            self._held[caller] += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # It came in the moment in which the caller left.
                self._give_back(caller)
            else:
                self._leave(caller, turn)
            raise

    def _give_back(self, caller: str) -> None:
        self._held[caller] -= 1
        if not self._held[caller]:
            del self._held[caller]
        while (following := self._next()) is not None:
            turns = self._waiting.pop(following)
            self._held[following] += 1
            turns.popleft().set_result(None)
            if turns:
                # Behind all others.
                self._waiting[following] = turns

    def _next(self) -> str | None:
        waiting = (caller for caller in self._waiting if self._has_room(caller))
        return min(waiting, key=self._held.__getitem__, default=None)

    def _has_room(self, caller: str) -> bool:
        return self._held.total() < self.places and self._held[caller] < self.share

    def _leave(self, caller: str, turn: "asyncio.Future[None]") -> None:
        turns = self._waiting[caller]
        turns.remove(turn)
        if not turns:
            del self._waiting[caller]
