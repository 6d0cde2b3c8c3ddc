"""What nobody is shown, and that hiding it takes no longer because a stranger wrote the text."""

import base64
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.http.echoes import masked_outcome
from producer.batch_validation import given_text
from producer.submission import find_kind, valid_args
from shared.errors import JobInvalid
from shared.outcomes import Failed, Succeeded
from shared.redaction import (
    _SECRET_ENDINGS,
    _SECRET_WORDS,
    MASK,
    Echoes,
    is_secret_header,
    is_secret_name,
    masked_places,
    redact_args,
    redact_logged,
    redact_pairs,
    redact_query,
    redact_submission,
    redact_text,
    redact_url,
    redact_value,
)

PASSWORD = "hunter2-marked"

URLS = [
    f"https://user:{PASSWORD}@host.example/path?q=1#f",
    f"HTTPS://user:{PASSWORD}@host.example",
    f"https://{PASSWORD}@host.example/",
    f"https://:{PASSWORD}@host.example/",
    f"https://user:{PASSWORD}@[2001:db8::1]:8443/",
    f"https://user:p@{PASSWORD}@host.example/",
    f"//user:{PASSWORD}@host.example/",
    f"https:\\\\user:{PASSWORD}@host.example\\path",
    f"https:/user:{PASSWORD}@host.example/",
    f"https:user:{PASSWORD}@host.example/",
    f"ftp://user:{PASSWORD}@host.example/",
    f"amqp://user:{PASSWORD}@one.example,two.example:5673/vhost",
    f"postgresql+psycopg://user:{PASSWORD}@db/name",
    f"https://us%65r:%68{PASSWORD}@host.example/",
    f"https://host.example/?next=https%3A%2F%2Fuser%3A{PASSWORD}%40other.example%2F&x=1",
    f"https://host.example/?next=https%253A%252F%252Fuser%253A{PASSWORD}%2540other.example",
    f"https://host.example/?next=//user:{PASSWORD}@other.example/",
]
MALFORMED = [
    f"https://user:{PASSWORD} with blanks@host.example/",
    f'https://user:"{PASSWORD}"@host.example/',
    f"https://user:{PASSWORD}/slash@host.example/",
    f"https://user:{PASSWORD}?x@host.example/",
    f"ht\ntps://user:\t{PASSWORD}@host.example/",
    f"user:{PASSWORD}@host.example/path",
    f"https://user:{PASSWORD}",
    f"https://////user:{PASSWORD}@host.example/",
]


@pytest.mark.parametrize("url", URLS)
def test_user_and_password_of_a_url_in_a_text_are_masked(url: str) -> None:
    shown = redact_text(f"it said {url} and more")

    assert PASSWORD not in shown
    assert MASK in shown
    assert shown.startswith("it said ")
    assert shown.endswith(" and more")


@pytest.mark.parametrize("url", URLS + MALFORMED)
def test_user_and_password_of_what_was_meant_as_a_url_are_masked(url: str) -> None:
    shown = redact_url(url)

    assert PASSWORD not in shown
    assert MASK in shown


@pytest.mark.parametrize(
    "text",
    [
        "https://host.example/@user/x",
        "https://host.example:8443/?mail=joe@host.example",
        "write to joe@host.example, or see https://host.example",
        "connect to http://127.0.0.1:8080, or //host:80.",
        "must look like amqp://user:password@host:5672/vhost, with commas between hosts",
        "mailto:joe@host.example",
        "https://[2001:db8::1]:80/",
        "https://host.example/?next=https%3A%2F%2Fother.example%2F",
        "// a comment: it stays",
    ],
)
def test_a_text_without_credentials_stays_as_it_is(text: str) -> None:
    assert redact_text(text) == text


def test_what_follows_user_and_password_stays() -> None:
    shown = redact_url(URLS[0])

    assert shown == f"https://{MASK}@host.example/path?q=1#f"


def test_a_url_that_was_cut_within_its_password_shows_none_of_it() -> None:
    shown = redact_text(f"https://host.example/a https://user:{PASSWORD}"[:50])

    assert "hunter2" not in shown


def test_query_parameters_that_open_something_are_masked_in_logs() -> None:
    url = f"https://h.example/?q=1&X-Amz-Signature={PASSWORD}&sig={PASSWORD}&api_key={PASSWORD}&page_token=7"

    shown = redact_query(url)

    assert PASSWORD not in shown
    assert "?q=1&" in shown
    assert shown.endswith("page_token=7")
    assert redact_url(url) == url


