r"""Stored JSON: single fields are read as they are stored, whatever strangers wrote beside them."""

import json
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.records import Telling
from producer.store.sql import encode_document
from producer.stored_json import NULL, StoredObject, embed, items_of, json_text, pick, scalar, text_of

LONE = ["\ud800", "\udbff", "\udc00", "\udfff"]
TEXTS = st.text(
    st.characters(codec=None) | st.sampled_from([*LONE, "\0", '"', "\\", "\ue000", "\ue800", "u"])
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
NODE_BOMB = "[" + "[]," * 400_000 + "[]]"


class Fields(msgspec.Struct):
    """Two fields of a document."""

    data: msgspec.Raw = NULL
    title: msgspec.Raw = NULL


DECODER = msgspec.json.Decoder(Fields)


@given(VALUES, VALUES, st.dictionaries(TEXTS, VALUES, max_size=3))
def test_fields_are_those_that_reading_the_whole_gives(data: Any, title: Any, others: dict[str, Any]) -> None:
    document = {**others, "data": data, "title": title}

    picked = pick(StoredObject(encode_document(document)), DECODER)

    assert json.loads(text_of(picked.data)) == json.loads(encode_document(data))
    assert json.loads(text_of(picked.title)) == json.loads(encode_document(title))
    if not isinstance(title, list | dict):
        assert scalar(picked.title) == json.loads(encode_document(title))


@given(st.lists(VALUES, max_size=6))
def test_items_are_given_as_they_are_stored(items: list[Any]) -> None:
    picked = pick(StoredObject(encode_document({"data": items})), DECODER)

    found = items_of(picked.data)
    assert b"[%b]" % b",".join(found) == text_of(picked.data).encode()
    assert [json.loads(each) for each in found] == json.loads(encode_document(items))


@pytest.mark.parametrize("field", ["null", "5", '"[1]"', '{"a":[1]}'])
def test_what_is_no_list_has_no_items(field: str) -> None:
    assert items_of(msgspec.Raw(field.encode())) == []


@pytest.mark.parametrize("text", [None, "{}", '{"title":null}', '{"title":{"a":1}}', '{"title":[1]}'])
def test_a_field_that_is_missing_or_no_scalar_has_no_value(text: str | None) -> None:
    assert scalar(pick(StoredObject(text) if text else None, DECODER).title) is None


@pytest.mark.parametrize(("number", "value"), [("1e999", float("inf")), ("9" * 30, int("9" * 30)), ("-0", 0)])
def test_numbers_of_any_size_are_values(number: str, value: float) -> None:
    assert scalar(msgspec.Raw(number.encode())) == value


def test_a_text_with_every_escape_for_private_use_still_gives_its_other_fields() -> None:
    text = r'{"a":"\ud800\ue000\ue800\uf000","title":"x"}'

    assert scalar(pick(StoredObject(text), DECODER).title) == "x"


def test_a_document_of_a_million_values_is_never_built_to_show_a_few_fields() -> None:
    stored = StoredObject('{"output":' + NODE_BOMB + ',"exit_code":3,"status":200,"title":"\\ud800"}')
    tracemalloc.start()

    telling = Telling.of(stored)
    shown = embed(b'{"id":1}', result=json_text(stored))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert (telling.exit_code, telling.status, telling.title) == (3, 200, "\ud800")
    assert shown.startswith(b'{"id":1,"result":{"output":[[],[]')
    assert peak < 8 * len(stored.text)


def test_a_stored_object_is_read_like_any_other_and_shows_none_of_it_in_logs() -> None:
    stored = StoredObject('{"a":1,"b":"secret"}')

    assert (stored["a"], dict(stored), len(stored)) == (1, {"a": 1, "b": "secret"}, 2)
    assert stored == {"a": 1, "b": "secret"}
    assert "secret" not in repr(stored)
