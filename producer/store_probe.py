"""Whether the store answers, asked so that one that hangs costs a probe its time limit and one thread."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

from producer.store.database import Database
from shared.errors import StoreUnavailable

_EVERY_SECONDS = 5.0
_ANSWER_SECONDS = 3.0
_NOT_ASKED = "The store has not been asked yet."

logger = logging.getLogger(__name__)


class StoreProbe:
    """Asks one question at a time: who asks while another waits shares its answer."""

    def __init__(self, store: Database, *, answer_seconds: float = _ANSWER_SECONDS) -> None:
        """Make a probe that has asked nothing yet."""
        self._store = store
        self._answer_seconds = answer_seconds
        self._asking: asyncio.Future[None] | None = None
        self._reason: str | None = _NOT_ASKED
        # Of its own, so that it asks also when all others wait for the store.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store-probe")

    @property
    def is_answering(self) -> bool:
        """Whether the last question was answered in time, and well."""
        return self._reason is None

    @property
    def reason(self) -> str | None:
        """Why the store cannot be used, in a sentence; None when it can."""
        return self._reason

    async def run(self) -> None:
        """Ask every few seconds until cancelled."""
        while True:
            try:
                await self.ask()
            except StoreUnavailable:
                # `_note` has told.
                pass
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
            late = StoreUnavailable(f"The store did not answer within {self._answer_seconds:g} s.")
            self._note(late)
            raise late from error
        except StoreUnavailable as error:
            self._note(error)
            raise
        self._note(None)

    def close(self) -> None:
        """End the thread, unless the store holds it."""
        self._thread.shutdown(wait=False)

    def _note(self, error: StoreUnavailable | None) -> None:
        """Keep what the last question came to, and tell it once."""
        before, self._reason = self._reason, error.reason if error else None
        if error and error.reason != before:
            logger.warning("store_not_usable", extra={"error": str(error)[:300]})
        elif error is None and before not in {None, _NOT_ASKED}:
            logger.info("store_usable_again")

    def _question(self) -> "asyncio.Future[None]":
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().run_in_executor(self._thread, self._store.ping)
            # Nobody may be waiting any more when it fails.
            self._asking.add_done_callback(lambda asked: asked.cancelled() or asked.exception())
        return self._asking
