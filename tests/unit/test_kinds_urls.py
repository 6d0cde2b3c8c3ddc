"""How URLs are written once they are ours."""

import pytest
from pydantic import TypeAdapter, ValidationError

from shared.urls import MAX_URL_LENGTH, HttpUrl, normalize_url, url_host

HANDED_IN = TypeAdapter[str](HttpUrl)


def refusal(text: str) -> str:
    with pytest.raises(ValidationError) as caught:
        HANDED_IN.validate_python(text)
    return caught.value.errors()[0]["msg"]


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


@pytest.mark.parametrize(
    ("text", "url"),
    [
        (" http://a.example/\n", "http://a.example/"),
        ("\ufeffhttp://a.example/\u200b", "http://a.example/"),
        ("\u00a0HTTPS://a.example", "https://a.example/"),
        ("http://a.example/a b", "http://a.example/a%20b"),
        ("http://a.example/\u0645\u06cc\u200c\u062e", "http://a.example/%D9%85%DB%8C%E2%80%8C%D8%AE"),
    ],
)
def test_blanks_and_invisible_characters_around_a_url_are_no_part_of_it(text: str, url: str) -> None:
    assert HANDED_IN.validate_python(text) == url


@pytest.mark.parametrize(
    ("text", "msg"),
    [
        ("http://a/\nb", "The URL has a line feed in it, at character 10"),
        ("ht\ttp://a/", "The URL has a tab in it, at character 3"),
        ("http://a/\r\nb", "The URL has a carriage return in it, at character 10"),
        ("http://a/\0", "The URL has a NUL character in it, at character 10"),
        ("http://a/\x0bb", "The URL has a control character in it, at character 10"),
        (
            "http://a/\u2028b",
            "a line separator (U+2028) in it, at character 10; only CR, LF or both end a line",
        ),
        ("http://a/\x85b", "NEL (U+0085) in it, at character 10; only CR, LF or both end a line"),
    ],
)
def test_a_character_that_would_glue_two_lines_together_is_named(text: str, msg: str) -> None:
    assert msg in refusal(text)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("www.example.com", "https://www.example.com"),
        (" example.com/path?key=secret#part", "https://example.com/path"),
        ("example.com:8080/x", "https://example.com:8080/x"),
        ("//example.com/x", "https://example.com/x"),
        ("localhost:8080/x", "https://localhost:8080/x"),
        ("192.0.2.7/x", "https://192.0.2.7/x"),
        ("[2001:db8::1]/x", "https://[2001:db8::1]/x"),
        ("bücher.example", "https://bücher.example"),
        ("http//example.com/x", "https://example.com/x"),
        ("https;//example.com/x", "https://example.com/x"),
    ],
)
def test_a_url_without_a_scheme_is_answered_with_the_one_that_was_meant(text: str, url: str) -> None:
    assert refusal(text).endswith(f": did you mean {url}?")


@pytest.mark.parametrize(
    ("text", "msg"),
    [
        ("mailto:a@example.com", "Only http and https URLs are taken; its scheme is mailto"),
        ("TEL:+1-201-555-0123", "Only http and https URLs are taken; its scheme is tel"),
        ("javascript:void(0)", "Only http and https URLs are taken; its scheme is javascript"),
        ("htps://example.com/", "Only http and https URLs are taken; its scheme is htps"),
        ("ftp://example.com/", "Only http and https URLs are taken; its scheme is ftp"),
        ("/about", "It is a relative link; the whole URL is needed, with https:// and the host"),
        ("../about", "It is a relative link; the whole URL is needed, with https:// and the host"),
        ("http://", "The URL cannot be used: it names no host"),
        ("http://exa mple.com/", "The URL cannot be used: its host is not a valid name"),
        ("http://example.com:port/", "The URL cannot be used: its port is not a number up to 65,535"),
        ("nonsense", "There is no scheme; a URL begins with https:// or http://"),
        ("<https://example.com/>", "There is something before the URL, which begins at character 2"),
        ("**https://example.com/**", "There is something before the URL, which begins at character 3"),
    ],
)
def test_what_is_no_web_address_is_told_so_in_words(text: str, msg: str) -> None:
    assert refusal(text) == msg


@pytest.mark.parametrize("text", ["http://a/" + "ü" * 2_000, "http://a/" + " " * 3_000 + "x"])
def test_a_url_that_grows_over_the_limit_is_refused_where_it_is_handed_in_and_where_it_is_found(
    text: str,
) -> None:
    msg = "characters once it is written in ASCII, and at most 8,192 are taken"

    assert msg in refusal(text)
    with pytest.raises(ValidationError, match=msg):
        normalize_url(text)
