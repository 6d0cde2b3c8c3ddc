"""What a fetch keeps of a body: what an expression picks out of it, or the body itself, compressed. Pure."""

import hashlib

from consumer.compute.answers import Flaw, KeptBody, Picked
from consumer.compute.extract import EXTRACT_SECONDS, Budget, extract
from consumer.compute.json_body import read_json_body, text_label
from consumer.compute.judgement import SMALL_EXTRACT_SECONDS, SMALL_JSON_BYTES
from consumer.http.markup import Markup
from consumer.http.text import decode_text
from shared import exact_json
from shared.compression import compress


def pick(
    body: bytes, label: str | None, expression: str, *, extract_seconds: float = EXTRACT_SECONDS
) -> tuple[str, Picked | Flaw]:
    """Return the SHA-256 of a body, and what an expression picks out of it as JSON.

    Args:
        body: Its octets.
        label: The charset that was declared.
        expression: A JMESPath expression that compiles.
        extract_seconds: How much of the processor it may take.
    """
    return _pick(body, label, expression, Budget(extract_seconds))


def is_small_json(body: bytes) -> bool:
    """Return whether `pick_at_once` takes a few milliseconds at most."""
    return len(body) <= SMALL_JSON_BYTES


def pick_at_once(body: bytes, label: str | None, expression: str) -> tuple[str, Picked | Flaw] | None:
    """Return what `pick` returns, or None when the expression takes too long to be evaluated here."""
    budget = Budget(SMALL_EXTRACT_SECONDS)
    picked = _pick(body, label, expression, budget)
    return picked if budget.left_seconds > 0 else None


def _pick(body: bytes, label: str | None, expression: str, budget: Budget) -> tuple[str, Picked | Flaw]:
    sha256 = hashlib.sha256(body).hexdigest()
    read = read_json_body(body, label)
    if isinstance(read, Flaw):
        return sha256, read
    data = extract(read.document, expression, budget)
    if isinstance(data, Flaw):
        return sha256, data
    return sha256, Picked(exact_json.dumps(data), read.charset, read.is_exact)


def keep_body(
    body: bytes, content_type: str | None, charset: str | None, markup: Markup, *, is_shown: bool
) -> KeptBody:
    """Return a body as it is kept.

    Args:
        body: Its octets.
        content_type: As it was declared.
        charset: The charset that was declared.
        markup: What the body is declared to be.
        is_shown: Whether its text is part of the result; otherwise it is compressed.
    """
    text, name = decode_text(body, text_label(body, content_type, charset), markup) or (None, None)
    sha256 = hashlib.sha256(body).hexdigest()
    return KeptBody(None if is_shown else compress(body), sha256, name, text if is_shown else None)
