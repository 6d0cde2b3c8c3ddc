"""Room for large bodies: what a worker has in hand of them at once is bounded, however many jobs it runs."""

import asyncio
from collections import deque
from types import TracebackType
from typing import Final, Self

FREE_BYTES: Final = 1_048_576
"""A body needs no room up to this size, which is as much as most jobs read."""

MOST_BYTES: Final = 33_554_432
"""What bodies beyond that have together: two of the largest, or eight of 4 MiB."""


class BodyRoom:
    """The room of one worker, given in the order in which it is asked for."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        """Begin with all of it free."""
        self._free_bytes = most_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def hold(self) -> "HeldRoom":
        """Return the room of one body, none so far; leaving its block gives it back."""
        return HeldRoom(self)

    async def take(self, size: int) -> None:
        """Wait until there is room for so many bytes, at most as many as there are in all, and take it."""
        if not self._waiting and self._free_bytes >= size:
            self._free_bytes -= size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            # Cancelled before or after it had its turn.
            if not turn.cancelled():
                self._free_bytes += size
            elif (size, turn) in self._waiting:
                self._waiting.remove((size, turn))
            self._serve()
            raise

    def give(self, size: int) -> None:
        """Give so many bytes back."""
        self._free_bytes += size
        self._serve()

    def _serve(self) -> None:
        while self._waiting and (self._waiting[0][1].done() or self._free_bytes >= self._waiting[0][0]):
            size, turn = self._waiting.popleft()
            if not turn.done():
                self._free_bytes -= size
                turn.set_result(None)


class HeldRoom:
    """The room of one body, as long as it is in hand."""

    __slots__ = ("_bytes", "_room")

    def __init__(self, room: BodyRoom) -> None:
        """Begin without any; `BodyRoom.hold` makes one."""
        self._room = room
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.release()

    async def take(self, size: int) -> None:
        """Wait until there is room for a body of so many bytes, if it has none yet."""
        if not self._bytes:
            await self._room.take(size)
            self._bytes = size

    def release(self) -> None:
        """Give the room back: the body is not needed any more."""
        if self._bytes:
            self._room.give(self._bytes)
            self._bytes = 0