@pytest.mark.parametrize(
    "text",
    [
        f'{{"headers": {{"X-Api-Key": "{PASSWORD}"}}}}',
        f"{{'Cookie': 'a={PASSWORD}', 'b': 1}}",
        f'"password":"{PASSWORD}',
        f'{{"token": "a\\"{PASSWORD}"}}',
        f'a,"{{""X-Api-Key"": ""{PASSWORD}""}}"',
        f'\'{{\\"X-Api-Key\\": \\"{PASSWORD}\\"}}\'',
        f"Authorization: Bearer {PASSWORD}",
    ],
)
def test_values_under_secret_names_in_a_text_are_masked(text: str) -> None:
    assert PASSWORD not in redact_logged(text)


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("Authorization", True),
        ("proxy-authorization", True),
        ("Cookie", True),
        ("Set-Cookie", True),
        ("X-Api-Key", True),
        ("api_key", True),
        ("apiKey", True),
        ("accessToken", True),
        ("X-Auth-Token", True),
        ("client-secret", True),
        ("DB_PASSWORD", True),
        ("X-Amz-Security-Token", True),
        ("webhook-signature", True),
        ("author", False),
        ("next_page_token", False),
        ("passenger", False),
        ("Accept", False),
        ("User-Agent", False),
        ("Idempotency-Key", False),
    ],
)
def test_a_name_tells_whether_its_value_opens_something(name: str, *, secret: bool) -> None:
    assert is_secret_header(name) is secret
    assert is_secret_name(name) is secret or name == "proxy-authorization"


def test_arguments_show_names_of_secrets_and_hide_values() -> None:
    args = {
        "url": f"https://user:{PASSWORD}@host.example/",
        "headers": {"X-Api-Key": PASSWORD, "Cookie": {"secret": "session"}, "Accept": "text/html"},
        "auth": {"type": "bearer", "token": {"secret": "token-of-ours"}},
        "json": {"password": PASSWORD, "items": [{"url": f"https://{PASSWORD}@h.example"}], "n": 1},
        "timeout_seconds": 5,
    }

    shown = redact_args(args)

    assert PASSWORD not in repr(shown)
    assert shown["headers"] == {"X-Api-Key": MASK, "Cookie": {"secret": "session"}, "Accept": "text/html"}
    assert shown["auth"] == args["auth"]
    assert shown["timeout_seconds"] == 5
    assert args["headers"] == {
        "X-Api-Key": PASSWORD,
        "Cookie": {"secret": "session"},
        "Accept": "text/html",
    }


def test_a_submission_is_masked_in_its_arguments_defaults_and_items() -> None:
    url = f"https://user:{PASSWORD}@host.example/"

    shown = redact_submission(
        {"kind": "check", "args": {"url": url}, "defaults": {"url": url}, "items": [{"url": url}, 7]}
    )

    assert PASSWORD not in repr(shown)
    assert shown["kind"] == "check"


@pytest.mark.parametrize(
    ("kind", "args", "place"),
    [
        ("check", {"url": f"https://{MASK}@host.example/"}, "/args/url"),
        ("check", {"url": "https://h.example/", "headers": {"X-Api-Key": MASK}}, "/args/headers/X-Api-Key"),
        (
            "fetch",
            {"url": "https://h.example/", "method": "POST", "json": {"password": MASK}},
            "/args/json/password",
        ),
        ("task", {"payload": [f"//{MASK}@h.example"]}, "/args/payload/0"),
        ("command", {"argv": ["git", f"https://{MASK}@h.example"]}, "/args/argv/1"),
    ],
)
def test_what_was_masked_is_refused_when_it_comes_back(kind: str, args: dict[str, Any], place: str) -> None:
    with pytest.raises(JobInvalid) as refused:
        valid_args(find_kind(kind), args)

    assert refused.value.errors[0].loc == place
    assert MASK in refused.value.errors[0].msg


def test_three_asterisks_elsewhere_are_taken() -> None:
    args = {"url": "https://host.example/***", "headers": {"Accept": "***"}}

    assert valid_args(find_kind("check"), args).document["url"] == "https://host.example/***"


