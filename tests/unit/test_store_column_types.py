"""Tests of how values are stored: times, plain text and JSON documents."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql, sqlite

from producer.store.sql import Moment, PlainText, encode_document

SQLITE = sqlite.dialect()
POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]

documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(documents)
def test_a_document_comes_back_as_it_was(document: Any) -> None:
    text = encode_document(document)

    assert text.isascii()
    assert json.loads(text) == document


def test_what_json_does_not_know_becomes_null() -> None:
    assert encode_document({"a": [float("nan")], "b": (float("inf"), 1.5)}) == '{"a":[null],"b":[null,1.5]}'


@given(st.datetimes(timezones=st.just(UTC)))
def test_sqlite_keeps_a_time_to_the_microsecond(value: datetime) -> None:
    stored = Moment().process_bind_param(value, SQLITE)

    assert isinstance(stored, int)
    assert Moment().process_result_value(stored, SQLITE) == value


@pytest.mark.parametrize("dialect", [SQLITE, POSTGRESQL])
def test_a_time_of_any_zone_comes_back_in_utc(dialect: Any) -> None:
    kathmandu = timezone(timedelta(hours=5, minutes=45))

    stored = Moment().process_bind_param(datetime(2026, 1, 1, 5, 45, tzinfo=kathmandu), dialect)

    assert Moment().process_result_value(stored, dialect) == datetime(2026, 1, 1, tzinfo=UTC)


def test_a_time_at_the_edge_of_the_calendar_is_stored() -> None:
    west = timezone(-timedelta(hours=12))

    assert Moment().process_bind_param(datetime.max.replace(tzinfo=west), POSTGRESQL) == datetime.max.replace(
        tzinfo=UTC
    )


@pytest.mark.parametrize(
    ("given_text", "stored"),
    [("plain", "plain"), ("é😀", "é😀"), ("a\0b", "a\ufffdb"), ("\ud800é", "\ufffdé")],
)
def test_text_loses_only_what_no_database_holds(given_text: str, stored: str) -> None:
    assert PlainText().process_bind_param(given_text, POSTGRESQL) == stored
