"""Masks with digests: the same for the same value, wherever and however it stands, and nothing else of it."""

import json
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from producer.batch_validation import given_text
from producer.submission import find_kind, valid_args
from shared.errors import JobInvalid
from shared.log_lines import ConsoleFormatter, JsonLines
from shared.process import _use_mask_key
from shared.redaction import (
    MASK,
    digest_of,
    masked,
    masked_places,
    redact_args,
    redact_logged,
    redact_pairs,
    redact_query,
    redact_submission,
    redact_text,
    redact_url,
    redact_value,
    use_mask_key,
)
from shared.settings import Settings
from tests.unit.test_redaction import MALFORMED, PASSWORD, TEXTS, URLS

KEY = bytes(range(32))
FORM = re.compile(r"\*\*\*[0-9a-f]{6}")


@pytest.fixture(autouse=True)
def _with_key() -> Iterator[None]:
    use_mask_key(KEY)
    yield
    use_mask_key(None)


def test_the_mask_of_a_value_is_always_the_same_and_depends_on_the_key() -> None:
    first = masked(PASSWORD)
    assert FORM.fullmatch(first) and masked(PASSWORD) == first != masked(f"{PASSWORD}x")

    use_mask_key(bytes(32))
    assert FORM.fullmatch(masked(PASSWORD)) and masked(PASSWORD) != first

    use_mask_key(None)
    assert masked(PASSWORD) == MASK and digest_of(PASSWORD) is None


def test_the_key_comes_from_the_settings() -> None:
    before = masked(PASSWORD)

    use_mask_key(None)
    _use_mask_key(Settings(mask_key=SecretStr("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")))

    assert masked(PASSWORD) == before


SAME: list[tuple[Callable[[str], str], str]] = [
    (redact_text, "see https://{}@host.example/a?b"),
    (redact_url, "https://{}@host.example/"),
    (redact_url, "ftp://{}@host.example"),
    (redact_text, "https://h.example/?next=https%3A%2F%2F{}%40other.example%2F"),
    (redact_text, "https://h.example/?next=https%253A%252F%252F{}%2540other.example"),
    (redact_logged, "GET https://{}@host.example/ failed"),
]


@pytest.mark.parametrize(("redact", "text"), SAME)
@pytest.mark.parametrize("spelling", ["user:p4ss-word", "user%3Ap4ss-word", "user%253Ap4ss%252dword"])
def test_the_same_user_and_password_have_the_same_mask_wherever_and_however_they_stand(
    redact: Callable[[str], str], text: str, spelling: str
) -> None:
    assert redact(text.format(spelling)) == text.format(masked("user:p4ss-word"))


def test_they_have_it_without_a_scheme_too() -> None:
    assert redact_url("user:p4ss-word@host.example/x") == f"{masked('user:p4ss-word')}@host.example/x"


@pytest.mark.parametrize("formatter", [ConsoleFormatter(), JsonLines(process="test")])
def test_a_field_of_a_log_line_has_it_too(formatter: logging.Formatter) -> None:
    record = logging.makeLogRecord({"msg": "event", "api_key": PASSWORD, "facts": {"password": PASSWORD}})

    assert formatter.format(record).count(masked(PASSWORD)) == 2


def test_a_key_has_the_same_mask_in_documents_logs_and_rejected_lines() -> None:
    args = {"url": "https://a.example/", "headers": {"X-Api-Key": PASSWORD}, "json": {"api_key": PASSWORD}}
    line = json.dumps({"url": 7, "headers": {"X-Api-Key": PASSWORD}})
    expected = masked(PASSWORD)

    shown: dict[str, Any] = {**redact_args(args)}
    assert (shown["headers"]["X-Api-Key"], shown["json"]["api_key"]) == (expected, expected)
    assert redact_value({"password": PASSWORD, "in": [{"token": PASSWORD}]}) == {
        "password": expected,
        "in": [{"token": expected}],
    }
    assert redact_submission({"defaults": args})["defaults"]["headers"]["X-Api-Key"] == expected
    assert expected in str(given_text(line.encode()))
    assert redact_query(f"/a?token={PASSWORD}&b=1") == f"/a?token={expected}&b=1"
    assert redact_logged(f"Bearer {PASSWORD}") == f"Bearer {expected}"
    assert redact_pairs(f"{{'password': '{PASSWORD}', 'a': 1}}") == f"{{'password': '{expected}', 'a': 1}}"


@pytest.mark.parametrize("text", [f'{{"password": "{PASSWORD}', f'{{"password": "a\\"{PASSWORD}"}}'])
def test_what_was_cut_off_or_is_escaped_has_no_digest_that_would_be_another_values(text: str) -> None:
    shown = redact_pairs(text)

    assert MASK in shown and not FORM.search(shown)


def test_a_url_that_was_cut_within_its_password_has_no_digest() -> None:
    shown = redact_text(f"https://host.example/a https://user:{PASSWORD}"[:50])

    assert shown.endswith(MASK)


@pytest.mark.parametrize("url", URLS + MALFORMED)
def test_no_url_shows_its_password(url: str) -> None:
    assert PASSWORD not in redact_url(url) and MASK in redact_url(url)


@given(TEXTS)
def test_to_mask_twice_is_to_mask_once(text: str) -> None:
    use_mask_key(KEY)
    for redact in (redact_text, redact_url, redact_query, redact_pairs, redact_logged):
        once = redact(text)
        assert redact(once) == once


@given(st.recursive(TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=10))
def test_a_masked_value_is_masked(value: Any) -> None:
    use_mask_key(KEY)
    once = redact_value(value)

    assert redact_value(once) == once
    list(masked_places(once))


@pytest.mark.parametrize(
    ("args", "place"),
    [
        ({"url": "https://***7d1f0e@host.example/"}, "/args/url"),
        ({"url": "https://h.example/?next=https%3A%2F%2F***7d1f0e%40o.example"}, "/args/url"),
        ({"url": "https://h.example/", "headers": {"X-Api-Key": "***7d1f0e"}}, "/args/headers/X-Api-Key"),
    ],
)
def test_a_mask_with_a_digest_is_refused_when_it_comes_back(args: dict[str, Any], place: str) -> None:
    with pytest.raises(JobInvalid) as refused:
        valid_args(find_kind("check"), args)

    assert [error.loc for error in refused.value.errors] == [place]


def test_what_only_looks_a_little_like_a_mask_is_taken() -> None:
    args = {
        "url": "https://host.example/***7d1f0e",
        "headers": {"Accept": "***7d1f0e", "X-Api-Key": "***7d1f0eX"},
    }

    assert valid_args(find_kind("check"), args).document["headers"] == args["headers"]


def test_a_digest_is_made_of_lone_surrogates_too() -> None:
    assert FORM.fullmatch(masked("\ud800"))
