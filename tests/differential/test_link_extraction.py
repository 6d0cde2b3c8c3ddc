"""500 real documents: we find the links that another parser finds, or docs/links.md says why not."""

import os
from pathlib import Path

import pytest

from retriever_client.cli.links.document import Format
from tests.differential.link_extraction import WANTED, differences, documents

LISTED = (Path(__file__).resolve().parents[2] / "docs" / "links.md").read_text()


@pytest.mark.parametrize("written_in", WANTED)
def test_the_links_of_real_documents_are_those_that_another_tool_finds(written_in: Format) -> None:
    paths = documents(written_in)
    if len(paths) < WANTED[written_in] and "CI" not in os.environ:
        pytest.skip(f"only {len(paths)} documents with links on this machine")
    assert len(paths) == WANTED[written_in]

    found = list(differences(written_in))

    assert [each for each in found if each[3] is None] == []
    assert {why for *_, why in found if why is not None and why not in LISTED} == set()
