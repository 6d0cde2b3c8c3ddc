"""Quarantine for jobs that may be poison: that may have killed the workers that had them. Pure.

A worker that dies brings back all that it had in hand, and the broker counts that for each message
(https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling). Innocent jobs would be given up
together with the one that kills. So a message that has come back a few times goes through a delay queue, as a
copy with a count of its own, and comes out among other jobs.
"""

from collections.abc import Callable

from shared.broker.topology import WORK_DELIVERY_LIMIT
from shared.messages import JobMessage
from shared.outcomes import WORKER_CRASHED, DeferralReason, Deferred, Failed

# A restart of the broker or a lost connection brings messages back too, and no job is to blame.
_RETURNS_TO_QUARANTINE = 3
_LONGEST_SECONDS = 30.0


def quarantine(job: JobMessage, *, returns: int, random: Callable[[], float]) -> Deferred | Failed | None:
    """Return None for a job that is to be tried, a deferral into quarantine, or its end.

    The waits grow with the returns, and half of each is random, so that suspects come out one by one.

    Args:
        returns: How often this very message came back to its queue; the job counts those of earlier copies.
        random: Gives a float in [0, 1).
    """
    together = job.returns + returns
    if together > WORK_DELIVERY_LIMIT:
        said = f"Given up: it {_came_back(together)}"
        return Failed(WORKER_CRASHED, said, transient=False)
    if returns < _RETURNS_TO_QUARANTINE:
        return None
    seconds = min(together / _RETURNS_TO_QUARANTINE, _LONGEST_SECONDS) * (1 + random())
    return Deferred(seconds, DeferralReason.RETURNED, f"Set apart: it {_came_back(together)}")


def _came_back(times: int) -> str:
    # A look in the console counts, too.
    return f"came back {times} times without an ack, as from workers that died with it or lost it."
