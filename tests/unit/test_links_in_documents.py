"""Links in documents: what is one, where it is written, and what the comments for us take out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retriever_client.cli.links.document import Format, LinkKind
from retriever_client.cli.links.extraction import Extraction, extract, format_of_name
from retriever_client.cli.links.sitemap import NoSitemap

MARKDOWN, HTML, REST, TEXT, SITEMAP = Format


def found(text: str, written_in: Format) -> list[tuple[str, int, int, str]]:
    return [(link.url, link.line, link.column, link.kind.value) for link in extract(text, written_in).links]


def urls(text: str, written_in: Format) -> list[str]:
    return [link.url for link in extract(text, written_in).links]


def test_links_of_markdown_are_told_by_line_and_column() -> None:
    text = "# T\n\nSee [a](http://x/a) and <http://x/b>,\n![c](c.png 'title') and http://x/d.\n"

    assert found(text, MARKDOWN) == [
        ("http://x/a", 3, 9, "link"),
        ("http://x/b", 3, 26, "link"),
        ("c.png", 4, 6, "image"),
        ("http://x/d", 4, 25, "link"),
    ]


def test_a_link_in_a_quotation_and_an_item_keeps_its_column() -> None:
    text = "> - é😀 [a](http://x/a)\n>   more [b](<http://x/b c>)\n>\n>    [c](d)\n"

    assert found(text, MARKDOWN) == [
        ("http://x/a", 1, 12, "link"),
        ("http://x/b c", 2, 15, "link"),
        ("d", 4, 10, "link"),
    ]


def test_a_reference_link_is_found_where_its_target_is_defined() -> None:
    text = "[one][r] [two][r] ![i][r] [unknown][u]\n\n> [r]: <http://x/r>\n> 'title'\n\n[not used]:\n  /n\n"

    assert found(text, MARKDOWN) == [("http://x/r", 3, 9, "definition"), ("/n", 7, 3, "definition")]


def test_an_image_that_is_a_link_is_two_links() -> None:
    assert found("[![badge](b.svg)](http://x/)", MARKDOWN) == [
        ("b.svg", 1, 11, "image"),
        ("http://x/", 1, 19, "link"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "`http://x/` and `[a](b)`",
        "```\nhttp://x/ [a](b)\n```",
        "    [a](http://x/)",
        "---\nurl: http://x/\n---\n",
        "+++\nurl = 'http://x/'\n+++\n",
        "\\[a](b)",
        "[a] (b)",
        "[a]()",
        "<!-- [a](http://x/) -->",
        "write to a@x.example",
    ],
)
def test_what_is_code_or_a_comment_or_front_matter_is_no_link_of_markdown(text: str) -> None:
    assert urls(text, MARKDOWN) == []


def test_html_within_markdown_has_links_where_they_are_written() -> None:
    text = 'a <a href="/a">b</a>\n\n> <p>\n> <img src=i.png\n>  srcset="j.png 2x">\n\n| a | <a href=c>'

    assert found(text, MARKDOWN) == [
        ("/a", 1, 12, "link"),
        ("i.png", 4, 12, "image"),
        ("j.png", 5, 12, "image"),
        ("c", 7, 15, "link"),
    ]


def test_footnotes_of_markdown_are_no_definitions_and_hold_links() -> None:
    text = "a[^1]\n\n[^1]: http://x/n and\n\n    more [b](c)\n"

    assert found(text, MARKDOWN) == [("http://x/n", 3, 7, "link"), ("c", 5, 14, "link")]


def test_urls_of_markdown_end_where_github_ends_them() -> None:
    text = "(http://x/a_(b)). **http://x/c** www.d.example/e, http://x/f?g&amp;h&gt; "
    text += "http://x/i\\_j [http://x/k](l)"

    assert urls(text, MARKDOWN) == [
        *("http://x/a_(b)", "http://x/c", "http://www.d.example/e", "http://x/f?g&h", "http://x/i_j", "l"),
    ]


def test_headings_of_markdown_have_the_fragments_of_github() -> None:
    text = "# Ünder `the` *hood*?\n\nA\n-\n\n## A\n\n## own {#mine}\n\n<a name=n></a><b id='i'>\n"

    assert extract(text, MARKDOWN).anchors == {"ünder-the-hood", "a", "a-1", "own", "mine", "n", "i"}


def test_links_of_html_are_of_many_elements() -> None:
    text = """<base href="/d/"><link rel=stylesheet href="s.css"><link rel=preconnect href=//p>
