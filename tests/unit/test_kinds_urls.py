"""How URLs are written once they are ours."""

import pytest

from shared.kinds.requests import MAX_URL_LENGTH, normalize_url, url_host


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("HTTP://Example.ORG", "http://example.org/"),
        ("http://example.org:80/a b", "http://example.org/a%20b"),
        ("https://bücher.example/ü", "https://xn--bcher-kva.example/%C3%BC"),
        ("http://0x7f.1/", "http://127.0.0.1/"),
        ("http://\uff12\uff11\uff13\uff10\uff17\uff10\uff16\uff14\uff13\uff13/", "http://127.0.0.1/"),
        ("http://127。0。0。1/", "http://127.0.0.1/"),
        ("http://example.org/%zz?q='x'", "http://example.org/%zz?q=%27x%27"),
    ],
)
def test_a_url_has_one_spelling(text: str, url: str) -> None:
    assert normalize_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.org",
        "ftp://example.org/",
        "javascript:alert(1)",
        "http://",
        "http://[::1%25lo]/",
        "http://[x:y]/",
        "http://1.2.3.4.5/",
        "http://a b/",
        "http://" + "a" * MAX_URL_LENGTH,
        "http://h/\ud800",
    ],
)
def test_what_is_no_http_url_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="validation error"):
        normalize_url(text)


@pytest.mark.parametrize(
    ("url", "host"), [("http://example.org:8080/", "example.org"), ("http://[2001:db8::1]/", "2001:db8::1")]
)
def test_a_host_is_given_without_port_and_brackets(url: str, host: str) -> None:
    assert url_host(url) == host
