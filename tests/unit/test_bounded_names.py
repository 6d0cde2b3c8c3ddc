"""Names that clients choose, as labels of metrics."""

from shared.bounded_names import BoundedNames


def test_the_first_names_are_told_apart_and_the_rest_is_one() -> None:
    names = BoundedNames(limit=2)

    assert [names.label(name) for name in ("a", "b", "a", "c", "b", "d")] == [
        "a",
        "b",
        "a",
        "other",
        "b",
        "other",
    ]
