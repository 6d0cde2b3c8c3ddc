"""What all who wait in one process share: a loop that listens to the store only while somebody waits."""

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import ClassVar

from producer.store.wakeup import Wakeup
from shared.errors import StoreUnavailable
from shared.repeated_warning import RepeatedWarning

# People and agents come and go; when none has waited for so long, nobody listens any more.
_REST_SECONDS = 60.0

logger = logging.getLogger(__name__)


class WaitingRoom(ABC):
    """Looks for what those who wait are waiting for.

    Attributes:
        look_seconds: How often to look where nobody tells, as while the connection is lost.
        store_away: The line that is logged while the store is away.
        failed: The line that is logged of a bug of ours.
    """

    look_seconds: ClassVar[float] = 5.0
    store_away: ClassVar[str]
    failed: ClassVar[str]

    def __init__(self, wakeup: Wakeup) -> None:
        """Begin without anybody; the wakeup tells when it is worth looking."""
        self._wakeup = wakeup
        self._has_joined = asyncio.Event()
        self._left_at = 0.0
        self._looked_at = 0.0

    @abstractmethod
    def __len__(self) -> int:
        """Return how many wait."""

    async def run(self) -> None:
        """Look while somebody waits, until cancelled. Listens only while there is somebody."""
        warning = RepeatedWarning(logger)
        try:
            while True:
                await self._has_joined.wait()
                try:
                    await self._look()
                    warning = RepeatedWarning(logger)
                except StoreUnavailable as error:
                    warning.tell(self.store_away, {"error": str(error)[:300]})
                except Exception:
                    # A service loop, one of the three edges: without it all would wait in vain.
                    logger.exception(self.failed)
                    await asyncio.sleep(self.look_seconds)
                await self._rest()
        finally:
            await self._wakeup.aclose()

    @property
    @abstractmethod
    def _is_empty(self) -> bool:
        """Whether nobody is here, neither waiting nor looking."""

    @abstractmethod
    async def _look(self) -> None:
        """Wait until there may be something, at most `look_seconds`, and tell those whom it concerns."""

    def _leave(self) -> None:
        self._left_at = asyncio.get_running_loop().time()

    async def _rest(self) -> None:
        if self._is_empty and asyncio.get_running_loop().time() - self._left_at > _REST_SECONDS:
            self._has_joined.clear()
            await self._wakeup.aclose()
