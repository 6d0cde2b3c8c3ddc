"""Titles and fragments of pages, by the rules of the HTML Standard, and pages that are made to be slow."""

import random
import threading
import time
from collections.abc import Mapping

import pytest

from consumer.compute.html import MAX_TITLE_LENGTH, Page, is_for_scripts, is_top, read_page
from consumer.http import markup
from consumer.http.markup import Markup, markup_of, sniff

SECONDS = 5.0
"""For what takes 0.05 to 0.5 s on an idle machine; before, it was minutes."""


def title_of(page: str) -> str | None:
    return read_page(page, Markup.HTML).title


def leads_to(page: str, fragment: str, markup: Markup = Markup.HTML) -> bool:
    return fragment in read_page(page, markup, [fragment]).fragments


@pytest.mark.parametrize(
    ("page", "title"),
    [
        ("<title>A</title>", "A"),
        ("<HTML><TITLE lang=en >\n A &lt; B\t</TITLE>", "A < B"),
        ("<!-- <title>No</title> --><title>Yes", "Yes"),
        ("<script>'<title>No</title>'</script><title>Yes</title>", "Yes"),
        ("<svg><title>No</title></svg><title>Yes</title>", "Yes"),
        ("<template><title>No</title></template><title>Yes</title>", "Yes"),
        ("<p>late<title>Yes</title><title>No</title>", "Yes"),
        ("<title>The <br/> and </p> of <b>HTML</b></title>", "The <br/> and </p> of <b>HTML</b>"),
        ("<title>The end: </script>, </SVG></title>", "The end: </script>, </SVG>"),
        ("<title></title><title>No</title>", None),
        ("no page", None),
        ("", None),
        ("<title>" + "a" * 5_000, "a" * MAX_TITLE_LENGTH),
        ("<title>\x1b[31m&#0;\0</title>", "\ufffd[31m\ufffd\ufffd"),
    ],
)
def test_a_title_is_found_and_fit_to_be_shown(page: str, title: str | None) -> None:
    assert title_of(page) == title


@pytest.mark.parametrize(
    "page",
    [
        "<p id=x>",
        "<P ID = 'x' class=y>",
        '<a title="a > b" name="x">',
        "<script id=x></script>",
        "<p\nid\n=\nx\n/>",
        "<p id='&#120;'>",
        "<!--><p id=x>",
        "<!---><p id=x>",
        "<!-- --!><p id=x>",
        "<p id=x id=y>",
        "<svg><path id=x /></svg>",
        "<noscript><p id=x></noscript>",
        "<template></template><p id=x>",
        "<template><tr><td></template><p id=x>",
        "<div></template><p id=x>",
        "<script src=y /><p id=x>",
        "<p></p></body></html><p id=x>",
        "<html id=x>",
        "<body id=x>",
        "<? a ><p id=x>",
        "<![CDATA[ a ><p id=x>",
        "<svg><style><![CDATA[</style></svg><p id=x>]]>",
        "<svg><![CDATA[<p>]]></svg><p id=x>",
        "<script>'<svg><![CDATA['</script><p id=x>",
        "<textarea></textarea a=b><p id=x>",
        "<title><p id=y></title><p id=x>",
        "<a\0b id=x>",
        f"{' ' * 1_100}<title<p id=x>",
    ],
)
def test_an_id_of_any_element_and_the_name_of_an_a_are_places(page: str) -> None:
    assert leads_to(page, "x")


@pytest.mark.parametrize(
    "page",
    [
        "<p id=y>",
        "<p id=X>",
        "<p id=x/>",
        "<p id=y id=x>",
        "<p data-id=x>",
        "<p title='id=x'>",
        "<p id='x\0'>",
        "<input name=x>",
        "<meta name=x content=y>",
        "<!-- <p id=x> -->",
        "<!-- > <p id=x> -->",
        "<textarea><p id=x></textarea>",
        "<iframe><p id=x></iframe>",
        "<xmp><p id=x></xmp>",
        "<plaintext><p id=x>",
        "<template><p id=x></template>",
        "<template><template></template><p id=x></template>",
        "<script><!-- <script> </script> <p id=x> </script>",
        "<svg><![CDATA[ > <p id=x> ]]></svg>",
        "</p id=x>",
        f"<title>{' ' * 1_100}</title<p id=x></title>",
        f"<script>{' ' * 1_100}</script<![CDATA[<p id=x>",
        "<p id=x",
        "id=x",
    ],
)
def test_nothing_else_is_a_place(page: str) -> None:
    assert not leads_to(page, "x")


