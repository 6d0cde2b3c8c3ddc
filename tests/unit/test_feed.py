"""Places in the feed of ends: their order, and their texts."""

from uuid import UUID

import pytest

from producer.api.contract import load_contract
from producer.feed import PLACE_PATTERN, Place

JOB, OTHER = UUID(int=1), UUID(int=2)


def test_places_follow_the_commits_and_in_one_the_batch_its_jobs() -> None:
    in_order = [Place(1), Place(2, False, JOB), Place(2, False, OTHER), Place(2, True, JOB), Place(2)]

    assert sorted([*in_order[2:], *in_order[:2]]) == in_order


@pytest.mark.parametrize("place", [Place(0), Place(7, False, JOB), Place(7, True, OTHER), Place(7)])
def test_a_place_is_read_from_its_text(place: Place) -> None:
    assert Place.of(str(place)) == place


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "1" * 19, "1-j", "1-x-" + "0" * 32, "1-j-" + "0" * 31, "1 ", "\u0661", "1\n"]
)
def test_what_names_no_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="place of no event"):
        Place.of(text)


def test_the_contract_takes_what_is_a_place() -> None:
    parameters = load_contract()["paths"]["/events"]["get"]["parameters"]
    patterns = {
        each["schema"]["pattern"] for each in parameters if each.get("name") in {"after", "Last-Event-ID"}
    }

    assert patterns == {PLACE_PATTERN}
