"""What the contract tests of the client share, for coroutines and for threads."""

from typing import Final
from uuid import uuid4

LONG: Final = 60.0
HOUR: Final = 3_600
QUICK_RETRY: Final = {"max_attempts": 1}


def fresh() -> str:
    """Return a name that nobody else has, which is also an id that nothing has."""
    return str(uuid4())
