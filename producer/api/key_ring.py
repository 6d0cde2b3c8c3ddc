"""The keys that an API process holds in memory: asking the store each time would cost more than most answers.

They are read again every second, so a key that is revoked elsewhere opens nothing a second or two later; one
that is not known yet is looked for at once.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from producer.callers import Caller
from producer.keys import PREFIX, START_CHARACTERS, ApiKey, KeySecret, opens, start_of
from producer.store.database import Store
from producer.store.keys import USE_NOTED_EVERY, KnownKeys, known_keys, note_uses
from shared.clock import utc_now
from shared.errors import StoreRefused, StoreUnavailable
from shared.repeated_warning import RepeatedWarning

logger = logging.getLogger(__name__)

READ_EVERY_SECONDS: Final = 1.0
# Strangers who try keys by the thousand have the store asked this often.
_LOOK_EVERY_SECONDS = 0.2
# Where a key's text has its start.
_START = slice(len(PREFIX), len(PREFIX) + START_CHARACTERS)


class _Known(NamedTuple):
    """One text of a key, and whom it lets in, until it ends."""

    secret: KeySecret
    key: ApiKey
    caller: Caller
    ends_at: datetime | None

    def is_over(self, now: datetime) -> bool:
        """Return whether its time is over."""
        return self.ends_at is not None and self.ends_at <= now


class KeyRing:
    """All live keys of a store, as one process knows them."""

    def __init__(self, store: Store, *, now: Callable[[], datetime] = utc_now) -> None:
        """Know none yet."""
        self._store = store
        self._now = now
        self._hash_key: bytes | None = None
        self._known: dict[str, _Known] = {}
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._uses: dict[UUID, datetime] = {}

    async def any_made(self) -> bool:
        """Return whether a key has ever been made.

        Raises:
            StoreUnavailable: the store has never told.
        """
        await self._need_one_reading()
        return self._hash_key is not None

    async def find(self, text: str) -> Caller | None:
        """Return whose key a text is; None when it opens nothing.

        Raises:
            StoreUnavailable: the store has never told.
        """
        await self._need_one_reading()
        if (known := self._known.get(text[_START])) is None:
            # Only here the form matters: what is no key has nobody look for it.
            if (start := start_of(text)) is None:
                return None
            await self._look_again()
            known = self._known.get(start)
        return None if known is None else self._open(text, known)

    async def bearer_of(self, start: str) -> Caller | None:
        """Return whose key has a text with this start, if it still opens something: for a session of it.

        Raises:
            StoreUnavailable: the store has never told.
        """
        await self._need_one_reading()
        known = self._known.get(start)
        return None if known is None or known.is_over(self._now()) else known.caller

    async def read(self) -> None:
        """Read all keys anew; whoever asks meanwhile gets the same reading.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(self._on_read)
        await asyncio.shield(self._reading)

    async def run(self) -> None:
        """Read the keys and note their uses, again and again, until cancelled."""
        warning = RepeatedWarning(logger)
        while True:
            try:
                await self.read()
                await self._note_uses()
                warning = RepeatedWarning(logger)
            except (StoreUnavailable, StoreRefused) as error:
                warning.tell("keys_not_read", {"error": str(error)[:300]})
            await asyncio.sleep(READ_EVERY_SECONDS)

    async def _need_one_reading(self) -> None:
        # While the store is away what it told last holds: nobody can have revoked anything.
        if self._read_at == float("-inf"):
            await self.read()

    async def refresh(self) -> bool:
        """Read the keys as they are from now on; return False, and leave what is known, if the store is away.

        A reading under way may have begun before what the caller has just changed.
        """
        asked_at = time.monotonic()
        while self._read_at < asked_at:
            if not await self._try_read():
                return False
        return True

    async def _look_again(self) -> None:
        """Read the keys as they are from now on, for a stranger: not at once, and with others who wait."""
        asked_at = time.monotonic()
        while self._read_at < asked_at:
            await asyncio.sleep(max(0.0, self._read_at + _LOOK_EVERY_SECONDS - time.monotonic()))
            if self._read_at < asked_at and not await self._try_read():
                return

    async def _try_read(self) -> bool:
        try:
            await self.read()
        except StoreUnavailable:
            return False
        return True

    async def _read(self) -> None:
        began = time.monotonic()
        known: KnownKeys = await self._store.read(known_keys, now=self._now())
        self._hash_key = known.hash_key
        self._known = {
            secret.start: _Known(secret, key, key.caller, _end_of(key, secret))
            for key in known.live
            for secret in key.secrets
        }
        self._read_at = began

    def _on_read(self, task: asyncio.Task[None]) -> None:
        self._reading = None
        if not task.cancelled():
            # Whoever waits for it hears of it; nobody may be left to.
            task.exception()

    def _open(self, text: str, known: _Known) -> Caller | None:
        now = self._now()
        if self._hash_key is None or known.is_over(now) or not opens(text, known.secret, self._hash_key):
            return None
        self._uses[known.key.id] = now
        return known.caller

    async def _note_uses(self) -> None:
        noted = {known.key.id: known.key.last_used_at for known in self._known.values()}
        news = {key_id: at for key_id, at in self._uses.items() if _is_news(noted.get(key_id), at)}
        if news:
            await self._store.write(note_uses, news)
        self._uses = {}


def _end_of(key: ApiKey, secret: KeySecret) -> datetime | None:
    """Return when a text of a key ends: with the key, or before."""
    return min((end for end in (key.expires_at, secret.expires_at) if end is not None), default=None)


def _is_news(noted: datetime | None, used_at: datetime) -> bool:
    return noted is None or used_at - noted > USE_NOTED_EVERY + timedelta(seconds=1)
