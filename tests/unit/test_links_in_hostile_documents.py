"""Documents written to keep a parser busy: the work grows with their length, and nothing fails."""

import sys
import tracemalloc

import pytest

from retriever_client.cli.links.document import Format
from retriever_client.cli.links.extraction import extract

BYTES = 20_000
HOSTILE = {
    "brackets": "[",
    "brackets of images": "![",
    "links that never end": "[a](",
    "links": "[a](http://b) ",
    "autolinks": "<http://a> ",
    "references that nothing defines": "[a]",
    "definitions": "[a]: b\n",
    "footnotes within footnotes": "[^1]: ",
    "quotations within quotations": "> ",
    "items within items": "- ",
    "backquotes": "`a",
    "literals": "``a ",
    "phrases that never end": "`a <",
    "emphasis": "*a **b _c ",
    "cells": "|a",
    "rows": "|a|b|\n",
    "elements within elements": "<div>",
    "elements that misnest": "<b><i><a href=x><p>",
    "tables within tables": "<table><td>",
    "attributes": "<a href=",
    "comments": "<!--",
    "sheets": "<style>/*url('",
    "sets of images": "<img srcset='a,(",
    "schemes": "http://",
    "URLs of brackets": "http://a/(",
    "roles": ":a:`b",
    "directives": ".. a::\n   ",
    "targets": ".. _a: b\n",
    "colons": "::\n\n ",
    "fields": ":a: ",
    "front matter": "---\n",
    "entities": "&amp;",
    "backslashes": "\\",
    "zero characters": "\x00",
}


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    """Let parsers import and compile what they do at their first document."""
    for written_in in (Format.MARKDOWN, Format.HTML, Format.REST, Format.TEXT):
        extract("\n\n".join(HOSTILE.values()), written_in)


def calls(text: str, written_in: Format) -> int:
    """Return how many functions of Python and C are called while links are found: each run the same."""
    count = 0

    def tell(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(tell)
    try:
        extract(text, written_in)
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("written_in", [Format.MARKDOWN, Format.HTML, Format.REST, Format.TEXT])
@pytest.mark.parametrize("piece", HOSTILE.values(), ids=HOSTILE)
def test_four_times_the_text_is_about_four_times_the_work(piece: str, written_in: Format) -> None:
    short = piece * (BYTES // 4 // len(piece))

    assert calls(short * 4, written_in) < 5 * calls(short, written_in) + 1_000


@pytest.mark.parametrize("written_in", [Format.MARKDOWN, Format.HTML, Format.REST, Format.TEXT])
@pytest.mark.parametrize(
    ("opening", "closing"),
    [("[", "](a)"), ("<p>", "</p>"), ("![", "](a)"), ("> ", ""), ("- ", ""), ("`", "`_")],
)
def test_what_is_nested_deeply_ends_in_no_error(opening: str, closing: str, written_in: Format) -> None:
    text = f"{opening * 5_000}http://x/{closing * 5_000}\n\nhttp://y/\n"

    links = extract(text, written_in).links

    # Text of HTML is no link, and below fifty items Markdown is not read.
    if written_in is not Format.HTML and (opening, written_in) != ("- ", Format.MARKDOWN):
        assert "http://y/" in [link.url for link in links]


@pytest.mark.parametrize("written_in", [Format.MARKDOWN, Format.REST, Format.TEXT])
def test_a_table_of_many_cells_costs_no_memory_for_each(written_in: Format) -> None:
    text = "|a|b|\n|-|-|\n" + "|x|y|\n" * 20_000
    tracemalloc.start()
    try:
        extract(text, written_in)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 300 * len(text)
