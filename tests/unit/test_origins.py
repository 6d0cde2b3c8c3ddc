"""What of a request goes to another origin: a whitelist, and nothing else."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.kinds.check import CheckArgs
from shared.kinds.fetch import FetchArgs
from shared.origins import _ARGUMENTS, Barrier, across, arguments_for, is_same_origin
from shared.urls import normalize_url

HOME = "https://example.com/list"
SECRET = {"secret": "key"}
NOT_PORTABLE = (
    "Authorization",
    "Cookie",
    "X-Api-Key",
    "Token",
    "Referer",
    "Origin",
    "If-None-Match",
    "If-Modified-Since",
    "Idempotency-Key",
    "Content-Type",
    "Digest",
    "X-Accept",
    "Accept-Token",
    "Via",
    "From",
)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ("https://example.com/", True),
        ("https://EXAMPLE.com:443/x?y#z", True),
        ("https://ann:x@example.com/", True),
        ("http://example.com/", False),
        ("http://example.com:443/", False),
        ("https://example.com:8443/", False),
        ("https://www.example.com/", False),
        ("https://example.com./", False),
        ("https://example.com.evil.example/", False),
        ("https://example.com@evil.example/", False),
    ],
)
def test_an_origin_is_scheme_host_and_port(other: str, same: bool) -> None:
    assert is_same_origin(HOME, normalize_url(other)) is same


@pytest.mark.parametrize("name", NOT_PORTABLE)
def test_a_header_that_is_not_on_the_list_stays(name: str) -> None:
    assert across("GET", {name: "x", "accept": "a/b"}, has_body=False) == {"accept": "a/b"}


def test_a_secret_stays_under_whatever_name_it_goes() -> None:
    assert across("GET", {"Accept": SECRET, "User-Agent": SECRET, "DNT": "1"}, has_body=False) == {"DNT": "1"}


@pytest.mark.parametrize(
    ("method", "has_body", "barrier"),
    [
        ("POST", True, Barrier.BODY),
        ("GET", True, Barrier.BODY),
        ("POST", False, Barrier.METHOD),
        ("PUT", False, Barrier.METHOD),
        ("PATCH", False, Barrier.METHOD),
        ("DELETE", False, Barrier.METHOD),
        ("TRACE", False, Barrier.METHOD),
        ("get", False, Barrier.METHOD),
    ],
)
def test_a_body_and_a_method_that_changes_something_stay(
    method: str, has_body: bool, barrier: Barrier
) -> None:
    assert across(method, {}, has_body=has_body) is barrier


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_a_request_that_only_asks_goes_anywhere(method: str) -> None:
    assert across(method, {}, has_body=False) == {}


ARGS = {
    "url": "https://ann:pw@example.com/list",
    "auth": {"type": "bearer", "token": SECRET},
    "headers": {"X-Key": "k", "Accept-Language": "de", "Accept": SECRET},
    "extract": "a",
    "page": {"root": "r", "index": 1, "cursor": "c"},
    "if_changed": True,
    "unheard_of": "x",
}


@pytest.mark.parametrize(
    ("url", "is_foreign"),
    [
        ("https://other.example/p2", False),
        ("http://example.com/p2", False),
        ("https://eve:x@example.com:8443/p2", False),
        ("https://example.com/p2", True),
        ("https://ann:pw@example.com/p2", True),
    ],
)
def test_the_arguments_of_a_page_elsewhere_are_those_on_the_list(url: str, is_foreign: bool) -> None:
    bare = url.replace("eve:x@", "").replace("ann:pw@", "")

    assert arguments_for(ARGS, url, is_foreign=is_foreign) == {
        "url": bare,
        "headers": {"Accept-Language": "de"},
        "extract": "a",
    }


@pytest.mark.parametrize("named", ["https://example.com/p2", "https://eve:x@example.com/p2"])
def test_a_page_of_its_own_origin_has_all_and_the_credentials_of_the_job(named: str) -> None:
    own = {**ARGS, "method": "POST", "json": {"a": 1}}

    assert arguments_for(own, named, is_foreign=False) == {**own, "url": "https://ann:pw@example.com/p2"}


@pytest.mark.parametrize("content", [{"json": {"a": 1}}, {"body": ""}, {"body_base64": "QQ=="}])
def test_a_page_elsewhere_gets_no_body(content: dict[str, Any]) -> None:
    args = {**ARGS, "method": "POST", **content}

    assert arguments_for(args, "https://other.example/", is_foreign=False) is Barrier.BODY


def test_somebody_has_decided_of_each_argument_whether_it_goes_along() -> None:
    stays = {"auth", "body", "body_base64", "headers", "if_changed", "json", "page", "url"}

    assert {field.alias or name for name, field in FetchArgs.model_fields.items()} == _ARGUMENTS | stays
    assert not _ARGUMENTS & stays
    assert {"auth", "headers", "url"} <= CheckArgs.model_fields.keys()


MARK = "s3kr1t"
marked = st.text(max_size=8).map(lambda text: f"{text}{MARK}")
harmless = st.sampled_from(["a/b", "de", "1"])
portable = st.sampled_from(["Accept", "accept-language", "USER-AGENT", "dnt", "Range"])
# What may hold a secret: any value under a name that is not on the list, and names of secrets under any.
headers = st.dictionaries(
    st.one_of(portable, st.sampled_from(NOT_PORTABLE), st.text(min_size=1, max_size=12)),
    st.one_of(harmless, marked, marked.map(lambda name: {"secret": name})),
    max_size=8,
).map(
    lambda found: {
        name: value
        for name, value in found.items()
        if not (isinstance(value, str) and MARK in value and across("GET", {name: value}, has_body=False))
    }
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), marked), lambda inner: st.lists(inner, max_size=3)
)
arguments = st.dictionaries(
    st.one_of(
        st.sampled_from(["auth", "page", "if_changed", "known", "cookies", "form", "proxy", "token"]),
        st.text(min_size=1, max_size=12).filter(lambda name: name not in _ARGUMENTS),
    ),
    values,
    max_size=6,
)


jobs = st.fixed_dictionaries(
    {"headers": headers, "method": st.sampled_from(["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE"])},
    optional={"body": marked, "json": values, "body_base64": marked},
)


@given(
    jobs,
    arguments,
    st.sampled_from(
        ["https://other.example/a", "http://example.com/a", f"https://u:{MARK}@example.com:444/"]
    ),
    st.booleans(),
)
def test_nothing_that_may_be_secret_ever_crosses(
    job: dict[str, Any], more: dict[str, Any], url: str, is_foreign: bool
) -> None:
    args = {**more, **job, "url": f"https://ann:{MARK}@example.com/"}

    crossing = arguments_for(args, url, is_foreign=is_foreign)

    if not isinstance(crossing, Barrier):
        assert MARK not in json.dumps(crossing)
        assert job["method"] in {"GET", "HEAD", "OPTIONS"}
        assert not {"body", "json", "body_base64"} & crossing.keys()
        assert all(isinstance(value, str) for value in crossing.get("headers", {}).values())
