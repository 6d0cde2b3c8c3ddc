"""Group commit: the jobs of concurrent requests are stored by one thread, many in one transaction."""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from producer.records import NewJob, SubmissionResult
from producer.store import submissions
from producer.store.database import Database
from shared.errors import StoreRefused, StoreUnavailable

logger = logging.getLogger(__name__)

MAX_WAITING_JOBS = 5_000
MAX_GROUP_JOBS = 500
CLOSE_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A job that waits for its transaction, and the future that its request awaits."""

    job: NewJob
    answer: asyncio.Future[SubmissionResult]
    loop: asyncio.AbstractEventLoop


class JobWriter:
    """Stores single jobs. Each request awaits its own; those that wait meanwhile share the next commit."""

    def __init__(self, database: Database, *, max_waiting_jobs: int = MAX_WAITING_JOBS) -> None:
        self._database = database
        # None ends the thread, after it has stored whatever came before.
        self._waiting: queue.Queue[_Waiting | None] = queue.Queue(max_waiting_jobs)
        self._thread = threading.Thread(target=self._run, name="job-writer", daemon=True)
        self._closing = False

    def start(self) -> None:
        """Start the writer thread."""
        self._thread.start()

    def close(self) -> None:
        """Store what waits, then end. Blocks for up to 30 s; call it off the event loop."""
        self._closing = True
        ends_at = time.monotonic() + CLOSE_TIMEOUT_SECONDS
        with suppress(queue.Full):
            # It stays full while the database does not answer.
            self._waiting.put(None, timeout=CLOSE_TIMEOUT_SECONDS)
        self._thread.join(max(ends_at - time.monotonic(), 0.0))
        # A request that slipped in behind the end, or whose turn has not come, must not wait for ever.
        with suppress(queue.Empty):
            while True:
                if (late := self._waiting.get_nowait()) is not None:
                    _answer([late], StoreUnavailable("The server is stopping."))

    async def write(self, job: NewJob) -> SubmissionResult:
        """Return which job answers the submission, once that is committed.

        Raises:
            StoreUnavailable: the database did not answer, too many jobs wait, or the server is stopping.
            StoreRefused: the database will not take this job.
        """
        if self._closing:
            raise StoreUnavailable("The server is stopping.")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(job, loop.create_future(), loop)
        try:
            self._waiting.put_nowait(waiting)
        except queue.Full:
            raise StoreUnavailable(f"{self._waiting.maxsize} jobs already wait to be stored.") from None
        return await waiting.answer

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            group, ended = self._gather(first)
            try:
                self._store_group(group)
            except StoreUnavailable as error:
                _answer(group, error)
            except Exception as error:
                # A service loop, one of the three edges: without its thread all requests would wait for ever.
                logger.exception("job_writer_failed", extra={"jobs": len(group)})
                _answer(group, error)
            if ended:
                return

    def _gather(self, first: _Waiting) -> tuple[list[_Waiting], bool]:
        group = [first]
        while len(group) < MAX_GROUP_JOBS:
            try:
                waiting = self._waiting.get_nowait()
            except queue.Empty:
                break
            if waiting is None:
                return group, True
            group.append(waiting)
        return group, False

    def _store_group(self, group: Sequence[_Waiting]) -> None:
        """Store the jobs in one transaction, or each in its own when one is refused, and answer for each.

        Whatever it raises ends the group: the requests that are not answered yet get the error.
        """
        try:
            result = self._database.write(submissions.admit_jobs, [waiting.job for waiting in group])
        except StoreRefused as error:
            if len(group) == 1:
                _answer(group, error)
                return
            logger.warning("job_group_refused", extra={"jobs": len(group), "error": str(error)[:200]})
            for waiting in group:
                self._store_group([waiting])
        else:
            _answer(group, result)


def _answer(group: Sequence[_Waiting], outcome: Mapping[UUID, SubmissionResult] | Exception) -> None:
    """Wake the requests of a group: one call into each event loop, not one a request."""
    for loop in {waiting.loop for waiting in group}:
        here = [waiting for waiting in group if waiting.loop is loop]
        try:
            loop.call_soon_threadsafe(_settle, here, outcome)
        except RuntimeError:
            # The loop has closed, so nobody waits any more; the jobs keep the state that they have.
            logger.warning("job_writer_without_listener", extra={"jobs": len(here)})


def _settle(group: Sequence[_Waiting], outcome: Mapping[UUID, SubmissionResult] | Exception) -> None:
    for waiting in group:
        if waiting.answer.done():
            # The request was cancelled, or it was answered before the rest of its group failed.
            continue
        if isinstance(outcome, Exception):
            waiting.answer.set_exception(outcome)
        else:
            waiting.answer.set_result(outcome[waiting.job.id])
