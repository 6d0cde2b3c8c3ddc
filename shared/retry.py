"""When to try again: the retry policy, the backoff and the ladder of delay queues. All pure."""

import bisect
from collections.abc import Callable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

DAY_SECONDS = 86_400
MAX_ATTEMPTS = 1_000

# One quorum queue a step. Neighbours are at most 1.5 times apart from 4 s on, so rounding a wait up
# to its step costs little; the last step is a day, because far-off times wait in the store.
DELAY_STEPS_SECONDS: tuple[int, ...] = (
    *(1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 75, 90),
    *(120, 150, 180, 240, 300, 420, 600, 900, 1_200, 1_800, 2_700),
    *(3_600, 5_400, 7_200, 10_800, 21_600, 43_200, DAY_SECONDS),
)


class RetryPolicy(BaseModel):
    """How often and how patiently a job is tried again.

    Unknown fields are ignored, because policies travel in messages to workers of other versions.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    max_attempts: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)] = 5
    first_delay_seconds: Annotated[float, Field(gt=0, le=DAY_SECONDS)] = 5.0
    factor: Annotated[float, Field(ge=1, le=10)] = 2.0
    max_delay_seconds: Annotated[float, Field(gt=0, le=DAY_SECONDS)] = 3_600.0
    jitter: Annotated[bool, Field(description="Half of each wait is random.")] = True


def can_retry(policy: RetryPolicy, attempt: int) -> bool:
    """Return whether another attempt may follow the one that just failed."""
    return attempt < policy.max_attempts


def wait_seconds(
    policy: RetryPolicy,
    attempt: int,
    *,
    retry_after_seconds: float | None,
    random: Callable[[], float],
) -> float:
    """Return how long to wait before the next attempt: growing, equal jitter, capped.

    Half the backoff is fixed and half random, so that jobs that failed together do not return
    together. A target's own `Retry-After` (RFC 9110 section 10.2.3) is never undercut, but is
    capped by the policy like every wait.

    Args:
        attempt: The attempt that just failed, from 1.
        retry_after_seconds: What the target asked for, if it did.
        random: Gives a float in [0, 1).

    Returns:
        Seconds in (0, max_delay_seconds].
    """
    # A float power overflows past 2**1024, long before attempt 1,000 at factor 10.
    exponent = min(attempt - 1, 300)
    backoff = min(policy.first_delay_seconds * policy.factor**exponent, policy.max_delay_seconds)
    if policy.jitter:
        backoff = backoff / 2 + backoff / 2 * random()
    return min(max(backoff, retry_after_seconds or 0.0), policy.max_delay_seconds)


def deferral_step_seconds(wait: float) -> int:
    """Return the last step of the ladder that is not longer than `wait`: never late, at least a second.

    A job that was deferred and comes back too early keeps its turn, and what is left is a third of
    its wait at most. One that came too late would leave its turn unused.
    """
    at = bisect.bisect_right(DELAY_STEPS_SECONDS, wait)
    return DELAY_STEPS_SECONDS[max(at - 1, 0)]


def delay_step_seconds(wait: float) -> int:
    """Return the first step of the ladder that is not shorter than `wait`: never early.

    So a wait may become longer than the policy's maximum, by the distance to the next step.

    Args:
        wait: Seconds, up to a day; longer waits take the last step.
    """
    at = bisect.bisect_left(DELAY_STEPS_SECONDS, wait)
    return DELAY_STEPS_SECONDS[min(at, len(DELAY_STEPS_SECONDS) - 1)]
