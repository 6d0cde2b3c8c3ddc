"""How each client waits, and what it yields, under names of which one is made from the other."""

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from typing import TypeVar

T = TypeVar("T")

Stream = Generator[T, None, None]
AsyncStream = AsyncGenerator[T, None]
sleep = time.sleep
sleep_async = asyncio.sleep