@pytest.mark.parametrize(
    ("page", "fragment", "is_there"),
    [
        ("<p id='a b'>", "a%20b", True),
        ("<p id=a%20b>", "a%20b", True),
        ("<p id=é>", "%C3%A9", True),
        ("<p id=é>", "é", True),
        ("<p id=é>", "%E9", True),
        ("<p id=%E9>", "%E9", True),
        ("<p id=é>", "%C3%89", False),
        ("<p id=x>", "x:~:text=word", True),
        ("<p id=user-content-x>", "x", True),
        ("<p id='a<b'>", "a<b", True),
        ("<p id='a&amp;b'>", "a&b", True),
    ],
)
def test_a_fragment_is_taken_as_it_stands_and_then_decoded(page: str, fragment: str, is_there: bool) -> None:
    assert leads_to(page, fragment) is is_there


def test_many_fragments_are_looked_for_in_one_page_at_once() -> None:
    page = read_page("<title>A</title><p id=a><p id=b>", Markup.HTML, ["a", "%62", "c"])

    assert page == Page("A", frozenset({"a", "%62"}))


@pytest.mark.parametrize("fragment", ["", "top", "TOP", "t%6Fp", ":~:text=word", "top:~:text=word"])
def test_no_fragment_top_and_a_directive_lead_to_the_top_of_every_page(fragment: str) -> None:
    assert is_top(fragment)


@pytest.mark.parametrize("fragment", ["/users", "!/users", "!x", "L10", "L10-L20", "L10C2-L11C3"])
def test_routes_and_lines_of_files_are_for_scripts(fragment: str) -> None:
    assert is_for_scripts(fragment)


@pytest.mark.parametrize("fragment", ["users", "L", "L10x", "Lists", "a/b"])
def test_other_fragments_are_for_the_page(fragment: str) -> None:
    assert not is_for_scripts(fragment)


XHTML = '<?xml version="1.0" encoding="utf-16"?><html xmlns="http://www.w3.org/1999/xhtml">{}</html>'


@pytest.mark.parametrize(
    ("inside", "is_there"),
    [
        ('<script src="y"/><p id="x"/>', True),
        ('<title/><p id="x"/>', True),
        ('<a name="x"/>', True),
        ("<p>&nbsp;</p><p id='x'/>", True),
        ('<p><b></p><p id="x"/>', True),
        ('<![CDATA[<p id="x"/>]]>', False),
        ('<input name="x"/>', False),
        ('<template><p id="x"/></template>', False),
        ('<p ID="x"/>', False),
    ],
)
def test_xhtml_is_read_as_xml(inside: str, is_there: bool) -> None:
    assert leads_to(XHTML.format(inside), "x", Markup.XHTML) is is_there


def test_the_title_of_xhtml_is_none_of_svg() -> None:
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><title>No</title></svg>'
    page = XHTML.format(f"<body>{svg}<title>Yes &amp; no</title></body>")

    assert read_page(page, Markup.XHTML).title == "Yes & no"


@pytest.mark.parametrize(
    ("declared", "markup"),
    [
        ("text/html", Markup.HTML),
        (" TEXT/HTML ;charset=x", Markup.HTML),
        ("text/html, text/html; charset=x", Markup.HTML),
        ("text/html charset=x", Markup.UNKNOWN),
        ("application/xhtml+xml", Markup.XHTML),
        ("text/plain", Markup.NONE),
        ("application/pdf", Markup.NONE),
        ("image/svg+xml", Markup.NONE),
        (None, Markup.UNKNOWN),
        ("", Markup.UNKNOWN),
        ("html", Markup.UNKNOWN),
        ("*/*", Markup.UNKNOWN),
    ],
)
def test_the_type_says_what_a_page_is(declared: str | None, markup: Markup) -> None:
    assert markup_of(declared) is markup


