"""Times as everybody sends them to us: RFC 3339 section 5.6 and nothing else.

pydantic alone takes "2026" for a second of 1970, and `datetime.fromisoformat` a date or a week for midnight.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic_core import PydanticCustomError, core_schema

TIME_PATTERN: Final = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]+)?"
    r"([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)
"""A leap second has no place among the seconds that databases and Python count, so it is not taken."""

MAX_TIME_LENGTH: Final = 64
NOT_RFC_3339: Final = "Must be a time as in RFC 3339, with an offset: 2026-12-01T12:00:00Z"

_TIME = re.compile(TIME_PATTERN)


def parse_time(text: str) -> datetime:
    """Return the time that a text says, with its offset; a fraction is cut to microseconds.

    Raises:
        ValueError: it is not RFC 3339, or there is no such time; the message says which.
    """
    # `fullmatch`: Python's `$` also matches before a line feed at the end.
    if len(text) > MAX_TIME_LENGTH or not _TIME.fullmatch(text):
        raise ValueError(NOT_RFC_3339)
    return _existing_time(text)


@dataclass(frozen=True, slots=True)
class Rfc3339:
    """What pydantic reads a field of a model by: text in JSON, text or an aware `datetime` from Python.

    Without bounds the first and last day of the calendar are taken at any offset: their UTC may be no
    `datetime`, so compare them, and do not convert them.
    """

    earliest: datetime | None = None
    latest: datetime | None = None

    def __get_pydantic_core_schema__(self, _source: object, _handler: object) -> core_schema.CoreSchema:
        """Return the schema: what costs time is done outside Python."""
        written = _named(
            core_schema.str_schema(pattern=TIME_PATTERN, max_length=MAX_TIME_LENGTH, strict=True)
        )
        text: core_schema.CoreSchema
        if self.earliest is not None and self.latest is not None:
            # Nothing is left for Python to do.
            between = core_schema.datetime_schema(tz_constraint="aware", ge=self.earliest, le=self.latest)
            text = core_schema.chain_schema([written, between])
        else:
            text = core_schema.no_info_after_validator_function(self._read, written)
        made = core_schema.datetime_schema(
            strict=True, tz_constraint="aware", ge=self.earliest, le=self.latest
        )
        return core_schema.json_or_python_schema(
            text,
            _named(core_schema.union_schema([made, text], mode="left_to_right")),
            serialization=core_schema.simple_ser_schema("datetime"),
        )

    def __get_pydantic_json_schema__(self, _schema: object, _handler: object) -> dict[str, Any]:
        """Return what the contract says of the field."""
        return {"type": "string", "format": "date-time"}

    def _read(self, text: str) -> datetime:
        try:
            at = _existing_time(text)
        except ValueError as error:
            raise PydanticCustomError("time", "{why}", {"why": str(error)}) from None
        if self.earliest is not None and at < self.earliest:
            raise PydanticCustomError("time", "Must not be before {at}", {"at": self.earliest.isoformat()})
        if self.latest is not None and at > self.latest:
            raise PydanticCustomError("time", "Must not be after {at}", {"at": self.latest.isoformat()})
        return at


Rfc3339Time = Annotated[datetime, Rfc3339()]
"""An aware time."""

LAST_WIRE_TIME: Final = datetime(2200, 1, 1, tzinfo=UTC)
WireTime = Annotated[datetime, Rfc3339(earliest=datetime(1970, 1, 1, tzinfo=UTC), latest=LAST_WIRE_TIME)]
"""A time in a message: no wait, grace or offset that is added to it leads out of the calendar."""


def _named(schema: core_schema.CoreSchema) -> core_schema.CoreSchema:
    # A person gets an example instead of the pattern.
    return core_schema.custom_error_schema(
        schema, custom_error_type="time", custom_error_message=NOT_RFC_3339
    )


def _existing_time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text.upper())
    except ValueError as error:
        raise ValueError(f"There is no such time: {error}") from None
