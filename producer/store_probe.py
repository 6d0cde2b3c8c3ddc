"""Whether the store answers, asked so that one that hangs costs a probe its time limit and one thread."""

import asyncio
import logging

from producer.store.database import Database
from shared.errors import StoreUnavailable

_EVERY_SECONDS = 5.0
_ANSWER_SECONDS = 3.0

logger = logging.getLogger(__name__)


class StoreProbe:
    """Asks one question at a time: who asks while another waits shares its answer."""

    def __init__(self, store: Database, *, answer_seconds: float = _ANSWER_SECONDS) -> None:
        """Make a probe that has asked nothing yet."""
        self._store = store
        self._answer_seconds = answer_seconds
        self._asking: asyncio.Future[None] | None = None
        self._is_answering = False

    @property
    def is_answering(self) -> bool:
        """Whether the last question was answered in time."""
        return self._is_answering

    async def run(self) -> None:
        """Ask every few seconds until cancelled."""
        while True:
            try:
                await self.ask()
            except StoreUnavailable as error:
                logger.debug("store_probe_failed", extra={"error": str(error)[:300]})
            await asyncio.sleep(_EVERY_SECONDS)

    async def ask(self) -> None:
        """Return when the store has answered, and this version may use its tables.

        Raises:
            StoreUnavailable: it did not, within the time limit, or says that it cannot.
        """
        try:
            async with asyncio.timeout(self._answer_seconds):
                # A thread cannot be cancelled, so a question that hangs is waited for by the next who asks.
                await asyncio.shield(self._question())
        except TimeoutError as error:
            self._is_answering = False
            raise StoreUnavailable(f"no answer within {self._answer_seconds:g} s") from error
        except StoreUnavailable:
            self._is_answering = False
            raise
        self._is_answering = True

    def _question(self) -> "asyncio.Future[None]":
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(asyncio.to_thread(self._store.ping))
            # Nobody may be waiting any more when it fails.
            self._asking.add_done_callback(lambda asked: asked.cancelled() or asked.exception())
        return self._asking