@pytest.mark.parametrize(
    ("body", "markup"),
    [
        (b"\n <!DOCTYPE HTML>", Markup.HTML),
        (b"\xef\xbb\xbf<p >", Markup.HTML),
        (b"<!-- x -->", Markup.HTML),
        (b"<pre>", Markup.NONE),
        (b"%PDF-1.7", Markup.NONE),
        (b"", Markup.NONE),
    ],
)
def test_a_body_without_a_type_is_a_page_when_it_begins_like_one(body: bytes, markup: Markup) -> None:
    assert sniff(body) is markup


def test_the_names_in_a_page_are_forgotten_with_the_thread_that_read_it() -> None:
    class Witness:
        is_done = False
        thread = threading.current_thread()

        def start(self, name: str, attributes: Mapping[str, str], *, is_html: bool) -> None:
            self.thread = threading.current_thread()

        def end(self, name: str) -> None: ...
        def text(self, text: str) -> None: ...

    for read in (markup.read_html, markup.read_xhtml):
        witness = Witness()
        read('<p id="x"/>', witness)

        assert not witness.thread.is_alive()


MEGABYTE = 1_000_000
PIECES = (
    *("<div>", "<b><i></b>", "<p id=x>", "<table><tr><td>", "<template>", "<style/>", "</p>", "</", "<a <a"),
    *(
        "<a b='",
        "<a/",
        "<a \0",
        "<!--",
        "<title",
        "<script>",
        "<svg><![CDATA[",
        "<svg><![CDATA[]]>",
        "&x",
        "\0",
    ),
)
SLOW_PAGES = {
    **{piece: piece * (MEGABYTE // len(piece)) for piece in PIECES},
    "end tags below a deep nest": "<div>" * 100_000 + "</p>" * 120_000,
    "end tags of scripts below a deep nest": "<div>" * 100_000 + "</script>" * 55_000,
    "attributes": f"<p {' '.join(f'a{number}=1' for number in range(120_000))}>",
}
SLOW_XHTML = {
    "elements": "<div>" * 200_000,
    "end tags below a deep nest": "<div>" * 100_000 + "</p>" * 120_000,
    "attributes": "<p " + " ".join(f"a{number}='1'" for number in range(100_000)) + ">",
    "entities": "<!DOCTYPE a [" + "<!ENTITY a 'b'>" * 30_000 + "]><a>" + "&a;" * 150_000 + "</a>",
}


@pytest.mark.parametrize("page", SLOW_PAGES.values(), ids=[ascii(name) for name in SLOW_PAGES])
def test_no_page_of_a_megabyte_takes_long(page: str) -> None:
    started = time.process_time()

    read_page(page, Markup.HTML, ["nowhere"])

    assert time.process_time() - started < SECONDS


@pytest.mark.parametrize("page", SLOW_XHTML.values(), ids=SLOW_XHTML.keys())
def test_no_page_of_a_megabyte_of_xhtml_takes_long(page: str) -> None:
    started = time.process_time()

    read_page(page, Markup.XHTML, ["nowhere"])

    assert time.process_time() - started < SECONDS


def test_entities_within_entities_do_not_fill_the_memory() -> None:
    names = "abcdefghij"
    entities = [
        f'<!ENTITY {one} "{f"&{other};" * 10}">' for one, other in zip(names[1:], names, strict=False)
    ]
    page = f'<!DOCTYPE p [<!ENTITY a "aaaaaaaaaa">{"".join(entities)}]><p id="&j;">&j;</p>'
    started = time.process_time()

    read_page(page, Markup.XHTML, ["nowhere"])

    assert time.process_time() - started < SECONDS


WORDS = (
    *(
        "<div>",
        "</div>",
        "<p id=x>",
        "<title>",
        "</title>",
        "<script>",
        "</script>",
        "<!--",
        "-->",
        "<svg>",
        "</svg>",
    ),
    *(
        "<![CDATA[",
        "]]>",
        "<template>",
        "</template>",
        "'",
        '"',
        "=",
        "/",
        ">",
        "<",
        "a",
        " ",
        "&amp;",
        "<a name='x'>",
    ),
)


def test_a_page_says_the_same_however_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = random.Random(15)
    for _ in range(500):
        page = "".join(choice.choices(WORDS, k=12))
        whole = read_page(page, Markup.HTML, ["x"])
        with monkeypatch.context() as patched:
            patched.setattr(markup, "FIRST_PIECE_CHARACTERS", 1)
            patched.setattr(markup, "PIECE_CHARACTERS", 1)

            assert read_page(page, Markup.HTML, ["x"]) == whole, page
