"""The examples of client/README.md run, against the service in memory."""

import re
from pathlib import Path

import pytest

import retriever_client
from retriever_client.testing import AsyncFakeRetriever, FakeRetriever

README = Path(__file__).resolve().parents[2] / "client" / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0])
def test_an_example_runs(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retriever_client, "Retriever", FakeRetriever)
    monkeypatch.setattr(retriever_client, "AsyncRetriever", AsyncFakeRetriever)

    exec(compile(block, str(README), "exec"), {"__name__": "example"})  # noqa: S102 - our own examples


def test_there_are_examples_of_everything() -> None:
    assert len(BLOCKS) == 5
