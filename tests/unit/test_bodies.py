"""A stored body is what it says, or it is none."""

import gzip
import tracemalloc
from typing import Any

import pytest

from shared.bodies import MAX_BODY_BYTES, StoredBody
from tests.support.bodies import compress_body

BODY = b"the body " * 1_000


def stored(**changes: Any) -> StoredBody:
    body = compress_body(BODY, content_type=None, charset=None)
    assert body is not None
    return body.model_copy(update=changes)


def test_a_body_that_a_worker_compressed_is_as_it_says() -> None:
    assert stored().is_as_said()


@pytest.mark.parametrize(
    "changes",
    [
        {"size": len(BODY) - 1},
        {"size": len(BODY) + 1},
        {"size": 0},
        {"sha256": "0" * 64},
        {"content": b""},
        {"content": b"the body"},
        {"content": gzip.compress(BODY)[:-9]},
        {"content": gzip.compress(BODY) + b"x"},
        {"content": gzip.compress(BODY[:4]) + gzip.compress(BODY[4:])},
        {"content": gzip.compress(BODY).replace(b"\x1f\x8b", b"\x1f\x8c")},
    ],
    ids=[
        "shorter",
        "longer",
        "empty",
        "digest",
        "nothing",
        "no gzip",
        "cut",
        "more",
        "two members",
        "no mark",
    ],
)
def test_a_body_that_is_other_than_it_says_is_found_out(changes: dict[str, Any]) -> None:
    assert not stored(**changes).is_as_said()


def test_a_bomb_is_found_out_in_the_memory_of_its_compressed_size() -> None:
    bomb = stored(content=gzip.compress(bytes(8 * MAX_BODY_BYTES), 9), size=len(BODY))
    tracemalloc.start()

    assert not bomb.is_as_said()

    assert tracemalloc.get_traced_memory()[1] < 4 * 1_048_576
    tracemalloc.stop()
