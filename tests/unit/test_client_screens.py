"""What the documents show of the command line is what it prints, on a service in memory."""

import re
from pathlib import Path

import pytest

from retriever_client.cli.commands import doctor
from retriever_client.cli.configuration import find_configuration
from tests.support.cli_screens import run_line, shown_service
from tests.support.documents import blocks, read

DOCUMENT = "docs/cli-groups.md"
README = "client/README.md"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")
# Those of links, and what runs a program, have tests of their own.
_OTHERS = ("check", "links", "fetch", "run")


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", lambda _name: "0.2.0")
    for name in ("RETRIEVER_URL", "RETRIEVER_KEY", "RETRIEVER_KEY_FILE", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)


def untimed(text: str) -> str:
    """Return text without its times and the lengths of lines that those had."""
    return re.sub(r" +", " ", _TIME.sub("TIME", text))


def test_a_document_shows_what_commands_print() -> None:
    client = shown_service()
    wrong = []
    ran = 0
    for block in blocks(DOCUMENT):
        if block.language != "sh":
            continue
        result = run_line(client, block.text.strip())
        ran += 1
        if result.exit_code != 0 or untimed(result.output) != untimed(block.answer or ""):
            wrong.append(f"{block} prints:\n{result.output}{result.exception or ''}")

    assert not wrong, "\n".join(wrong)
    assert ran >= 15


def test_the_commands_of_the_readme_do_what_they_say() -> None:
    client = shown_service()
    lines = [
        line
        for block in blocks(README)
        if block.language == "sh"
        for line in block.text.splitlines()
        if line.startswith("retriever ") and line.split()[1] not in _OTHERS
    ]

    for line in lines:
        result = run_line(client, line)
        assert result.exit_code == 0, f"{line}\n{result.output}"
    assert len(lines) >= 5


def test_the_documents_name_no_option_that_is_not_there() -> None:
    client = shown_service()
    known = set()
    for names in _named(read(DOCUMENT)):
        result = run_line(client, f"retriever {names} --help")
        assert result.exit_code == 0, names
        known.add(names)

    assert {"jobs watch", "batches results", "keys create", "operations"} <= known


def _named(text: str) -> set[str]:
    """Return the commands that a text names between backticks."""
    groups = "jobs|batches|operations|keys|secrets|parked|kinds|lanes|hosts|limits|tasks|schedules"
    return {" ".join(each.split()) for each in re.findall(rf"`((?:{groups})(?: [a-z]+)?)\b[^`]*`", text)}


def test_the_file_that_is_shown_can_be_read(tmp_path: Path) -> None:
    (example,) = (block.text for block in blocks(DOCUMENT) if block.language == "toml")
    (tmp_path / "retriever.toml").write_text(example)

    said = find_configuration(tmp_path)

    assert said.host_of("https://www.example.com/a").statuses == (403, "200-299")
    assert said.host_of("http://slow.example:80/").skip
    assert not said.host_of("http://slow.example:8080/").skip
