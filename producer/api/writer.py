"""Group commit: what concurrent requests change is written by one thread, many changes in one transaction."""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from producer.records import NewJob, SubmissionResult
from producer.store import submissions
from producer.store.database import Connection, Database
from shared.errors import RetrieverError, StoreRefused, StoreUnavailable

logger = logging.getLogger(__name__)

Change = TypeVar("Change")
Answer = TypeVar("Answer")

MAX_WAITING_JOBS = 5_000
MAX_GROUP = 500
CLOSE_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[Change, Answer]):
    """A change that waits for its transaction, and the future that its request awaits."""

    change: Change
    answer: asyncio.Future[Answer]
    loop: asyncio.AbstractEventLoop


class GroupWriter(Generic[Change, Answer]):
    """Writes changes. Each request awaits its own; those that wait meanwhile share the next commit."""

    def __init__(
        self,
        database: Database,
        make: Callable[[Connection, Sequence[Change]], Sequence[Answer | RetrieverError]],
        *,
        of: str,
        max_waiting: int,
        max_group: int = MAX_GROUP,
    ) -> None:
        """Prepare a writer; its thread is not started yet.

        Args:
            make: Makes changes, and returns for each in their order what it came to. An error among these is
                the answer of one change that changes nothing; an error that is raised undoes all of them.
            of: What is changed, in the plural, for its thread's name and for what it says.
            max_waiting: How many changes may wait for their transaction.
            max_group: How many changes share a transaction at most.
        """
        self._database = database
        self._make = make
        self._max_group = max_group
        self._of = of
        # None ends the thread, after it has written whatever came before.
        self._waiting: queue.Queue[_Waiting[Change, Answer] | None] = queue.Queue(max_waiting)
        self._thread = threading.Thread(target=self._run, name=f"writer of {of}", daemon=True)
        self._closing = False

    def start(self) -> None:
        """Start the writer thread."""
        self._thread.start()

    def close(self) -> None:
        """Write what waits, then end. Blocks for up to 30 s; call it off the event loop."""
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
                    _answer([late], [StoreUnavailable("The server is stopping.")])

    async def write(self, change: Change) -> Answer:
        """Return what the change came to, once that is committed.

        Raises:
            StoreUnavailable: the database did not answer, too many wait, or the server is stopping.
            StoreRefused: the database will not take this.
            RetrieverError: the change came to it.
        """
        if self._closing:
            raise StoreUnavailable("The server is stopping.")
        loop = asyncio.get_running_loop()
        waiting: _Waiting[Change, Answer] = _Waiting(change, loop.create_future(), loop)
        try:
            self._waiting.put_nowait(waiting)
        except queue.Full:
            raise StoreUnavailable(f"{self._waiting.maxsize} {self._of} already wait to be stored.") from None
        return await waiting.answer

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            group, ended = self._gather(first)
            try:
                self._write_group(group)
            except StoreUnavailable as error:
                _answer(group, [error] * len(group))
            except Exception as error:
                # A service loop, another edge: without its thread all requests would wait for ever.
                logger.exception("writer_failed", extra={"of": self._of})
                _answer(group, [error] * len(group))
            if ended:
                return

    def _gather(self, first: _Waiting[Change, Answer]) -> tuple[list[_Waiting[Change, Answer]], bool]:
        group = [first]
        while len(group) < self._max_group:
            try:
                waiting = self._waiting.get_nowait()
            except queue.Empty:
                break
            if waiting is None:
                return group, True
            group.append(waiting)
        return group, False

    def _write_group(self, group: Sequence[_Waiting[Change, Answer]]) -> None:
        """Make the changes in one transaction, or each in its own when one cannot be made; answer for each.

        Raises:
            StoreUnavailable: the database did not answer; nobody is answered who is not yet.
        """
        # Who has left wants none: a task that is picked for nobody is lost to all until its lease ends.
        group = [waiting for waiting in group if not waiting.answer.cancelled()]
        if not group:
            return
        try:
            answers = self._database.write(self._make, [waiting.change for waiting in group])
        except StoreUnavailable:
            raise
        except Exception as error:
            # One of the three edges: a change must not take those beside it with it.
            if len(group) == 1:
                if not isinstance(error, StoreRefused):
                    logger.exception("writer_failed", extra={"of": self._of})
                _answer(group, [error])
                return
            told = {"of": self._of, "changes": len(group), "error": repr(error)[:200]}
            logger.warning("group_refused", extra=told)
            for waiting in group:
                self._write_group([waiting])
        else:
            _answer(group, answers)


class JobWriter(GroupWriter[NewJob, SubmissionResult]):
    """Stores single jobs, and says which job answers each submission."""

    def __init__(self, database: Database, *, max_waiting_jobs: int = MAX_WAITING_JOBS) -> None:
        super().__init__(database, _admit, of="jobs", max_waiting=max_waiting_jobs)


def _admit(connection: Connection, jobs: Sequence[NewJob]) -> list[SubmissionResult | RetrieverError]:
    results = submissions.admit_jobs(connection, jobs)
    return [results[job.id].refusal or results[job.id] for job in jobs]


def _answer(group: Sequence[_Waiting[Change, Answer]], answers: Sequence[Answer | Exception]) -> None:
    """Wake the requests of a group: one call into each event loop, not one a request."""
    answered = list(zip(group, answers, strict=True))
    for loop in {waiting.loop for waiting in group}:
        here = [each for each in answered if each[0].loop is loop]
        try:
            loop.call_soon_threadsafe(_settle, here)
        except RuntimeError:
            # The loop has closed, so nobody waits any more; what is committed stays.
            logger.warning("writer_without_listener", extra={"changes": len(here)})


def _settle(answered: Sequence[tuple[_Waiting[Change, Answer], Answer | Exception]]) -> None:
    for waiting, answer in answered:
        if waiting.answer.done():
            # The request was cancelled, or it was answered before the rest of its group failed.
            continue
        if isinstance(answer, Exception):
            waiting.answer.set_exception(answer)
        else:
            waiting.answer.set_result(answer)
