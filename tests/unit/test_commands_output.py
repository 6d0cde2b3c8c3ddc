"""Of what a program writes, beginning and end are kept."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from consumer.commands.output import StreamCapture
from shared.kinds.command import OutputText


def captured(*pieces: bytes, kept_bytes: int) -> OutputText:
    capture = StreamCapture(kept_bytes=kept_bytes)
    for piece in pieces:
        capture.add(piece)
    return capture.text()


def test_short_output_is_kept_whole() -> None:
    assert captured(b"ab", b"cdef", kept_bytes=6) == OutputText(text="abcdef", bytes=6)


def test_of_long_output_beginning_and_end_are_kept() -> None:
    assert captured(b"abcdefghij", b"klm", kept_bytes=4) == OutputText(
        text="ab", tail="lm", bytes=13, omitted_bytes=9
    )


def test_nothing_is_kept_when_nothing_is_asked_for() -> None:
    assert captured(b"abc", kept_bytes=0) == OutputText(bytes=3, omitted_bytes=3)


def test_a_character_that_would_be_cut_in_two_is_left_out() -> None:
    assert captured("aä".encode(), b"x" * 10, "öb".encode(), kept_bytes=4) == OutputText(
        text="a", tail="b", bytes=16, omitted_bytes=14
    )


def test_what_no_store_can_hold_is_replaced() -> None:
    assert captured(b"a\x00b\xffc", kept_bytes=10).text == "a\ufffdb\ufffdc"


@given(st.lists(st.binary(max_size=40), max_size=60), st.integers(0, 50))
def test_every_byte_is_kept_or_counted_as_omitted(pieces: list[bytes], kept_bytes: int) -> None:
    written = b"".join(piece.replace(b"\x00", b".").translate(_ASCII) for piece in pieces)
    output = captured(
        *(piece.replace(b"\x00", b".").translate(_ASCII) for piece in pieces), kept_bytes=kept_bytes
    )

    assert output.bytes == len(written)
    assert len(output.text) + len(output.tail) + output.omitted_bytes == len(written)
    assert written.startswith(output.text.encode()) and written.endswith(output.tail.encode())
    assert len(output.text) + len(output.tail) == min(kept_bytes, len(written))


_ASCII = bytes(octet % 64 + 32 for octet in range(256))


def test_memory_stays_flat_whatever_is_written() -> None:
    capture = StreamCapture(kept_bytes=65_536)
    tracemalloc.start()
    try:
        for _ in range(20_000):
            capture.add(b"x" * 7)
            capture.add(b"y" * 5_000)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert capture.text().bytes == 20_000 * 5_007
    assert peak_bytes < 1_000_000
