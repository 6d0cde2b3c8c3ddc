"""Titles and fragments of pages, and pages that are made to be slow."""

import time

import pytest

from consumer.handlers.html import MAX_TITLE_LENGTH, has_fragment, title_of


@pytest.mark.parametrize(
    ("page", "title"),
    [
        ("<title>A</title>", "A"),
        ("<HTML><TITLE lang=en >\n A &lt; B\t</TITLE>", "A < B"),
        ("<!-- <title>No</title> --><title>Yes", "Yes"),
        ("<script>'<title>No</title>'</script><title>Yes</title>", "Yes"),
        ("<title></title>", None),
        ("no page", None),
        ("<title>" + "a" * 5_000, "a" * MAX_TITLE_LENGTH),
        ("<title>\x1b[31m&#0;</title>", "\ufffd[31m\ufffd"),
    ],
)
def test_a_title_is_found_and_fit_to_be_shown(page: str, title: str | None) -> None:
    assert title_of(page) == title


@pytest.mark.parametrize(
    ("page", "is_there"),
    [
        ("<p id=x>", True),
        ("<P ID = 'x' class=y>", True),
        ('<a title="a > b" name="x">', True),
        ("<script id=x></script>", True),
        ("<p\nid\n=\nx\n/>", True),
        ("<p id='&#120;'>", True),
        ("<p id=y>", False),
        ("<p data-id=x>", False),
        ("<p title='id=x'>", False),
        ("<!-- <p id=x> -->", False),
        ("<textarea><p id=x></textarea>", False),
        ("id=x", False),
    ],
)
def test_a_fragment_is_an_id_or_a_name_of_a_tag(page: str, is_there: bool) -> None:
    assert has_fragment(page, "x") is is_there


@pytest.mark.parametrize(
    "piece", ["<a ", "<!--", "<a b='", '<a b="', "</", "<title", "<script>", "<a id=x ", "<a/", "<a '\" "]
)
def test_no_page_of_a_megabyte_takes_long(piece: str) -> None:
    page = piece * (1_000_000 // len(piece))
    started = time.process_time()

    title_of(page)
    has_fragment(page, "nowhere")

    assert time.process_time() - started < 3
