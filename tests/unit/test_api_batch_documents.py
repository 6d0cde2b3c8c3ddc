"""A large JSON batch is read an item at a time, and says what it would say if it were read at once."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.api import batch_documents
from producer.api.batch_documents import BatchDocument
from shared.errors import FieldError, JobInvalid

Read = tuple[dict[str, Any], list[object]]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def read(body: bytes) -> Read:
    document = BatchDocument(body)
    while (submission := document.scan()) is None:
        pass
    said = submission.model_dump(exclude={"items"}, exclude_unset=True)
    return said, [item.document for item in document.items()]


def place(read: Callable[[bytes], Read], body: bytes) -> str:
    with pytest.raises(JobInvalid) as caught:
        read(body)
    return caught.value.errors[0].loc


def read_in_pieces(body: bytes, *, window: int = 16) -> Read:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_documents, "LARGE_BODY_BYTES", -1)
        patch.setattr(batch_documents, "PART_ITEMS", 3)
        patch.setattr(batch_documents, "_FIRST_WINDOW", window)
        return read(body)


@given(
    items=st.lists(JSON, min_size=1, max_size=12),
    window=st.integers(1, 40),
    indent=st.booleans(),
    last=st.booleans(),
)
def test_a_batch_says_the_same_however_it_is_read(
    items: list[object], window: int, indent: bool, last: bool
) -> None:
    beside = {"kind": "check", "labels": {"team": '[1,{]\\"'}, "defaults": {"max_redirects": 1}}
    document = {**beside, "items": items} if last else {"items": items, **beside}
    body = orjson.dumps(document, option=orjson.OPT_INDENT_2 if indent else None)

    assert read_in_pieces(body, window=window) == read(body)


@pytest.mark.parametrize(
    "item",
    [
        b'{"a": 1, "a": 2}',
        b"18446744073709551616",
        b'{"a": {"b": -9223372036854775809}}',
        b"1e5",
        b'"\\u0041 \xc3\xa9"',
        b"[" * 150 + b"]" * 150,
    ],
)
def test_an_item_that_is_refused_is_so_in_its_place(item: bytes) -> None:
    body = b'{"kind": "check", "items": [1, ' + item + b", 2]}"

    assert read_in_pieces(body) == read(body)


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        (b'{"kind": "check", "items": []}', "/items"),
        (b'{"kind": "check"}', "/items"),
        (b'{"kind": "check", "items": 5}', "/items"),
        (b'{"kind": "check", "items": [1], "other": 5}', "/other"),
        (b'{"items": [1]}', "/kind"),
        (b'{"kind": "check", "kind": "check", "items": [1]}', "/kind"),
        (b'{"kind": "check", "items": [1], "items": [1]}', "/items"),
        (b'{"kind": "check", "items": [1], "items": 2}', "/items"),
        (b'{"kind": 5, "items": [1]}', "/kind"),
        (b"[1, 2]", ""),
        (b"{}", "/kind"),
        (b'{"kind": "check", "items": [1', ""),
        (b'{"kind": "check", "items": [1 2]}', ""),
        (b'{"kind": "check", "items": [1,]}', ""),
        (b'{"kind": "check", "items": [1],}', ""),
        (b'{"kind": "check", "items": [NaN]}', ""),
        (b'{"kind": "check", "items": ["\\ud800"]}', ""),
        (b'{"kind": "check", "items": [1]} 5', ""),
        (b'{"kind" "check"}', ""),
        (b'{"kind: "check"}', ""),
        (b'{5: "check"}', ""),
        (b'{"kind": "check", "items": ["\xff"]}', ""),
        (b"", ""),
        (b"nonsense", ""),
    ],
)
def test_what_is_no_batch_is_refused_at_the_same_place(body: bytes, loc: str) -> None:
    assert (place(read, body), place(read_in_pieces, body)) == (loc, loc)


@pytest.mark.parametrize("levels", [199, 250, 5_000])
def test_what_is_nested_too_deeply_is_refused_at_the_same_place(levels: int) -> None:
    deep = b"[" * levels + b"]" * levels
    item = b'{"kind": "check", "items": [' + deep + b"]}"
    beside = b'{"kind": "check", "defaults": {"a": ' + deep + b'}, "items": [1]}'

    for body in (item, beside):
        assert (place(read, body), place(read_in_pieces, body)) == ("", "")


def test_one_item_may_be_as_long_as_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_documents, "MAX_ITEM_CHARACTERS", 1_000)
    fits = b'{"kind":"check","items":["' + b"x" * 900 + b'"]}'
    longer = b'{"kind":"check","items":[1,"' + b"x" * 5_000 + b'"]}'
    beside = b'{"kind":"check","labels":{"a":"' + b"x" * 900 + b'"},"defaults":{"b":"' + b"x" * 900
    beside += b'"},"items":[1]}'

    assert read_in_pieces(fits)[1] == ["x" * 900]
    for body, loc in ((longer, "/items/1"), (beside, "")):
        with pytest.raises(JobInvalid) as caught:
            read_in_pieces(body)
        assert caught.value.errors[0].loc == loc


def test_a_large_batch_is_read_in_pieces() -> None:
    body = b'{"kind":"check","items":[' + b"0," * 50_000 + b'{"a":1,"a":2}]}'

    said, items = read(body)

    assert (said, len(items), items[0]) == ({"kind": "check"}, 50_001, 0)
    assert items[-1] == FieldError("/items/50000/a", "The name comes twice in one object")