<meta http-equiv=Refresh content="3; URL='next.html'"><body background=bg.png>
<a href=" a?b&amp;c ">x</a> <img src='i.png' srcset="j.png 1x, k,l.png 2x"> <iframe src=f></iframe>
<style>/* url(no.png) */ @import "t.css"; a {background: url( 'u.png' )}</style><p style="x:url(v.png)">
<form action=g><svg><use xlink:href="s.svg#x"/></svg><video poster=p.png src=v.mp4></video><q cite=c></q>
<template><a href=t></a></template><!-- <a href=no> --> http://no.example/ <a href="">self</a><a name=n>"""

    extraction = extract(text, HTML)

    assert extraction.base == "/d/"
    assert extraction.anchors == {"n"}
    assert [(link.url, link.line, link.kind.value) for link in extraction.links] == [
        ("s.css", 1, "resource"),
        ("next.html", 2, "refresh"),
        ("bg.png", 2, "image"),
        ("a?b&c", 3, "link"),
        ("i.png", 3, "image"),
        ("j.png", 3, "image"),
        ("k,l.png", 3, "image"),
        ("f", 3, "frame"),
        ("t.css", 4, "resource"),
        ("u.png", 4, "resource"),
        ("v.png", 4, "resource"),
        ("g", 5, "form"),
        ("s.svg#x", 5, "image"),
        ("p.png", 5, "image"),
        ("v.mp4", 5, "media"),
        ("c", 5, "citation"),
        ("t", 6, "link"),
    ]


def test_a_link_that_browsers_repeat_for_misnested_tags_is_written_once() -> None:
    assert urls("<p><a href=x>one<p>two<div>three", HTML) == ["x"]


def test_links_of_restructured_text_are_told_by_line_and_column() -> None:
    text = """See `a <http://x/a>`_, `b
<http://x/
b>`__ and http://x/c, |i| and `d`_.

.. _d: http://x/d
.. _`e: f`: http://x/
   e
.. __: g.html
__ h.html
.. |i| image:: i.png
   :alt: http://no.example/
   :target: http://x/i
.. _internal:
.. _other: d_
"""

    assert found(text, REST) == [
        ("http://x/a", 1, 9, "link"),
        ("http://x/b", 2, 2, "link"),
        ("http://x/c", 3, 11, "link"),
        ("http://x/d", 5, 8, "definition"),
        ("http://x/e", 6, 13, "definition"),
        ("g.html", 8, 8, "definition"),
        ("h.html", 9, 4, "definition"),
        ("i.png", 10, 16, "image"),
        ("http://x/i", 12, 13, "link"),
    ]


def test_literals_comments_and_code_of_restructured_text_hold_no_links() -> None:
    text = """- An item::

    http://no/1

  and ``http://no/2``::

  > http://no/3

.. http://no/4
   http://no/5

.. code-block:: sh
   :name: x

   curl http://no/6

>>> get("http://no/7")

.. seealso:: http://x/a
   and

   more http://x/b
"""

    assert urls(text, REST) == ["http://x/a", "http://x/b"]


def test_urls_in_text_end_before_punctuation_and_brackets() -> None:
    text = (
        "http://x/a. (see http://x/b) <http://x/c>, \"http://x/d\" 'http://x/e' http://x/f(g)/h! [1]: http://x/i\n"
        "git+http://no/ xhttp://no/ http:// https://[::1]:8080/j http://x/k、次 HTTP://X/L http://x/{m}} ftp://x/n…"
    )

    assert urls(text, TEXT) == [
        *(
            "http://x/a",
            "http://x/b",
            "http://x/c",
            "http://x/d",
            "http://x/e",
            "http://x/f(g)/h",
            "http://x/i",
        ),
        *("https://[::1]:8080/j", "http://x/k", "HTTP://X/L", "http://x/{m}", "ftp://x/n…"),
    ]


def test_pages_of_a_sitemap_are_told_by_line_and_column() -> None:
    text = (
        '<?xml version="1.0"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
        "<url><loc>é http://x/a?b&amp;c</loc></url><url>\n  <loc>\n   <![CDATA[http://x/d]]></loc>"
        "<image:loc xmlns:image='i'>no</image:loc></url></urlset>"
    )

    assert found(text, SITEMAP) == [("é http://x/a?b&c", 3, 11, "page"), ("http://x/d", 5, 13, "page")]


def test_an_index_of_sitemaps_leads_to_sitemaps() -> None:
    text = "<sitemapindex><sitemap><loc>http://x/s.xml</loc></sitemap></sitemapindex>"

    assert found(text, SITEMAP) == [("http://x/s.xml", 1, 29, "sitemap")]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('<!DOCTYPE u [<!ENTITY a "b">]><urlset><url><loc>&a;</loc></url></urlset>', "document type"),
        ("<html><body></body></html>", "its root is <html>"),
        ("<urlset><url>", "not well-formed"),
        ("", "not well-formed"),
        ("<urlset>" + "<url><loc>http://x/</loc></url>" * 50_001 + "</urlset>", "more than 50,000"),
    ],
)
def test_what_is_no_sitemap_says_why(text: str, why: str) -> None:
    with pytest.raises(NoSitemap, match=why):
        extract(text, SITEMAP)


