"""Which bytes a request asks for, and whether it has them already."""

import pytest

from producer.api.bodies import RangeUnsatisfiable, names_etag, wanted_range


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (None, None),
        ("bytes=0-0", range(1)),
        ("bytes=2-5", range(2, 6)),
        ("Bytes= 2-5 ", range(2, 6)),
        ("bytes=5-", range(5, 10)),
        ("bytes=9-99999999999", range(9, 10)),
        ("bytes=-3", range(7, 10)),
        ("bytes=-99", range(10)),
        ("bytes=5-2", None),
        ("bytes=-", None),
        ("bytes=1-2,4-5", None),
        ("bytes=a-b", None),
        ("bytes=٢-٣", None),
        ("lines=1-2", None),
        ("bytes=" + "9" * 400 + "-", None),
    ],
)
def test_one_range_of_bytes_is_read_and_anything_else_is_everything(
    header: str | None, wanted: range | None
) -> None:
    assert wanted_range(header, 10) == wanted


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=10-", 10), ("bytes=-0", 10), ("bytes=0-", 0), ("bytes=-1", 0)]
)
def test_a_range_without_bytes_cannot_be_satisfied(header: str, size: int) -> None:
    with pytest.raises(RangeUnsatisfiable):
        wanted_range(header, size)


@pytest.mark.parametrize(
    ("header", "is_named"),
    [
        (None, False),
        ("", False),
        ('"b"', False),
        ('"a"', True),
        ('W/"a"', True),
        ('"x", "a"', True),
        ("*", True),
    ],
)
def test_a_version_is_named_by_its_etag(header: str | None, is_named: bool) -> None:
    assert names_etag(header, '"a"') is is_named
