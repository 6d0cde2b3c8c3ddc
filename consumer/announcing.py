"""Telling that an attempt is running, once it has been for a while."""

import asyncio
import logging
from datetime import datetime
from typing import Any, NamedTuple

from consumer.settlement import report_message
from shared.broker.publisher import Publisher
from shared.errors import BrokerError
from shared.messages import JobMessage, Report
from shared.states import JobState

# Attempts that end sooner are reported once, at their end: announcing each would double the traffic.
_AFTER_SECONDS = 0.5

logger = logging.getLogger(__name__)


class _Running(NamedTuple):
    job: JobMessage
    started_at: datetime
    due_at: float


class Announcer:
    """Reports longer attempts as running. Best effort: their end is reported with certainty.

    Nearly all end long before. So there is one timer for all of them, that of the oldest.
    """

    def __init__(self, publisher: Publisher, *, worker: str) -> None:
        """Make one; `worker` is the name that reports carry."""
        self._publisher = publisher
        self._worker = worker
        # In the order of their starts, by the task that makes the attempt.
        self._running: dict[asyncio.Task[Any], _Running] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, task: asyncio.Task[Any], job: JobMessage, started_at: datetime) -> None:
        """Report the attempt as running in half a second, unless it has ended by then."""
        loop = task.get_loop()
        due_at = loop.time() + _AFTER_SECONDS
        self._running[task] = _Running(job, started_at, due_at)
        if self._timer is None:
            self._timer = loop.call_at(due_at, self._announce_due, loop)

    def end(self, task: asyncio.Task[Any]) -> None:
        """Note that the attempt has ended."""
        self._running.pop(task, None)

    def _announce_due(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        while self._running:
            task, oldest = next(iter(self._running.items()))
            if oldest.due_at > loop.time():
                self._timer = loop.call_at(oldest.due_at, self._announce_due, loop)
                return
            del self._running[task]
            self._announce(oldest.job, oldest.started_at)

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
