"""The examples of client/README.md run, against the service in memory."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

import retriever_client
from retriever_client.cli.main import retriever
from retriever_client.testing import AsyncFakeRetriever, FakeRetriever

README = Path(__file__).resolve().parents[2] / "client" / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
# The others are run with what they show.
COMMANDS = re.findall(r"^retriever (?:check|links) .*$", README.read_text(), re.MULTILINE)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0])
def test_an_example_runs(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retriever_client, "Retriever", FakeRetriever)
    monkeypatch.setattr(retriever_client, "AsyncRetriever", AsyncFakeRetriever)

    exec(compile(block, str(README), "exec"), {"__name__": "example"})  # noqa: S102 - our own examples


def test_there_are_examples_of_everything() -> None:
    assert len(BLOCKS) == 5


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("README.md").write_text("<https://example.com/>\n")
    with FakeRetriever() as client:
        result = CliRunner().invoke(retriever, shlex.split(command)[1:], obj=client)

    assert result.exit_code == 0, result.output


def test_there_are_commands_of_everything() -> None:
    assert len(COMMANDS) == 3
