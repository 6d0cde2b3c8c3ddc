"""What robots.txt files say to us, and how long it is remembered."""

import time

import pytest

from consumer.compute.answers import RobotsVerdict
from consumer.compute.robots import look_up
from consumer.http import robots
from consumer.http.robots import KEPT_SECONDS, KEPT_UNREACHABLE_SECONDS, RobotsCache, RobotsRules


def verdict(text: str, path: str = "/") -> RobotsVerdict:
    return look_up(text, "Retriever", f"https://example.com{path}")


@pytest.mark.parametrize(
    ("text", "path", "allowed"),
    [
        ("", "/a", True),
        ("User-agent: *\nDisallow: /", "/a", False),
        ("User-agent: *\nDisallow:", "/a", True),
        ("User-agent: other\nDisallow: /", "/a", True),
        ("User-agent: retriever\nDisallow: /private", "/private/1", False),
        ("User-agent: RETRIEVER # us\nDisallow: /private", "/private/1", False),
        # The group that names us counts, and not the one for all.
        ("User-agent: *\nDisallow: /\n\nUser-agent: Retriever\nAllow: /", "/a", True),
        ("User-agent: other\nUser-agent: Retriever\nDisallow: /", "/a", False),
        ("User-agent: Retriever\nDisallow: /a\n\nUser-agent: other\nDisallow: /b", "/b", True),
        # The longest rule wins (RFC 9309 section 2.2.2).
        ("User-agent: *\nDisallow: /a\nAllow: /a/b", "/a/b/c", True),
        ("User-agent: *\nDisallow: /*.pdf$", "/x.pdf", False),
        ("User-agent: *\nDisallow: /*.pdf$", "/x.pdf?a", True),
        ("\ufeff<html>not a robots file</html>", "/a", True),
    ],
)
def test_a_file_allows_or_denies_a_path(text: str, path: str, *, allowed: bool) -> None:
    assert verdict(text, path).allows is allowed


def test_a_crawl_delay_is_read() -> None:
    assert verdict("User-agent: *\nCrawl-delay: 2.5").crawl_delay_seconds == 2.5
    assert verdict("User-agent: *\nCrawl-delay: nan").crawl_delay_seconds is None
    assert verdict(f"User-agent: *\nCrawl-delay: {'9' * 5_000}").allows


def test_a_file_of_many_agents_and_rules_costs_neither_time_nor_memory() -> None:
    agents = "\n".join(f"User-agent: bot{number}" for number in range(10_000))
    paths = "\n".join(f"Disallow: /{number}" for number in range(10_000))
    started = time.thread_time()

    found = verdict(f"{agents}\n{paths}\nUser-agent: *\nDisallow: /private", "/private")

    assert not found.allows
    assert time.thread_time() - started < 5


def test_what_cannot_be_read_allows_nothing_and_is_asked_again_soon() -> None:
    cache, unreachable = RobotsCache(), RobotsRules("Retriever", is_reachable=False)
    cache.put("https://a.example", unreachable, now=0.0)
    cache.put("https://b.example", RobotsRules("Retriever"), now=0.0)

    assert cache.get("https://a.example", now=KEPT_UNREACHABLE_SECONDS + 1) is None
    assert cache.get("https://b.example", now=KEPT_SECONDS - 1) is not None
    assert cache.get("https://b.example", now=KEPT_SECONDS + 1) is None


def test_the_files_unused_the_longest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robots, "MAX_KEPT_BYTES", 4 * 1_024)
    cache = RobotsCache()
    for number in range(4):
        cache.put(f"https://{number}.example", RobotsRules("Retriever"), now=0.0)
    cache.get("https://0.example", now=1.0)

    cache.put("https://4.example", RobotsRules("Retriever"), now=1.0)
    cache.put("https://4.example", RobotsRules("Retriever"), now=1.0)

    kept = [number for number in range(5) if cache.get(f"https://{number}.example", now=1.0)]
    assert kept == [0, 2, 3, 4]
