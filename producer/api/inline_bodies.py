"""The body that a small fetch left in its result, as octets. Pure."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TEXT = "text/plain"


@dataclass(frozen=True, slots=True)
class InlineBody:
    """A body in a result; what was text is UTF-8 here, whatever it was sent as."""

    content: bytes
    content_type: str | None
    sha256: str


def inline_body(result: Mapping[str, Any] | None) -> InlineBody | None:
    """Return the body in a result, or None when it has none."""
    said = result or {}
    declared = said.get("content_type")
    if isinstance(text := said.get("body"), str):
        return _inline(text.encode("utf-8", "replace"), _in_utf_8(declared))
    if isinstance(encoded := said.get("body_base64"), str):
        try:
            return _inline(base64.b64decode(encoded, validate=True), declared and str(declared))
        except ValueError:
            return None
    return None


def _inline(content: bytes, content_type: str | None) -> InlineBody:
    return InlineBody(content, content_type, hashlib.sha256(content).hexdigest())


def _in_utf_8(content_type: object) -> str:
    essence = str(content_type or TEXT).partition(";")[0].strip()
    return f"{essence}; charset=utf-8"