@pytest.mark.parametrize(
    "line",
    [
        f"https://user:{PASSWORD} x@host.example/",
        f'{{"url": 7, "headers": {{"X-Api-Key": "{PASSWORD}"}}}}',
        f"https://user:{'x' * 300}{PASSWORD}@host.example/ y",
    ],
)
def test_of_a_rejected_line_no_secret_is_even_kept(line: str) -> None:
    kept = given_text(line.encode())

    assert kept is not None
    assert PASSWORD not in kept
    assert "xxx" not in kept


@pytest.mark.parametrize(
    "said",
    [
        "s3cret/value+1",
        "s3cret%2Fvalue%2B1",
        "s3cret\\/value\\u002b1",
        "s3cret%2fvalue+1",
        "s3cret&#47;value&#x2B;1",
        base64.b64encode(b"s3cret/value+1").decode(),
    ],
)
def test_a_secret_that_is_sent_back_is_masked_in_each_spelling(said: str) -> None:
    echoes = Echoes.of(frozenset({"s3cret/value+1"}))

    assert said not in echoes.text(f"a {said} b")
    assert said.encode() not in echoes.octets(b"a " + said.encode() + b" b")


def test_a_secret_is_masked_in_results_and_explanations() -> None:
    echoes = Echoes.of(frozenset({"s3cret-value"}))

    done = masked_outcome(
        echoes, Succeeded({"title": "s3cret-value", "hops": [{"location": "/?t=s3cret-value"}]})
    )
    failed = masked_outcome(
        echoes, Failed("x", "It said s3cret-value.", transient=False, result={"s3cret-value": 1})
    )

    assert "s3cret-value" not in repr((done, failed))
    assert "s3cret-value" not in repr(echoes)


def test_every_secret_word_is_told_at_once() -> None:
    words = (*_SECRET_WORDS, *_SECRET_ENDINGS, "api_key", "signingKey")

    assert [word for word in words if not is_secret_name(word)] == []


def test_a_short_secret_is_left_in_words() -> None:
    assert not Echoes.of(frozenset({"the", ""}))


PIECES = [*"aZ0:/\\@?#% \t\n\"'.-*&=[]", "%2f", "%40", "%25", "https:", "token=", "\ud800"]
NAMES = st.sampled_from(
    ["password", "apiKey", "X-Api-Key", "name", "next_token", "https://u:p@h", "a//b", "naïve"]
)
TEXTS = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)


@given(TEXTS)
def test_to_mask_twice_is_to_mask_once(text: str) -> None:
    for redact in (redact_text, redact_url, redact_query, redact_pairs, redact_logged):
        once = redact(text)
        assert redact(once) == once


@given(TEXTS, st.sampled_from(["https://", "//", "HTTP:\\\\"]))
def test_no_password_gets_past_whatever_is_around_it(around: str, before: str) -> None:
    shown = redact_text(f"{around} {before}u:{PASSWORD}@h.example/ {around}")

    assert PASSWORD not in shown


@given(
    st.recursive(
        TEXTS | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=10
    )
)
def test_a_masked_value_is_masked(value: Any) -> None:
    once = redact_value(value)

    assert redact_value(once) == once
    list(masked_places(once))


HOSTILE = {
    "schemes": "https:",
    "slashes": "//",
    "encoded slashes": "%2f",
    "percent signs": "%25",
    "at signs": "@",
    "authorities": "//a@",
    "parameters": "?token=",
    "names": '"a":"',
    "logins": "Bearer ",
    "backslashes": "\\",
    "colons": "u:",
    "encoded urls": "%2F%2Fa%40",
}


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_text_ten_times_as_long_takes_no_hundred_times_as_long(unit: str) -> None:
    def seconds(characters: int) -> float:
        text = unit * (characters // len(unit))
        began = time.process_time()
        for redact in (redact_logged, redact_url):
            redact(text)
        return time.process_time() - began

    short = min(seconds(20_000) for _ in range(3))

    # Quadratic, it would be some 100 times; the constant is for clocks that tick coarsely.
    assert seconds(200_000) < 40 * short + 0.5


def test_a_key_of_ours_is_not_logged_wherever_it_stands_but_for_what_names_it() -> None:
    key = "rtv_4fK2mQ9x_" + "7mJ0hXcVbN3sWq8RtYpLkZ1dFgHjM5nBvC2xSaQwE6uI9o0Rk"

    for text in (f"GET /jobs?q={key}", f"'{key}'", f"Bearer {key} is unknown", f"x{key}."):
        assert key[13:] not in redact_logged(text)
    assert redact_logged(f"no key: {key}") == "no key: rtv_4fK2mQ9x_***"
