"""Which texts are times: RFC 3339 and nothing else, in models and in queries alike."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from shared.times import Rfc3339, Rfc3339Time, parse_time

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)
CENTURY = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


class Timed(BaseModel):
    """A document with a time."""

    at: Rfc3339Time


class Bounded(BaseModel):
    """A document with a time of this century."""

    at: Annotated[datetime, Rfc3339(*CENTURY)]


def read(value: object, model: type[Timed | Bounded] = Timed) -> datetime:
    return model.model_validate_json(json.dumps({"at": value}), strict=True).at


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-12-01T12:00:00Z", NOON),
        ("2026-12-01t12:00:00z", NOON),
        ("2026-12-01T12:00:00-00:00", NOON),
        ("2026-12-02T02:00:00+14:00", NOON),
        ("2026-12-01T12:00:00.5Z", NOON + timedelta(seconds=0.5)),
        ("2026-12-01T12:00:00.123456789Z", NOON + timedelta(microseconds=123_456)),
        ("2026-12-02T11:59:00+23:59", NOON),
        ("0001-01-01T00:00:00Z", datetime.min.replace(tzinfo=UTC)),
        ("9999-12-31T23:59:59.999999Z", datetime.max.replace(tzinfo=UTC)),
        ("0001-01-01T00:00:00+14:00", datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))),
    ],
)
def test_a_time_of_rfc_3339_is_read(text: str, expected: datetime) -> None:
    assert read(text) == parse_time(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("20261201", "2026", "5", "1796126400", "-1", "1e9", "", "now", "2026-12-01", "12:00:00Z"),
        *("2026-W49-2", "2026-W49-2T12:00:00Z", "2026-335T12:00:00Z", "20261201T120000Z"),
        *("2026-12-01T12:00Z", "2026-12-01T12Z", "2026-12-01T12:00:00", "2026-12-01 12:00:00Z"),
        *("2026-12-01_12:00:00Z", "2026-12-01T12:00:00,5Z", "2026-12-01T12:00:00.Z"),
        *("2026-12-01T12:00:00+01", "2026-12-01T12:00:00+0100", "2026-12-01T12:00:00+24:00"),
        *("2026-12-01T12:00:00+01:60", "2026-12-01T12:00:00+01:00:30", "2026-12-01T12:00:00 Z"),
        *(
            " 2026-12-01T12:00:00Z",
            "2026-12-01T12:00:00Z\n",
            "2026-12-01T12:00:00Z ",
            "2026-12-01T12:00:00ZZ",
        ),
        *("2026-12-01T12:00:00\u221201:00", "\uff12026-12-01T12:00:00Z", "2026-12-01T1\u0662:00:00Z"),
        *("2026-12-01T24:00:00Z", "2026-12-01T12:60:00Z", "2016-12-31T23:59:60Z", "12026-12-01T12:00:00Z"),
        *("+2026-12-01T12:00:00Z", "2026-12-01T12:00:00." + "1" * 100 + "Z"),
    ],
)
def test_anything_else_is_no_time(text: str) -> None:
    with pytest.raises(ValidationError, match="RFC 3339"):
        read(text)

    with pytest.raises(ValueError, match="RFC 3339"):
        parse_time(text)


@pytest.mark.parametrize("value", [5, 5.5, 1796126400, -1, True, None, [], {}])
def test_a_number_is_no_time(value: object) -> None:
    with pytest.raises(ValidationError, match="RFC 3339"):
        read(value)


@pytest.mark.parametrize(
    "text",
    [
        *("2026-02-30T12:00:00Z", "2026-13-01T12:00:00Z", "2026-00-01T12:00:00Z", "2026-04-31T12:00:00Z"),
        *("2025-02-29T12:00:00Z", "0000-01-01T00:00:00Z"),
    ],
)
def test_a_time_that_does_not_exist_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValidationError, match="There is no such time"):
        read(text)

    with pytest.raises(ValueError, match="There is no such time"):
        parse_time(text)


@pytest.mark.parametrize(
    "text",
    [
        *("1999-12-31T23:59:59Z", "2000-01-01T00:00:00+00:01", "0001-01-01T00:00:00+14:00"),
        *("2100-01-01T00:00:00.000001Z", "9999-12-31T23:59:59-14:00"),
    ],
)
def test_a_time_outside_the_bounds_of_its_field_is_refused(text: str) -> None:
    # Messages are read leniently; with both bounds strictness would take no text.
    with pytest.raises(
        ValidationError, match=r"Input should be (greater than or equal to 2000|less than .* 2100)"
    ):
        Bounded.model_validate_json(json.dumps({"at": text}))

    with pytest.raises(ValidationError):
        Bounded.model_validate({"at": parse_time(text)})


def test_a_time_that_was_made_in_python_is_taken_as_it_is() -> None:
    assert Timed(at=NOON).at is NOON

    for naive in (NOON.replace(tzinfo=None), NOON.timestamp()):
        with pytest.raises(ValidationError):
            Timed.model_validate({"at": naive})


@given(
    st.text(max_size=40) | st.from_regex(r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{0,15}[Zz+-]?[0-9:]{0,6}\Z")
)
def test_models_and_queries_take_the_same_texts(text: str) -> None:
    try:
        expected = parse_time(text)
    except ValueError:
        with pytest.raises(ValidationError):
            read(text)
    else:
        assert read(text) == expected


def test_a_time_is_written_as_rfc_3339_and_described_as_a_date_time() -> None:
    assert Timed(at=NOON).model_dump_json() == '{"at":"2026-12-01T12:00:00Z"}'
    assert Timed.model_json_schema()["properties"]["at"] == {
        "format": "date-time",
        "title": "At",
        "type": "string",
    }
