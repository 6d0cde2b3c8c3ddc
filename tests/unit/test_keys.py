"""The text of API keys, what is kept of it, and how long it opens something."""

import re
from dataclasses import replace
from datetime import timedelta

import pytest

from producer.callers import Scope, runs_program
from producer.keys import (
    ApiKey,
    KeySecret,
    KeyState,
    NewKey,
    digest_of,
    new_text,
    opens,
    rotated,
    secret_of,
    start_of,
)
from tests.support.factories import NOON

HASH_KEY = bytes(32)
DAY = timedelta(days=1)


def a_key(*, lives: timedelta | None = None) -> ApiKey:
    new = NewKey("ci", frozenset({Scope.JOBS_READ}), "docs", lives)
    return new.stored(secret_of(new_text(), HASH_KEY), by="ann", now=NOON)


def test_a_key_has_a_form_that_scanners_can_look_for() -> None:
    texts = {new_text() for _ in range(100)}

    assert len(texts) == 100
    assert all(re.fullmatch(r"rtv_[0-9A-Za-z]{8}_[0-9A-Za-z]{49}", text) for text in texts)


def test_what_only_looks_like_a_key_is_told_by_its_checksum() -> None:
    text = new_text()
    place = 20
    other = "b" if text[place] == "a" else "a"

    assert start_of(text) == text[4:12]
    assert start_of(text[:place] + other + text[place + 1 :]) is None


@pytest.mark.parametrize("spoilt", ["", "rtv_", "rtv_12345678_", "x" * 62, "{text}a", " {text}", "rtv_é"])
def test_no_other_text_is_a_key(spoilt: str) -> None:
    text = spoilt.format(text=new_text())
    assert start_of(text) is None
    with pytest.raises(ValueError, match="not the text of a key"):
        secret_of(text, HASH_KEY)


def test_a_key_is_kept_as_a_hash_that_takes_the_stores_own_key() -> None:
    text = new_text()
    secret = secret_of(text, HASH_KEY)

    assert text.encode() not in secret.digest
    assert opens(text, secret, HASH_KEY)
    assert not opens(new_text(), secret, HASH_KEY)
    assert digest_of(text, b"\1" * 32) != secret.digest


def test_a_key_opens_something_until_it_expires_or_is_revoked() -> None:
    key = a_key(lives=DAY)

    assert [key.state(NOON + part * DAY) for part in (0.99, 1, 2)] == [
        KeyState.LIVE,
        KeyState.EXPIRED,
        KeyState.EXPIRED,
    ]
    assert replace(key, revoked_at=NOON).state(NOON) is KeyState.REVOKED
    assert a_key().state(NOON + 9_999 * DAY) is KeyState.LIVE
    assert key.live_secrets(NOON + 2 * DAY) == replace(key, revoked_at=NOON).live_secrets(NOON) == ()


def test_two_texts_are_live_while_a_key_is_rotated_and_never_three() -> None:
    key = a_key()
    first, second, third = key.secrets[0], KeySecret("b", b"b"), KeySecret("c", b"c")

    key = replace(key, secrets=rotated(key, second, overlap=DAY, now=NOON))
    assert key.live_secrets(NOON) == (second, replace(first, expires_at=NOON + DAY))
    assert key.live_secrets(NOON + DAY) == (second,)

    key = replace(key, secrets=rotated(key, third, overlap=DAY, now=NOON))
    assert [secret.start for secret in key.live_secrets(NOON)] == ["c", "b"]


def test_a_rotation_without_overlap_leaves_the_new_text_alone() -> None:
    new = KeySecret("b", b"b")

    assert rotated(a_key(), new, overlap=timedelta(0), now=NOON) == (new,)


@pytest.mark.parametrize(
    ("kind", "arguments", "runs"),
    [
        ("command", [{}], True),
        ("command", [], True),
        ("task", [{"payload": 1, "command": None}], False),
        ("task", [{"payload": 1}, {"command": {"shell": "id"}}], True),
        ("task", [None, "text", 5], False),
        ("check", [{"command": "id"}], False),
    ],
)
def test_commands_and_tasks_that_are_commands_run_programs(
    kind: str, arguments: list[object], runs: bool
) -> None:
    assert runs_program(kind, arguments) is runs
