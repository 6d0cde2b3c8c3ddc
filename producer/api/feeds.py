"""The stream of ends: server-sent events of ended jobs and complete batches, from any place on.

What a client wants is read from the store as fast as it reads, a page at a time, so a slow one costs a page
of memory. The format is that of the HTML standard, section 9.2 (https://html.spec.whatwg.org/multipage/).
"""

import asyncio
from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from producer.api.documents import batch_document, job_summary
from producer.api.end_waiters import EndWaiters, first_of
from producer.api.problems import RETRY_AFTER_SECONDS, HttpProblem
from producer.api.requests import Query, departure, read_caller, read_header
from producer.api.slow_work import caller_of
from producer.feed import FeedFilter, FeedPage, Place
from producer.records import BatchRecord, CallbackEvent, JobRecord
from producer.store import feed, queries
from producer.store.database import Connection, Store
from producer.turns import FairTurns, TurnNotCome
from shared.errors import FieldError
from shared.states import JobState

EVENT_STREAM: Final = "text/event-stream"
HEARTBEAT_SECONDS = 15.0
# Of a process; half of them for one caller.
MOST_STREAMS = 100
_PAGE_ENDS = 100
# Then the client comes back, with a key that has to open still.
LIFE_SECONDS = 900.0
# As long a client waits before it comes back, unless it is told otherwise.
_RETRY_MILLISECONDS = 2_000
_LAST_EVENT_ID = "Last-Event-ID"


class FeedHandlers:
    """Tells of ends as they come."""

    def __init__(self, store: Store, waiters: EndWaiters) -> None:
        self.store = store
        self.waiters = waiters
        self.streams = FairTurns(MOST_STREAMS, share=MOST_STREAMS // 2)

    async def stream_events(self, request: Request) -> Response:
        """Answer with the ends that match, from a place on, and go on as long as the client listens."""
        query, project = Query(request), read_caller(request).project
        asked = FeedFilter(
            batch_id=query.id("batch_id"),
            kind=query.text("kind"),
            states=[JobState(state) for state in query.texts("state")],
            labels=query.labels,
        )
        after = _read_place(request, query)
        after = await self.store.read(_begin, asked, project=project, after=after)
        is_followed = query.text("follow") != "false"
        return _EventStream(self, asked, project=project, after=after, is_followed=is_followed)


class _EventStream(Response):
    """Events, sent as fast as the client takes them; an empty one tells the place while there is none."""

    def __init__(
        self,
        handlers: FeedHandlers,
        asked: FeedFilter,
        *,
        project: str | None,
        after: Place,
        is_followed: bool,
    ) -> None:
        # Proxies such as nginx would hold back what is small.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(None, HTTPStatus.OK, headers, EVENT_STREAM)
        del self.headers["content-length"]
        self._store = handlers.store
        self._waiters = handlers.waiters
        self._streams = handlers.streams
        self._asked = asked
        self._project = project
        self._after = after
        self._is_followed = is_followed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; HEAD gets the headers alone.

        Raises:
            HttpProblem: 429 or 503: as many streams are open as may be.
        """
        request = Request(scope, receive)
        try:
            async with self._streams.turn(caller_of(request), wait_seconds=0.0):
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                if scope["method"] != "HEAD":
                    async with departure(request) as gone, self._waiters.following() as told:
                        await self._tell(caller_of(request), send, told, gone)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TurnNotCome as error:
            raise _turned_away(error, self._streams) from None

    async def _tell(self, caller: str, send: Send, told: asyncio.Event, gone: "asyncio.Future[None]") -> None:
        clock = asyncio.get_running_loop().time
        ends_at = clock() + LIFE_SECONDS
        await _send(send, b"retry: %d\nid: %b\n\n" % (_RETRY_MILLISECONDS, str(self._after).encode()))
        while not gone.done() and clock() < ends_at:
            told.clear()
            piece, page = await self._store.read_page(
                caller, _read_events, self._asked, project=self._project, after=self._after
            )
            is_at_end = page.is_last and not page.ends
            if piece:
                # Waits for a client that reads slowly; its connection ends when it is too slow.
                await _send(send, piece)
            self._after = page.following
            if is_at_end:
                if self._waiters.is_closed or not self._is_followed:
                    # The place at which to go on, also of those who found nothing.
                    await _send(send, _empty_event(self._after))
                    return
                await first_of(told, gone, wait_seconds=HEARTBEAT_SECONDS)
                if not told.is_set():
                    await _send(send, _empty_event(self._after))


def _read_place(request: Request, query: Query) -> Place | None:
    """Return the place that the client has come to, as a header or in the query; None without one."""
    named = read_header(request, _LAST_EVENT_ID)
    text = named if named is not None else query.text("after")
    if text is None:
        return None
    try:
        return Place.of(text)
    except ValueError as error:
        loc = f"/header/{_LAST_EVENT_ID}" if named is not None else "/query/after"
        detail = f"{loc}: {error}."
        raise HttpProblem(HTTPStatus.BAD_REQUEST, detail, errors=[FieldError(loc, str(error))]) from None


def _begin(connection: Connection, asked: FeedFilter, *, project: str | None, after: Place | None) -> Place:
    """Return the place to begin behind: the given one, or that of now."""
    if asked.batch_id is not None:
        queries.check_batch(connection, asked.batch_id, project=project)
    if after is None:
        return feed.head(connection)
    return max(after, feed.first_place(connection, asked, project=project))


def _read_events(
    connection: Connection, asked: FeedFilter, *, project: str | None, after: Place
) -> tuple[bytes, FeedPage]:
    page = feed.read_feed(connection, asked, project=project, after=after, limit=_PAGE_ENDS)
    return b"".join(_event(place, record) for place, record in page.ends), page


def _event(place: Place, record: JobRecord | BatchRecord) -> bytes:
    if isinstance(record, JobRecord):
        name, document = f"job.{record.state}", job_summary(record)
    else:
        name, document = CallbackEvent.BATCH_COMPLETED, batch_document(record).model_dump_json().encode()
    # JSON of others, passed on as it is stored, may have line feeds.
    data = document.replace(b"\r", b" ").replace(b"\n", b"\ndata: ")
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (str(place).encode(), name.encode(), data)


def _empty_event(place: Place) -> bytes:
    # Without data nothing is dispatched, but a client that comes back begins there.
    return b"id: %b\n\n" % str(place).encode()


async def _send(send: Send, piece: bytes) -> None:
    await send({"type": "http.response.body", "body": piece, "more_body": True})


def _turned_away(error: TurnNotCome, turns: FairTurns) -> HttpProblem:
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    if error.has_share:
        detail = f"{turns.share} streams of yours are open already, which is the most. Close one of them."
        return HttpProblem(HTTPStatus.TOO_MANY_REQUESTS, detail, headers=headers)
    detail = f"{turns.places} streams are open already, which is the most. Try again later."
    return HttpProblem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers=headers)
