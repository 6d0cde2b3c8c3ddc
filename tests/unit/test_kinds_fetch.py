"""What a fetch may be told, and what is refused before anything is stored."""

import json
from typing import Any

import pytest

from producer.submission import find_kind, valid_args
from shared.errors import JobInvalid
from shared.kinds.acceptance import accepts_media_type, accepts_status

URL = "http://api.example/"


def document(**said: Any) -> Any:
    return valid_args(find_kind("fetch"), {"url": URL, **said}).document


@pytest.mark.parametrize(
    ("said", "loc", "msg"),
    [
        ({"method": "TRACE"}, "/args/method", "Input should be"),
        ({"method": "get"}, "/args/method", "Input should be"),
        ({"body": "x"}, "/args/body", "GET takes no body"),
        ({"method": "DELETE", "json": {}}, "/args/json", "DELETE takes no body"),
        ({"method": "POST", "body": "x", "json": 1}, "/args/json", "send one of"),
        ({"method": "POST", "body": "", "body_base64": ""}, "/args/body_base64", "send one of"),
        ({"method": "POST", "body": "x" * 262_145}, "/args/body", "at most 262144"),
        ({"method": "POST", "body": "é" * 200_000}, "/args/body", "larger than"),
        ({"method": "POST", "json": "x" * 262_143}, "/args/json", "larger than"),
        ({"method": "POST", "body": "a\0b"}, "/args/body", "NUL"),
        ({"method": "POST", "json": {"a": ["\0"]}}, "/args/json/a/0", "NUL"),
        ({"method": "POST", "json_body": 1}, "/args/json_body", "no such field"),
        ({"method": "POST", "body_base64": "a_-="}, "/args/body_base64", "not base64"),
        ({"method": "POST", "body_base64": "é"}, "/args/body_base64", "not base64"),
        ({"accept": ["json"]}, "/args/accept/0", "media type"),
        ({"accept": ["text/html;q=0.5"]}, "/args/accept/0", "parameters"),
        ({"accept": ["text/html\r\nX: y"]}, "/args/accept/0", "media type"),
        ({"accept": ["a/b"] * 21}, "/args/accept", "at most 20"),
        ({"accept": ["a/b"], "headers": {"ACCEPT": "*/*"}}, "/args/accept", "either"),
        ({"statuses": []}, "/args/statuses", "at least 1"),
        ({"statuses": ["299-200"]}, "/args/statuses/0", "empty"),
        ({"statuses": ["200"] * 51}, "/args/statuses", "at most 50"),
        ({"method": "HEAD", "extract": "@"}, "/args/extract", "no body"),
        ({"method": "POST", "if_changed": True}, "/args/if_changed", "only a GET"),
        ({"if_changed": True, "headers": {"if-none-match": "x"}}, "/args/if_changed", "If-None-Match"),
        ({"max_bytes": 16 * 1_048_576 + 1}, "/args/max_bytes", "less than or equal"),
    ],
)
def test_arguments_that_do_not_fit_are_named(said: dict[str, Any], loc: str, msg: str) -> None:
    with pytest.raises(JobInvalid) as refused:
        document(**said)

    assert [error.loc for error in refused.value.errors] == [loc]
    assert msg in refused.value.errors[0].msg


def test_what_is_stored_is_what_was_said() -> None:
    said = {
        "method": "POST",
        "json": {"a": None},
        "accept": ["text/html", "application/*"],
        "statuses": ["200-299", "404"],
    }

    stored = document(**{**said, "statuses": ["200-299", 404], "accept": ["TEXT/html", "application/*"]})

    assert json.loads(json.dumps(stored)) == {"url": URL, **said}


@pytest.mark.parametrize(
    ("content_type", "is_accepted"),
    [
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("text/csv", True),
        ("application/problem+json", False),
        ("application/jsonx", False),
        ("textual/html", False),
        ("", False),
        (None, False),
    ],
)
def test_a_type_is_compared_without_its_parameters(content_type: str | None, is_accepted: bool) -> None:
    assert accepts_media_type(["application/json", "text/*"], content_type) is is_accepted


def test_a_type_that_is_not_said_is_octets() -> None:
    assert accepts_media_type(["application/octet-stream"], None)
    assert accepts_media_type(["*/*"], None)


@pytest.mark.parametrize(
    ("status", "is_accepted"), [(199, False), (200, True), (299, True), (404, True), (405, False)]
)
def test_a_status_is_looked_up_in_its_ranges(status: int, is_accepted: bool) -> None:
    assert accepts_status(["200-299", "404"], status) is is_accepted
