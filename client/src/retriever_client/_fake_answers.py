"""How the service in memory refuses, finds and pages; see `testing`."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2

Document = dict[str, Any]
Answer = tuple[int, Any]


class Refused(Exception):
    """An answer that is a problem document."""

    def __init__(self, status: int, type_: str, detail: str, *errors: tuple[str, str]) -> None:
        super().__init__(detail)
        self.status = status
        named = [{"loc": loc, "msg": msg} for loc, msg in errors]
        self.document: Document = {"type": type_, "title": type_, "status": status, "detail": detail}
        if named:
            self.document["errors"] = named


def found(things: Mapping[str, Document], id_: str, noun: str) -> Document:
    """Return a thing, or refuse."""
    if id_ not in things:
        raise Refused(404, f"urn:retriever:{noun}-not-found", f"No {noun} has this id.")
    return things[id_]


def invalid(loc: str, msg: str) -> Refused:
    """Return that something is not valid."""
    return Refused(400, "urn:retriever:job-invalid", f"{loc}: {msg}.", (loc, msg))


def document_of(body: bytes) -> Document:
    """Return the document of a body; nothing is an empty one."""
    if not body:
        return {}
    try:
        document = json.loads(body)
    except ValueError as error:
        raise invalid("", f"The body is not JSON: {error}") from None
    return document if isinstance(document, dict) else {}


def limit_of(request: httpx2.Request) -> int:
    """Return how many items a page has."""
    return int(request.url.params.get("limit", 100))


def page_of(
    request: httpx2.Request, items: list[Document], *, place: str = "cursor", key: str = "id"
) -> Answer:
    """Return a page of items that come one behind the other, by what they are called."""
    limit, cursor = limit_of(request), request.url.params.get(place)
    names = [each[key] for each in items]
    start = names.index(cursor) + 1 if cursor in names else 0
    page = items[start : start + limit]
    return 200, {"items": page, "next": page[-1][key] if len(items) > start + limit else None}


def now(ahead_seconds: float = 0.0) -> str:
    """Return the time, as the service writes it."""
    return (datetime.now(UTC) + timedelta(seconds=ahead_seconds)).isoformat().replace("+00:00", "Z")
