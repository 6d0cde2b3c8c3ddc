"""What running attempts have written so far, told to the recorder; knows nothing of how they are run."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from consumer.settlement import report_message
from shared.broker.publisher import Publisher
from shared.clock import utc_now
from shared.errors import BrokerError, MessageTooLarge
from shared.kinds.command import OutputSnapshot
from shared.messages import JobMessage, Report
from shared.states import JobState

# A snapshot that the broker did not take is tried again, unless a newer one has come.
_RETRY_SECONDS = 2.0
# What one attempt costs the broker at most. A report brings its job along, which may have megabytes.
_BYTES_PER_SECOND = 262_144

logger = logging.getLogger(__name__)

OnOutput = Callable[[OutputSnapshot], None]


class LiveOutput:
    """Publishes what attempts of one worker write while they run, best effort: the end brings all of it."""

    def __init__(self, publisher: Publisher, *, worker: str) -> None:
        """Make one; `worker` is the name that reports carry."""
        self._publisher = publisher
        self._worker = worker

    @contextmanager
    def of(self, job: JobMessage) -> Iterator[OnOutput]:
        """Yield what takes the snapshots of an attempt that begins now; after the block it takes no more.

        Call it on the event loop, as often as there is something new. One snapshot of an attempt is on its
        way at a time; of those that come meanwhile, only the newest follows, at the end of the block at once.
        """
        telling = _Telling(job, self._publisher, worker=self._worker)
        try:
            yield telling.tell
        finally:
            telling.end()


class _Telling:
    """What is told of one attempt."""

    def __init__(self, job: JobMessage, publisher: Publisher, *, worker: str) -> None:
        self._job = job
        self._publisher = publisher
        self._worker = worker
        self._started_at: datetime = utc_now()
        self._sequence = 0
        self._waiting: OutputSnapshot | None = None
        self._is_sending = False
        self._timer: asyncio.TimerHandle | None = None
        self._has_ended = False

    def tell(self, snapshot: OutputSnapshot) -> None:
        """Publish a snapshot, as soon as the one before is confirmed."""
        if self._has_ended:
            return
        self._waiting = snapshot
        if not self._is_sending and self._timer is None:
            self._send()

    def end(self) -> None:
        """Publish what waits at once, for no result tells of what was cancelled; and nothing more."""
        self._has_ended = True
        if self._timer is not None:
            self._timer.cancel()
        self._send()

    def _send(self) -> None:
        self._timer = None
        snapshot, self._waiting = self._waiting, None
        if snapshot is None:
            return
        message = report_message(self._job, self._report(snapshot))
        try:
            sending = self._publisher.send(message)
        except BrokerError as error:
            self._send_again(snapshot, error)
            return
        self._is_sending = True
        pause_seconds = len(message.body) / _BYTES_PER_SECOND
        sending.add_done_callback(lambda sent: self._note_sent(snapshot, sent, pause_seconds))

    def _note_sent(self, snapshot: OutputSnapshot, sent: asyncio.Future[None], pause_seconds: float) -> None:
        self._is_sending = False
        error = None if sent.cancelled() else sent.exception()
        if isinstance(error, BrokerError) and not isinstance(error, MessageTooLarge):
            self._send_again(snapshot, error)
        else:
            self._send_after(pause_seconds)

    def _send_again(self, snapshot: OutputSnapshot, error: BrokerError) -> None:
        logger.debug("output_not_told", extra={"job_id": str(self._job.id), "error": str(error)})
        self._waiting = self._waiting or snapshot
        self._send_after(_RETRY_SECONDS)

    def _send_after(self, pause_seconds: float) -> None:
        if not self._has_ended:
            self._timer = asyncio.get_running_loop().call_later(pause_seconds, self._send)

    def _report(self, snapshot: OutputSnapshot) -> Report:
        # Of the time, because the attempt may be another worker's next, when this one has died with it.
        self._sequence = max(self._sequence + 1, time.time_ns() // 1_000_000)
        return Report(
            job_id=self._job.id,
            kind=self._job.kind,
            run=self._job.run,
            attempt=self._job.attempt,
            state=JobState.RUNNING,
            started_at=self._started_at,
            worker=self._worker,
            output=snapshot.model_copy(update={"sequence": self._sequence}),
        )
