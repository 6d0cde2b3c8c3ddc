"""Telling that an attempt is running, once it has been for a while."""

import asyncio
import logging
from datetime import datetime
from functools import partial

from consumer.deadlines import Appointment, current_wheel
from consumer.settlement import report_message
from shared.broker.publisher import Publisher
from shared.errors import BrokerError
from shared.messages import JobMessage, Report
from shared.states import JobState

# Attempts that end sooner are reported once, at their end: announcing each would double the traffic.
_AFTER_SECONDS = 0.5

logger = logging.getLogger(__name__)


class Announcer:
    """Reports longer attempts as running. Best effort: their end is reported with certainty."""

    def __init__(self, publisher: Publisher, *, worker: str) -> None:
        """Make one; `worker` is the name that reports carry."""
        self._publisher = publisher
        self._worker = worker

    def announce_soon(self, job: JobMessage, started_at: datetime, task: asyncio.Task[None]) -> Appointment:
        """Report the attempt that the current task makes as running, unless it is taken back before."""
        return current_wheel(task).call_later(_AFTER_SECONDS, partial(self._announce, job, started_at))

    def _announce(self, job: JobMessage, started_at: datetime) -> None:
        report = Report(
            job_id=job.id,
            kind=job.kind,
            run=job.run,
            attempt=job.attempt,
            state=JobState.RUNNING,
            started_at=started_at,
            worker=self._worker,
        )
        try:
            self._publisher.send(report_message(job, report)).add_done_callback(_note_announced)
        except BrokerError as error:
            logger.debug("announce_failed", extra={"job_id": str(job.id), "error": str(error)})


def _note_announced(announcing: asyncio.Future[None]) -> None:
    if not announcing.cancelled() and (error := announcing.exception()):
        logger.debug("announce_failed", extra={"error": str(error)})
