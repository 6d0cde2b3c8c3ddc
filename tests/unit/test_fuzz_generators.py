"""What the fuzzers make is the same for the same seed, so that what they find can be made again."""

from tests.fuzz.messages import MessageFuzzer
from tests.fuzz.requests import RequestFuzzer

NUMBERS = range(60)
KNOWN = ["01a203f7-2316-7400-922d-0a315fe2b95f"]


def test_a_seed_makes_the_same_messages_each_time_and_another_seed_makes_others() -> None:
    def messages(seed: int) -> list[object]:
        fuzzer = MessageFuzzer(seed=seed, site_url="http://a.example", known_ids=KNOWN)
        return [fuzzer.message(number) for number in NUMBERS]

    assert messages(1) == messages(1)
    assert messages(1) != messages(2)


def test_a_seed_makes_the_same_requests_each_time_and_most_of_them_are_whole() -> None:
    def requests(seed: int) -> list[object]:
        fuzzer = RequestFuzzer(seed)
        return [fuzzer.request(number) for number in NUMBERS]

    fuzzer = RequestFuzzer(1)
    whole = [fuzzer.request(number).is_whole for number in NUMBERS]

    assert requests(1) == requests(1)
    assert requests(1) != requests(2)
    assert sum(whole) > len(whole) / 2
