"""What both clients share: settings, queries, retries, and lines that are kept to be sent again."""

import json
import os
import random
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final

from retriever_client.errors import RetrieverError

DEFAULT_URL: Final = "http://127.0.0.1:8080"
# Answers after which the same request is sent again; each that changes something has an Idempotency-Key.
RETRIED: Final = frozenset({408, 429, 502, 503, 504})
# Of one long poll; the service allows 60 seconds, and proxies often half of that.
POLL_SECONDS: Final = 20
# The service sends something every 15 seconds.
STREAM_SECONDS: Final = 45.0
PAGE: Final = 500
NDJSON: Final = "application/x-ndjson"
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 20.0
# Who is told to come back later than that is told so.
LONGEST_RETRY_AFTER_SECONDS: Final = 120.0
_SPOOL_BYTES = 1_048_576
_CHUNK_BYTES = 65_536

Query = list[tuple[str, str | int | float | bool | None]]
Labels = Mapping[str, str]
Item = str | Mapping[str, Any]


def find_url(url: str | None) -> str:
    """Return the address of the service: given, or RETRIEVER_URL, or that of a service on this machine."""
    return (url or os.environ.get("RETRIEVER_URL") or DEFAULT_URL).rstrip("/")


def find_key(key: str | None) -> str | None:
    """Return the key: given, or what RETRIEVER_KEY_FILE has, or RETRIEVER_KEY; None without one.

    Raises:
        RetrieverError: the file cannot be read.
    """
    if key is not None:
        return key or None
    if path := os.environ.get("RETRIEVER_KEY_FILE"):
        try:
            return Path(path).read_text(encoding="utf-8").strip() or None
        except OSError as error:
            raise RetrieverError(f"RETRIEVER_KEY_FILE cannot be read: {error}") from error
    return os.environ.get("RETRIEVER_KEY") or None


def new_key() -> str:
    """Return an Idempotency-Key that nobody else has."""
    return f"py-{uuid.uuid4()}"


def query_of(**params: Any) -> Query:
    """Return parameters of a query; what is None is left out, and what is a list is sent item by item."""
    return [
        (name, _text(each))
        for name, value in params.items()
        if value is not None
        for each in (value if isinstance(value, list | tuple) else [value])
    ]


def label_texts(labels: Labels | None) -> list[str]:
    """Return labels as a query has them."""
    return [f"{name}:{value}" for name, value in (labels or {}).items()]


def document_of(**fields: Any) -> dict[str, Any]:
    """Return a document without what is None, times as text."""
    return {name: _json_value(value) for name, value in fields.items() if value is not None}


def pause_seconds(tries: int, retry_after: float | None) -> float:
    """Return how long to wait before a request is sent again: as the service says, else doubling, jittered.

    Args:
        tries: How often it was sent, from 1.
        retry_after: Seconds, as the last answer said.
    """
    jittered = random.uniform(0, min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2**tries))
    return jittered if retry_after is None else retry_after + min(1.0, jittered)


def read_retry_after(text: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which may be a time (RFC 9110 section 10.2.3)."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (at.astimezone(UTC) - datetime.now(UTC)).total_seconds())


def id_of(thing: Any) -> str:
    """Return the id of a model, or the id itself."""
    return thing if isinstance(thing, str) else str(thing.id)


class LineSpool:
    """The lines of a batch, on disk when they are many: sent again, they are the same.

    So any iterable is read once, in constant memory, before anything is sent; if it fails, nothing was.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_SPOOL_BYTES)  # noqa: SIM115 - closed by `close`
        self.count = 0

    def add(self, item: Item) -> None:
        """Keep one item: a URL, or the arguments of a job with its `ref` if it has one."""
        self.count += 1
        line = {"url": item} if isinstance(item, str) else _json_value(item)
        self._file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def chunks(self) -> Iterator[bytes]:
        """Yield all lines from the first on."""
        self._file.seek(0)
        while chunk := self._file.read(_CHUNK_BYTES):
            yield chunk

    async def chunks_async(self) -> AsyncIterator[bytes]:
        """Yield all lines from the first on; the file was written a moment ago, so it is in memory still."""
        for chunk in self.chunks():
            yield chunk

    def close(self) -> None:
        """Forget the lines."""
        self._file.close()


def _text(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case datetime():
            return value.isoformat()
        case Mapping():
            return json.dumps(_json_value(value))
        case _:
            return str(value)


def _json_value(value: Any) -> Any:
    match value:
        case datetime():
            return value.isoformat()
        case Mapping():
            return {name: _json_value(each) for name, each in value.items()}
        case str() | bytes():
            return value
        case Sequence():
            return [_json_value(each) for each in value]
        case _:
            return value
