"""Lines of lists as people write them, and the URLs on them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.listed_urls import TAKEN, is_header, is_markup, url_in_cell, url_on_line

URL = "https://example.com/a?b=c"
MORE = "There is more than one URL; each needs a line of its own"
OTHER = "There is other text beside the URL; a URL stands alone on its line"


@pytest.mark.parametrize(
    "line",
    [
        URL,
        f"  {URL}\t",
        f"\ufeff{URL}\u200b",
        f"\u00a0{URL}\u3000",
        f"<{URL}>",
        f"< {URL} >",
        f"<URL:{URL}>",
        f'"{URL}"',
        f"'{URL}'",
        f"`{URL}`",
        f"({URL})",
        f"\u201c{URL}\u201d",
        f"\u201e{URL}\u201c",
        f"«{URL}»",
        f"{URL},",
        f"{URL};",
        f'"{URL}",',
        f'"<{URL}>";',
        f"- {URL}",
        f"* <{URL}>",
        f"12. {URL}",
        f"3) {URL}",
        f"- [x] {URL}",
        f"> {URL}",
        f"\u2022 {URL}",
        f"[1]: {URL}",
        f"[the page #1]({URL})",
        f'* [the page]({URL} "Title")',
        f"![alt](<{URL}>)",
        f"{URL} # the page",
        f'"{URL}", # the page, as https://example.org/',
    ],
)
def test_what_people_write_around_a_url_is_taken_off(line: str) -> None:
    assert url_on_line(line) == URL


@pytest.mark.parametrize(
    "url",
    [
        "https://en.wikipedia.org/wiki/Set_(mathematics)",
        "https://example.com/1,2;3",
        'https://example.com/?q="x"',
        "https://example.com/it's",
        "https://web.archive.org/web/2020/http://example.org/docs",
        "https://example.com/?next=https://example.org/",
        "https://example.com/#top",
        "https://example.com/\u0645\u06cc\u200c\u062e",
        "http://[2001:db8::1]/[x]",
        "HTTPS://EXAMPLE.COM",
        "www.example.com",
        "mailto:ann@example.com",
    ],
)
def test_what_belongs_to_a_url_is_left(url: str) -> None:
    assert url_on_line(url) == url
    assert url_on_line(f"<{url}>") == url


@pytest.mark.parametrize("line", ["", "  ", "\u200b", "# a comment", "#https://example.com/", "\ufeff# x"])
def test_a_blank_line_and_a_comment_have_none(line: str) -> None:
    assert url_on_line(line) is None


@pytest.mark.parametrize(
    ("line", "msg"),
    [
        ("http://a/1 http://b/2", MORE),
        ("http://a/1\thttp://b/2", MORE),
        (
            "http://a/1\u2028http://b/2",
            "The URL has a line separator (U+2028) in it, at character 11; only CR, LF or both end a line",
        ),
        ("http://a/\0", "The URL has a NUL character in it, at character 10"),
        ("http://a/1,http://b/2", f"{MORE}; a comma within a URL is written %2C"),
        ("http://a/1;https://b/2", MORE),
        ("http://a/1 | www.example.com", MORE),
        ('"http://a/1" "http://b/2"', MORE),
        ("<http://a/1>, <http://b/2>", f"{MORE}; a comma within a URL is written %2C"),
        ("the page: http://a/1", OTHER),
        ("[a](http://a/) [b](http://b/)", OTHER),
        (
            "http://a/1 the page",
            "There is a blank, at character 11, and a blank ends a URL; within one it is written %20",
        ),
        (
            "- http://a/1\tthe page",
            "There is a tab, at character 13; a table is sent as text/csv or text/tab-separated-values",
        ),
        ('"http://a/1', 'The " has no partner; a URL stands alone, or between two of them'),
        ('http://a/1"', 'The " has no partner; a URL stands alone, or between two of them'),
        ("<http://a/1", "The < has no partner; a URL stands alone, or between two of them"),
        ("http://a/\u200b1", "An invisible character (U+200B) is in the URL"),
        ("http://exam\u00adple.com/", "An invisible character (U+00AD) is in the URL"),
        ('""', "There is no URL on it"),
        ("- <>", "There is no URL on it"),
        ('<a href="http://a/1">the page</a>', f"It looks like XML or HTML. {TAKEN}"),
        ("<loc>http://a/1</loc>", f"It looks like XML or HTML. {TAKEN}"),
        ('{"url": "http://a/1"}', "It looks like JSON; send it as application/x-ndjson or application/json"),
        ("[", "It looks like JSON; send it as application/x-ndjson or application/json"),
    ],
)
def test_more_than_a_url_is_refused_in_words(line: str, msg: str) -> None:
    with pytest.raises(ValueError, match=re.escape(msg) + "$"):
        url_on_line(line)


@given(line=st.text(alphabet="ht tp:/a.,;<>\"'()[]#-\u200b\t", max_size=30))
def test_any_line_is_read_or_refused(line: str) -> None:
    try:
        url = url_on_line(line)
    except ValueError:
        return
    assert url is None or not any(character.isspace() for character in url)


def test_a_cell_may_have_blanks_and_a_comma_at_its_end() -> None:
    assert url_in_cell(" <http://a/my page> ") == "http://a/my page"
    assert url_in_cell("http://a/,") == "http://a/,"
    with pytest.raises(ValueError, match="more than one URL"):
        url_in_cell("http://a/1\nhttp://b/2")


def test_markup_and_headers_are_told_from_urls() -> None:
    assert [is_markup(text) for text in ("<?xml?>", "<urlset>", "<!DOCTYPE html>", "< a>", "</x>")] == [
        True
    ] * 5
    assert not any(
        is_markup(text) for text in ("<https://a/>", "<URL:http://a/>", "<www.a.example>", "x<y", "")
    )
    assert all(is_header(line) for line in ("url", "URL,title", '"title";"Link"', "Address\tStatus"))
    assert not any(is_header(line) for line in ("http://a/,url", "title", "urls", "www.example.com/url"))