@pytest.mark.parametrize(
    ("written_in", "text"),
    [
        (MARKDOWN, "[a](no) <!-- retriever: ignore -->\n[b](yes)"),
        (MARKDOWN, "<!-- retriever: ignore -->\n[a](no)\n\n[b](yes)"),
        (MARKDOWN, "<!-- retriever: ignore-next -->\n\n[a](no)\n[b](yes)"),
        (MARKDOWN, "<!-- retriever: off -->\n\n[a](no)\n\n[b](no)\n\n<!-- retriever: on -->\n\n[c](yes)"),
        (MARKDOWN, "[b](yes)\n\n> - <!-- retriever: off -->\n\n[a](no)"),
        (MARKDOWN, "```\n<!-- retriever: off -->\n```\n[b](yes)"),
        (HTML, "<a href=no></a><!-- retriever: ignore -->\n<a href=yes>"),
        (HTML, "<!--retriever:ignore-->\n<a href=no></a>\n<a href=yes>"),
        (HTML, "<script>'<!-- retriever: off -->'</script>\n<a href=yes>"),
        (REST, ".. retriever: ignore\n\n`a <no>`_\n`b <yes>`_"),
        (REST, ".. retriever: off\n\n`a <no>`_\n\n.. retriever: on\n\n`b <yes>`_"),
    ],
)
def test_comments_take_links_out(written_in: Format, text: str) -> None:
    extraction = extract(text, written_in)

    assert [link.url for link in extraction.links] == ["yes"]
    assert extraction.ignored == sum(text.count(written) for written in ("(no)", "=no>", "<no>"))


def test_comments_count_what_they_take_out() -> None:
    assert extract("[a](b) [c](d) <!-- retriever: ignore -->\n[e](f)", MARKDOWN).ignored == 2


def test_a_comment_that_says_nothing_we_know_is_told() -> None:
    extraction = extract("[a](b) <!-- retriever: ignroe -->", MARKDOWN)

    assert [link.url for link in extraction.links] == ["b"]
    assert [(misread.said, misread.line, misread.column) for misread in extraction.misread] == [
        ("ignroe", 1, 8)
    ]


def test_line_ends_of_all_systems_count_the_same() -> None:
    lines = ["[a](b)", "", "> [c](d)", "<a href=e>"]

    expected = found("\n".join(lines), MARKDOWN)

    assert found("\r\n".join(lines), MARKDOWN) == found("\r".join(lines), MARKDOWN) == expected


@pytest.mark.parametrize(
    ("name", "written_in"),
    [
        ("README.md", MARKDOWN),
        ("a/B.HTML", HTML),
        ("a.rst", REST),
        ("notes.txt", TEXT),
        ("sitemap-1.xml.gz", SITEMAP),
        ("pom.xml", None),
        ("README", None),
    ],
)
def test_the_name_of_a_file_says_its_format(name: str, written_in: Format | None) -> None:
    assert format_of_name(name) is written_in


PIECES = st.sampled_from(
    [
        *(
            "[a](",
            "b)",
            "![",
            "](",
            "]",
            "[",
            "<http://x/y>",
            "http://x/y",
            "www.x.y",
            "`",
            "``",
            "```\n",
            "> ",
            "- ",
        ),
        *(
            "\n",
            "\n\n",
            "    ",
            "\t",
            "é",
            "😀",
            "\\",
            "[r]: ",
            "<a href='q'>",
            "<img src=",
            'srcset="a 1x, b">',
            "<!--",
        ),
        *(
            "-->",
            "&amp;",
            "|",
            "|-|\n",
            "# ",
            ".. _t: ",
            ".. image:: ",
            "`a <u>`_",
            "`_",
            "::\n\n",
            "[^1]: ",
            "1. ",
            "\r\n",
        ),
        *(
            "<style>",
            "url(k)",
            "</style>",
            "<!-- retriever: off -->",
            "\x00",
            "\u2028",
            "\x0c",
            "---\n",
            "<",
            ">",
            "'",
            '"',
        ),
    ]
)
DOCUMENTS = st.lists(PIECES, max_size=60).map("".join)


@given(DOCUMENTS, st.sampled_from([MARKDOWN, HTML, REST, TEXT]))
def test_every_position_points_at_what_is_written(text: str, written_in: Format) -> None:
    extraction: Extraction = extract(text, written_in)

    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for link in extraction.links:
        rest = "\n".join([lines[link.line - 1][link.column - 1 :], *lines[link.line :]])
        assert link.raw
        assert rest.startswith(link.raw)
        assert link.kind in set(LinkKind)


@given(st.lists(st.sampled_from(["http://x/a", "http://y/b?c=d", "e.md#f", "/g"]), min_size=1, max_size=5))
def test_every_link_of_markdown_is_found_in_its_order(targets: list[str]) -> None:
    text = "\n".join(f"> {'- ' * (number % 3)}w [é]({target})\n" for number, target in enumerate(targets))

    assert urls(text, MARKDOWN) == targets
