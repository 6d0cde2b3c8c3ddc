"""Sending unfinished jobs again: the message that each one's present state asks for, confirmed, then noted.

A crash between the two sends a job once more. What then runs twice is recorded once: docs/architecture.md,
"Recorded once".
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import compress

from producer.ledger.metrics import LedgerMetrics
from producer.ledger.patience import until_stored
from producer.ledger.relayed import job_message
from producer.records import UnfinishedJob
from producer.store import unfinished
from producer.store.database import Database
from shared.broker.outgoing import Outgoing
from shared.broker.publisher import Publisher
from shared.broker.topology import DELAY, JOBS, delay_key, stored_key
from shared.clock import utc_now
from shared.errors import BrokerError, MessageUnroutable
from shared.messages import JOB_TYPE
from shared.retry import delay_step_seconds
from shared.settings import Settings
from shared.states import JobState

logger = logging.getLogger(__name__)


class Republisher:
    """Sends unfinished jobs again. Two at once send them twice, which is allowed and costs work."""

    def __init__(
        self, *, store: Database, publisher: Publisher, metrics: LedgerMetrics, settings: Settings, why: str
    ) -> None:
        """Make a republisher; `why` is what its metric says."""
        self._store = store
        self._publisher = publisher
        self._counter = metrics.jobs_republished.labels(why)
        self._why = why
        self._window = asyncio.Semaphore(settings.publish_window)

    async def send(self, jobs: Sequence[UnfinishedJob]) -> Mapping[JobState, int]:
        """Publish a message of each job, and note those that were confirmed; return how many of each state.

        Raises:
            BrokerError: some were not confirmed; the others are sent and noted.
        """
        now = utc_now()
        errors = await asyncio.gather(*(self._publish(republished_message(job, now=now)) for job in jobs))
        sent = list(compress(jobs, (error is None for error in errors)))
        # Confirm before note: a crash between the two sends them again, the other order might lose them.
        touched = [(job.message.id, job.position) for job in sent]
        await until_stored(partial(self._store.write, unfinished.mark_sent, touched, now=utc_now()))
        self._note(sent)
        if failed := next((error for error in errors if error is not None), None):
            raise failed
        return Counter(job.state for job in sent)

    async def _publish(self, message: Outgoing) -> BrokerError | None:
        try:
            async with self._window:
                await self._publisher.publish(message)
        except MessageUnroutable as error:
            # A queue was deleted. A new channel declares the topology again.
            self._publisher.reset()
            return error
        except BrokerError as error:
            return error
        return None

    def _note(self, sent: Sequence[UnfinishedJob]) -> None:
        self._counter.inc(len(sent))
        for job in sent:
            facts = {"job_id": str(job.message.id), "run": job.message.run, "attempt": next_attempt(job)}
            logger.info("job_republished", extra={**facts, "state": job.state.value, "why": self._why})


def next_attempt(job: UnfinishedJob) -> int:
    """Return the attempt that a job waits for: the running one, else that after the last recorded.

    A deferral is recorded with the attempt before, so the attempt that was put off comes out, too.
    """
    return max(job.attempt, 1) if job.state is JobState.RUNNING else job.attempt + 1


def republished_message(job: UnfinishedJob, *, now: datetime) -> Outgoing:
    """Return the message of a job that is sent again: to run now, or when its delay is over."""
    message, to = job_message(job.message, attempt=next_attempt(job)), job.message
    wait_seconds = _wait_seconds(job, now)
    if wait_seconds <= 0:
        return Outgoing(JOBS, stored_key(to.kind, to.lane), message.encode(), JOB_TYPE, str(to.id))
    # The recorder gets a copy of it, too: of a job that it knows, which changes nothing.
    key = delay_key(to.kind, to.lane, delay_step_seconds(wait_seconds))
    return Outgoing(DELAY, key, message.encode(), JOB_TYPE, str(to.id))


def _wait_seconds(job: UnfinishedJob, now: datetime) -> float:
    if job.state is not JobState.DELAYED or job.due_at is None:
        return 0.0
    return (job.due_at - now).total_seconds()
