"""How values are stored, the same on SQLite and PostgreSQL: moments, plain text and JSON documents."""

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Made once: `json.dumps` with options makes one a call, and a batch has three documents a job.
_ENCODER = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"))


class Moment(TypeDecorator[datetime]):
    """An aware UTC time: `timestamptz` on PostgreSQL, integer microseconds since 1970 on SQLite.

    SQLite has no type for time; integers compare and sort right, and take a third of ISO text.
    A time without a zone is taken as UTC, because one careless report must not stop the recorder.
    """

    impl = sa.TIMESTAMP(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the column type of the dialect."""
        return dialect.type_descriptor(sa.BigInteger() if dialect.name == "sqlite" else self.impl_instance)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Return what the driver is given."""
        if value is None:
            return None
        utc = _as_utc(value)
        return (utc - _EPOCH) // _MICROSECOND if dialect.name == "sqlite" else utc

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Return the stored time, aware, in UTC."""
        if value is None:
            return None
        stored: datetime = _EPOCH + value * _MICROSECOND if dialect.name == "sqlite" else value
        return stored.astimezone(UTC)


class PlainText(TypeDecorator[str]):
    """Text that both databases can hold: NUL and lone surrogates become U+FFFD.

    PostgreSQL refuses NUL and no UTF-8 database holds a lone surrogate; an explanation quotes the
    outside world, and what it quotes must not keep an outcome from being recorded.
    """

    impl = sa.Text()
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return the text without what cannot be stored."""
        if value is None or (value.isascii() and "\0" not in value):
            return value
        return "".join(
            _REPLACEMENT if char == "\0" or "\ud800" <= char <= "\udfff" else char for char in value
        )


_MOMENT, _PLAIN_TEXT = Moment(), PlainText()


def bound_value(value: object, dialect: Dialect) -> Any:
    """Return what the driver is given for a value, where SQLAlchemy does not look at it."""
    match value:
        case None | int() | float():
            return value
        case str():
            return _PLAIN_TEXT.process_bind_param(value, dialect)
        case datetime():
            return _MOMENT.process_bind_param(value, dialect)
        case UUID():
            return value.hex
        case dict():
            return encode_document(value)
        case _:
            return value


def encode_document(document: Any) -> str:
    r"""Return a JSON document as ASCII text, so that `\u0000` and lone surrogates are kept as escapes.

    NaN and infinities become null: they are not JSON (RFC 8259 section 6) and PostgreSQL refuses them.
    """
    try:
        # Ten times as fast, and the same wherever all is ASCII.
        if (text := orjson.dumps(document)).isascii():
            return text.decode()
    except TypeError:
        # It takes no lone surrogate and no integer of more than 64 bits.
        pass
    try:
        return _ENCODER.encode(document)
    except ValueError:
        return _ENCODER.encode(_finite(document))


def _finite(value: Any) -> Any:
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case _:
            return value


def _as_utc(value: datetime) -> datetime:
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        # Within a day of year 1 or 9999 the zone's offset leads out of the calendar.
        return value.replace(tzinfo=UTC)
