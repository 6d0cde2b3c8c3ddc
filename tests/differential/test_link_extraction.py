"""500 real documents: we find the links that another parser finds, or docs/links.md says why not."""

import os
import re
from html import unescape
from pathlib import Path

import pytest

from retriever_client.cli.links.document import Format
from retriever_client.cli.links.extraction import extract
from tests.differential.link_extraction import WANTED, differences, documents

LEAST = 100
LISTED = (Path(__file__).resolve().parents[2] / "docs" / "links.md").read_text()


@pytest.mark.parametrize("written_in", WANTED)
def test_the_links_of_real_documents_are_those_that_another_tool_finds(written_in: Format) -> None:
    paths = documents(written_in)
    # What there is depends on the machine; docs/links.md says what 500 came to.
    assert len(paths) >= (LEAST if "CI" in os.environ else 1)

    found = list(differences(written_in))

    assert [each for each in found if each[3] is None] == []
    assert {why for *_, why in found if why is not None and why not in LISTED} == set()


@pytest.mark.parametrize("written_in", WANTED)
def test_each_link_of_real_documents_is_written_where_it_is_said_to_be(written_in: Format) -> None:
    for path in documents(written_in):
        text = path.read_text()
        lines = text.split("\n")
        for link in extract(text, written_in).links:
            behind = "\n".join([lines[link.line - 1][link.column - 1 :], *lines[link.line : link.line + 20]])

            assert behind.startswith(link.raw), (path, link)
            url = link.url.removeprefix("mailto:").removeprefix("http://")
            assert url in meaning(link.raw, written_in), (path, link)


def meaning(raw: str, written_in: Format) -> str:
    """Return what is written without the escapes of its format."""
    return re.sub(r"\\(.)", r"\1", "".join(raw.split())) if written_in is Format.REST else unescape(raw)
