"""Publishing the reports of attempts that end in the same moment as one message."""

import asyncio
from collections.abc import Sequence
from functools import partial

from shared.broker.bundle import NDJSON, bundled
from shared.broker.outgoing import Outgoing
from shared.broker.publisher import Publisher
from shared.messages import REPORTS_TYPE

# Reports that come while a message is on its way go with the next, once that is confirmed; a slow broker
# holds them up no longer than this.
_GATHER_SECONDS = 0.005
# The size of one message: small beside what a recorder writes in one transaction.
MESSAGE_BYTES = 131_072

_Waiting = tuple[Outgoing, asyncio.Future[None]]


class ReportBatcher:
    """Publishes reports, several in one message; each waits until the broker has it on disk."""

    def __init__(self, publisher: Publisher) -> None:
        """Make one that holds nothing back yet."""
        self._publisher = publisher
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sent_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: dict[str, list[_Waiting]] = {}
        self._publishing: set[asyncio.Future[None]] = set()

    def publish(self, report: Outgoing) -> asyncio.Future[None]:
        """Publish a report, together with others of the same milliseconds and routing key.

        Returns:
            A future that is done when the broker has it on disk, and fails as `Publisher.publish` does.
        """
        # Kept, because looking for the running loop is a system call.
        loop = self._loop = self._loop or asyncio.get_running_loop()
        answer = loop.create_future()
        if not self._waiting:
            at = max(self._sent_at + _GATHER_SECONDS, loop.time()) if self._publishing else loop.time()
            self._timer = loop.call_at(at, self._send_all, loop)
        self._waiting.setdefault(report.routing_key, []).append((report, answer))
        return answer

    def _send_all(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sent_at, self._timer = loop.time(), None
        waiting, self._waiting = self._waiting, {}
        for reports in waiting.values():
            while reports:
                group = _first_of(reports)
                del reports[: len(group)]
                publishing = self._publisher.begin(_message(group))
                # Kept, or the loop could drop one that waits for a connection.
                self._publishing.add(publishing)
                publishing.add_done_callback(partial(self._tell, group))

    def _tell(self, group: Sequence[_Waiting], publishing: asyncio.Future[None]) -> None:
        self._publishing.discard(publishing)
        if not self._publishing and self._timer is not None:
            self._timer.cancel()
            self._send_all(publishing.get_loop())
        error = asyncio.CancelledError() if publishing.cancelled() else publishing.exception()
        for _, answer in group:
            if answer.done():
                continue
            if error is None:
                answer.set_result(None)
            else:
                answer.set_exception(error)


def _first_of(reports: Sequence[_Waiting]) -> list[_Waiting]:
    """Return as many as one message may carry, at least one."""
    size, group = 0, list[_Waiting]()
    for waiting in reports:
        size += len(waiting[0].body)
        if group and size > MESSAGE_BYTES:
            break
        group.append(waiting)
    return group


def _message(group: Sequence[_Waiting]) -> Outgoing:
    first = group[0][0]
    if len(group) == 1:
        return first
    body = bundled(report.body for report, _ in group)
    return Outgoing(first.exchange, first.routing_key, body, REPORTS_TYPE, content_type=NDJSON)
