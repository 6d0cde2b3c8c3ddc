"""Waiting out a store that does not answer."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from producer.store.database import retry_until_store_up

T = TypeVar("T")


async def until_stored(change: Callable[[], T]) -> T:
    """Return what a call to the store gives, calling again for as long as the store is away.

    Runs the call in a thread. Only for calls that may run twice.
    """
    return await retry_until_store_up(partial(asyncio.to_thread, change))
