"""Waiting out a store that does not answer."""

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

from shared.errors import StoreUnavailable

_FIRST_PAUSE_SECONDS = 0.2
_MAX_PAUSE_SECONDS = 5.0

logger = logging.getLogger(__name__)

T = TypeVar("T")


async def until_stored(change: Callable[[], T]) -> T:
    """Return what a call to the store gives, calling again for as long as the store is away.

    Runs the call in a thread. Only for calls that may run twice.
    """
    pause_seconds = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return await asyncio.to_thread(change)
        except StoreUnavailable as error:
            logger.warning("store_unavailable", extra={"error": str(error)[:300]})
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, _MAX_PAUSE_SECONDS)
