"""Where a reference leads; and all who read a URL see the same host, and ask for the same bytes."""

import ada_url
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AnyHttpUrl

from consumer.http.failures import Failure
from consumer.http.target import Target, redirect_target, split_credentials, target_of
from shared.urls import (
    MAX_URL_LENGTH,
    InvalidReference,
    has_credentials,
    join_url,
    normalize_url,
    url_fragment,
    url_host,
    url_origin,
    with_query,
    without_credentials,
)
from tests.support.urls import read_table

BASE = "http://a.example/x/y?page=1#here"


@pytest.mark.parametrize(
    ("reference", "url"),
    [
        ("?page=2", "http://a.example/x/y?page=2"),
        ("?", "http://a.example/x/y?"),
        ("", "http://a.example/x/y?page=1"),
        ("#", "http://a.example/x/y?page=1#"),
        ("z", "http://a.example/x/z"),
        ("../../../z", "http://a.example/z"),
        ("%2e%2E/z", "http://a.example/z"),
        ("//b.example", "http://b.example/"),
        ("///b.example/z", "http://b.example/z"),
        ("/\\b.example\\z", "http://b.example/z"),
        ("\\z\\a?b\\c", "http://a.example/z/a?b\\c"),
        ("http:z", "http://a.example/x/z"),
        ("https:b.example", "https://b.example/"),
        (" /y \t", "http://a.example/y"),
        ("/a\tb\r\nc", "http://a.example/abc"),
        ("/\udce9", "http://a.example/%E9"),
        ("/\u00e9?\u00e9#\u00e9", "http://a.example/%C3%A9?%C3%A9#%C3%A9"),
        ("/^?^#^", "http://a.example/%5E?^#^"),
        ("#%E9|^", "http://a.example/x/y?page=1#%E9|^"),
        ("//b\u00fccher.example/", "http://xn--bcher-kva.example/"),
        ("//0x7f.1/", "http://127.0.0.1/"),
        ("//127.1./", "http://127.0.0.1/"),
        ("//%31%32%37%2e1/", "http://127.0.0.1/"),
        ("//[0:0::1]:80/", "http://[::1]/"),
        ("//b.example:080/", "http://b.example/"),
        ("//u:p@b.example/", "http://u:p@b.example/"),
    ],
)
def test_a_reference_leads_where_a_browser_would_go(reference: str, url: str) -> None:
    assert join_url(reference, base=BASE) == url


def test_a_path_that_holds_a_url_is_a_path() -> None:
    base = "http://a.example/web/2020/http://ex.org/docs/old"

    assert join_url("new", base=base) == "http://a.example/web/2020/http://ex.org/docs/new"


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("ftp://a.example/", "its scheme is not http or https"),
        ("javascript:alert(1)", "its scheme is not http or https"),
        ("file:///etc/passwd", "its scheme is not http or https"),
        ("http://[", "invalid IPv6 address"),
        ("//[::1%25lo]/", "invalid IPv6 address"),
        ("//", "it names no host"),
        ("///", "it names no host"),
        ("https://", "it names no host"),
        ("//b.example:99999/", "its port is not a number up to 65,535"),
        ("//b.example:8x/", "its port is not a number up to 65,535"),
        ("//1.2.3.4.5/", "invalid IPv4 address"),
        ("//256.0.0.1/", "invalid IPv4 address"),
        ("//b example/", "its host is not a valid name"),
        ("//b%00.example/", "its host is not a valid name"),
        ("//b%2fc.example/", "its host is not a valid name"),
        ("//xn--a/", "its host is not a valid name"),
        ("//b\udcfccher.example/", "its host is not a valid name"),
        ("/" + "a" * 9_000, "it is longer than 8,192 characters"),
        ("/" + "\u00e9" * 3_000, "it is longer than 8,192 characters"),
        ("/\ud800", "it is not text"),
    ],
)
def test_a_reference_that_leads_nowhere_says_why(reference: str, why: str) -> None:
    with pytest.raises(InvalidReference) as refused:
        join_url(reference, base=BASE)

    assert str(refused.value) == why


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/z", "http://a.example/z#%E9"),
        ("/z#", "http://a.example/z#"),
        ("/z#there", "http://a.example/z#there"),
        ("//u:p@b.example/", "http://b.example/#%E9"),
    ],
)
def test_a_redirect_inherits_the_fragment_as_it_was_written(location: str, url: str) -> None:
    following = redirect_target(target_of("http://a.example/#%E9"), location)

    assert isinstance(following, Target) and following.url == url
    assert following.wire.raw_fragment == ""


def test_a_redirect_that_cannot_be_followed_says_why() -> None:
    failure = redirect_target(target_of(BASE), "http://[::1%25lo]/")

    assert isinstance(failure, Failure)
    assert failure.explanation == (
        "A redirect leads to something that is not an HTTP URL: invalid IPv6 address."
    )


