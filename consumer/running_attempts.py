"""The attempts that run in this worker: those of cancelled jobs are cancelled, long ones are reported."""

import asyncio
import logging
from datetime import datetime
from typing import Any, Self

from consumer.control_streams import Cancellations
from consumer.politeness.host_limiters import NO_PERMIT, FirstPermit
from consumer.settlement import report_message
from shared.broker.publisher import Publisher
from shared.errors import BrokerError
from shared.messages import JobMessage, Report
from shared.states import JobState

# A shorter attempt is reported once, at its end: reporting each as running would double the traffic.
_REPORT_AFTER_SECONDS = 0.5
# One whose first request is not sent may still be deferred, and nothing moves a job back that was reported.
# The scheduler waits three seconds after a deadline for the reports of attempts that began before.
_REPORT_UNSENT_AFTER_SECONDS = 2.0

logger = logging.getLogger(__name__)


class RunningAttempts:
    """The running attempts of one worker.

    One that lasts is reported as running, if the broker takes that: only its end is reported with certainty.
    Nearly all end before, so one timer serves all of them, that of the oldest.
    """

    def __init__(self, publisher: Publisher, cancellations: Cancellations, *, worker: str) -> None:
        """Make an empty table; `worker` is the name that reports carry."""
        self._publisher = publisher
        self._cancellations = cancellations
        self._worker = worker
        self._attempts: set[RunningAttempt] = set()
        # Those that have started and are not reported, in the order of their starts.
        self._unreported: dict[RunningAttempt, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        cancellations.on_new(self._cancel)

    def attempt(self, job: JobMessage, task: asyncio.Task[Any]) -> "RunningAttempt":
        """Return the attempt of a job; while inside it, its task is cancelled when the job is."""
        return RunningAttempt(job, task, self._attempts, self._unreported)

    def start(
        self, attempt: "RunningAttempt", started_at: datetime, first_permit: FirstPermit = NO_PERMIT
    ) -> None:
        """Report the attempt as running in half a second, unless it has ended by then.

        While its first permit says that it can be given back, it is reported after two seconds.
        """
        loop = attempt.task.get_loop()
        now = loop.time()
        attempt.started_at, attempt.report_at = started_at, now + _REPORT_AFTER_SECONDS
        attempt.first_permit, attempt.unsent_until = first_permit, now + _REPORT_UNSENT_AFTER_SECONDS
        self._unreported[attempt] = None
        if self._timer is None:
            self._timer = loop.call_at(attempt.report_at, self._report_due, loop)

    def take_back(self, attempt: "RunningAttempt") -> bool:
        """Note that an attempt has not begun after all; return False if it was reported as running."""
        if attempt not in self._unreported:
            return False
        del self._unreported[attempt]
        attempt.started_at = None
        return True

    def _cancel(self) -> None:
        for attempt in self._attempts:
            if not attempt.is_cancelled and self._cancellations.has(attempt.job):
                attempt.is_cancelled = True
                attempt.task.cancel()

    def _report_due(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        while self._unreported:
            oldest = next(iter(self._unreported))
            if oldest.report_at > loop.time():
                self._timer = loop.call_at(oldest.report_at, self._report_due, loop)
                return
            del self._unreported[oldest]
            if oldest.first_permit.request is None or loop.time() >= oldest.unsent_until:
                self._report(oldest)
            else:
                oldest.report_at = loop.time() + _REPORT_AFTER_SECONDS
                self._unreported[oldest] = None

    def _report(self, attempt: "RunningAttempt") -> None:
        job = attempt.job
        report = Report(
            job_id=job.id,
            kind=job.kind,
            run=job.run,
            attempt=job.attempt,
            state=JobState.RUNNING,
            started_at=attempt.started_at,
            worker=self._worker,
        )
        try:
            self._publisher.send(report_message(job, report)).add_done_callback(_note_reported)
        except BrokerError as error:
            logger.debug("running_report_failed", extra={"job_id": str(job.id), "error": str(error)})


class RunningAttempt:
    """One attempt of a job; it is in the table while inside."""

    # A class, and no generator, because every attempt passes here.
    __slots__ = (
        "_attempts",
        "_unreported",
        "first_permit",
        "is_cancelled",
        "job",
        "report_at",
        "started_at",
        "task",
        "unsent_until",
    )

    def __init__(
        self,
        job: JobMessage,
        task: asyncio.Task[Any],
        attempts: "set[RunningAttempt]",
        unreported: "dict[RunningAttempt, None]",
    ) -> None:
        """Make one; only `RunningAttempts` does."""
        self.job = job
        self.task = task
        self.started_at: datetime | None = None
        self.first_permit = NO_PERMIT
        self.report_at = 0.0
        self.unsent_until = 0.0
        self.is_cancelled = False
        self._attempts = attempts
        self._unreported = unreported

    def __enter__(self) -> Self:
        self._attempts.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._attempts.discard(self)
        self._unreported.pop(self, None)

    def was_cancelled(self) -> bool:
        """Return whether the task was cancelled because of its job; asking takes the cancellation back."""
        if not self.is_cancelled:
            return False
        self.is_cancelled = False
        self.task.uncancel()
        return True


def _note_reported(reporting: asyncio.Future[None]) -> None:
    if not reporting.cancelled() and (error := reporting.exception()):
        logger.debug("running_report_failed", extra={"error": str(error)})
