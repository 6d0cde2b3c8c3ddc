"""Spoilt requests: none is a 500 or an error in a log, each refusal says why, and nothing grows."""

import os
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from pathlib import Path

import httptools
import pytest

from tests.fuzz.requests import Request, RequestFuzzer, read_document
from tests.fuzz.service import FuzzedApi
from tests.support.api import RawAnswer

REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "600"))
GROWTH_BYTES = 100 * 1_048_576
_ANSWER_SECONDS = 60.0
_EVENT_STREAM = "text/event-stream"
_PROBLEM = "application/problem+json"


@pytest.fixture
def api(database_url: str, tmp_path: Path) -> Iterator[FuzzedApi]:
    running = FuzzedApi(database_url, tmp_path)
    running.start()
    yield running
    running.stop()


def test_spoilt_requests_are_answered_truly_and_end_nothing(api: FuzzedApi, seed: int) -> None:
    fuzzer = RequestFuzzer(seed)
    wrong: list[str] = []
    statuses: Counter[int] = Counter()
    middle = 0
    for number in range(REQUESTS):
        request = fuzzer.request(number)
        answers = send(api.port, request)
        statuses.update(answer.status for answer in answers)
        if faults := [*faults_of(request, answers)]:
            wrong.append(f"request {number}: {faults}: {request.octets[:300]!r}")
        for answer in answers:
            fuzzer.learn(read_document(answer.body))
        if number == REQUESTS // 2:
            middle = api.resident_bytes()

    assert wrong == []
    assert api.errors() == []
    assert api.is_running
    # It did look at them: all sorts of answers, not one refusal of everything.
    assert {200, 202, 400, 404} <= statuses.keys(), statuses
    assert api.resident_bytes() - middle < GROWTH_BYTES
    assert api.end_in_order() in {0, 143, -15}
    assert api.errors() == []


def send(port: int, request: Request) -> Sequence[RawAnswer]:
    """Return the answers to a request that is sent on a connection of its own."""
    reader = _Reader(request.method)
    with socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_SECONDS) as connection:
        try:
            connection.sendall(request.octets)
            if not request.is_whole:
                # So that nobody waits for what is missing.
                connection.shutdown(socket.SHUT_WR)
            while not (request.is_whole and reader.answers) and (received := connection.recv(65_536)):
                reader.feed(received)
        except (ConnectionError, httptools.HttpParserError):
            # It was refused before all of it was sent; what came until then counts.
            pass
        except TimeoutError:
            reader.answers.append(RawAnswer(0, {}, b"no answer in time"))
    return reader.answers


def faults_of(request: Request, answers: Sequence[RawAnswer]) -> Iterator[str]:
    """Yield what is wrong with the answers to a request."""
    if request.is_whole and not answers:
        yield "no answer"
    for answer in answers:
        if answer.status >= 500 or answer.status < 100:
            yield f"status {answer.status} {answer.body[:200]!r}"
        elif answer.status >= HTTPStatus.BAD_REQUEST:
            yield from _faults_of_problem(request, answer)


def _faults_of_problem(request: Request, answer: RawAnswer) -> Iterator[str]:
    declared = answer.headers.get("content-type", "")
    if declared != _PROBLEM:
        yield f"{answer.status} is {declared!r}"
    if request.method == "HEAD":
        return
    problem = read_document(answer.body)
    if not isinstance(problem, dict) or problem.get("status") != answer.status:
        yield f"{answer.status} says {answer.body[:200]!r}"
    elif not {"type", "title"} <= problem.keys():
        yield f"{answer.status} has {sorted(problem)}"


class _Reader:
    """Reads the answers on a connection; one that is cut off counts as far as it came."""

    def __init__(self, method: str) -> None:
        self.answers: list[RawAnswer] = []
        self._is_head = method == "HEAD"
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, octets: bytes) -> None:
        self._parser.feed_data(octets)

    def on_message_begin(self) -> None:
        self._headers: dict[str, str] = {}
        self._body = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        # To HEAD no body follows, whatever the fields say, and a stream of events does not end by itself.
        if self._is_head or self._headers.get("content-type", "").startswith(_EVENT_STREAM):
            self.on_message_complete()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= HTTPStatus.OK and not (self._is_head and self.answers):
            self.answers.append(RawAnswer(status, self._headers, self._body))