def test_a_redirect_may_not_grow_beyond_a_url_by_its_fragment() -> None:
    following = redirect_target(target_of("http://a.example/#" + "f" * 8_000), "/" + "z" * 500)

    assert isinstance(following, Failure) and "longer than" in following.explanation


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://a.example/?", "/?"),
        ("http://a.example/x?#y", "/x?"),
        ("http://a.example/x??", "/x??"),
        ("http://a.example/x#?", "/x"),
        ("http://a.example/%e9/%2F%zz?a=%C3%A9&&b+c=/?", "/%e9/%2F%zz?a=%C3%A9&&b+c=/?"),
        ("http://a.example//b//", "//b//"),
        ("http://a.example/|[]%5E?^", "/|[]%5E?^"),
    ],
)
def test_what_is_asked_is_the_url_byte_for_byte(url: str, asked: str) -> None:
    target = target_of(url)

    assert (target.url, target.wire.raw_path_qs) == (url, asked)
    assert str(target.wire) == url.partition("#")[0]


@pytest.mark.parametrize(
    ("url", "bare", "header"),
    [
        ("http://a.example/@", "http://a.example/@", None),
        ("http://u@a.example/", "http://a.example/", "Basic dTo="),
        ("http://:p@a.example/", "http://a.example/", "Basic OnA="),
        ("http://%E9:%C3%A9@a.example:8080/?#", "http://a.example:8080/?#", "Basic 6TrDqQ=="),
    ],
)
def test_credentials_leave_the_url_for_a_header(url: str, bare: str, header: str | None) -> None:
    assert normalize_url(url) == url

    without, headers = split_credentials(url)

    assert (without, headers.get("Authorization")) == (bare, header)
    assert has_credentials(url) is (header is not None) and without_credentials(url) == bare


def test_a_query_is_replaced_and_nothing_else() -> None:
    url = "http://u:p@a.example/%e9//;x?a=1#%E9"

    assert with_query(url, "b=%2F&c[]=\u00e9") == "http://u:p@a.example/%e9//;x?b=%2F&c[]=%C3%A9#%E9"


def test_a_fragment_is_given_as_it_stands() -> None:
    assert url_fragment("http://a.example/?a#%E9#") == "%E9#"
    assert url_fragment("http://a.example/") == ""


_HOSTS = st.one_of(
    st.from_regex(r"[a-zA-Z0-9.%\-_~!$&'()*+,;=\x5b\x5d:xX\u00df\u00fc\u3002\uff0e\uff11\u2460]{1,20}"),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
    st.integers(0, 2**33).map(str),
    st.integers(0, 2**33).map(hex),
    st.text(max_size=12),
)
_URLS = st.builds(
    "{}{}{}{}{}{}".format,
    st.sampled_from(["http://", "https://", "HTTP:", "http:\\\\", "http:///", "https://u:p@", "http://@"]),
    _HOSTS,
    st.sampled_from(["", ":80", ":443", ":0", ":65535", ":65536", ":", ":8080"]),
    st.sampled_from(["", "/", "\\", "/.", "/%2e%2E/"]),
    st.text(max_size=20),
    st.sampled_from(["", "?", "#", "?#", "?a=b&c", "#%E9", "?\u00e9#\u00e9", "?'\"<>`{}|^"]),
)


@given(_URLS)
def test_every_reader_sees_the_same_host_and_port(text: str) -> None:
    _check_one_reading(text)


@pytest.mark.parametrize("table", ["hostile_urls", "harmless_urls"])
def test_every_reader_sees_the_same_host_in_every_url_of_the_guards_tests(table: str) -> None:
    for row in read_table(table):
        _check_one_reading(row.on(port=8_090, redirecting="http://127.0.0.1/"))


def _check_one_reading(text: str) -> None:
    try:
        url = normalize_url(text)
    except ValueError:
        return
    parsed = ada_url.URL(url)
    wire = target_of(without_credentials(url)).wire
    assert parsed.href == url == normalize_url(url) == join_url(url, base=BASE)
    assert len(url) <= MAX_URL_LENGTH and url.isascii()
    assert url_host(url) == parsed.hostname.strip("[]") == wire.raw_host
    assert url_origin(url)[2] == wire.port == int(parsed.port or {"http": 80, "https": 443}[wire.scheme])
    assert wire.raw_path_qs == url_request_target(url)
    # Stored URLs, keys of hosts and unique keys are as 0.1.0 wrote them, but for one character in paths.
    assert url.replace("%5E", "^") == str(AnyHttpUrl(text)).replace("%5E", "^")


def url_request_target(url: str) -> str:
    """Return what follows the authority, up to the fragment."""
    parsed = ada_url.URL(url)
    search = "?" if not parsed.search and url.partition("#")[0].endswith("?") else parsed.search
    return parsed.pathname + search
