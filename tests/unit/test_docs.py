"""The documents say what the code says: settings, paths, links, states, messages and commands.

That their commands do what they show is tested by tests/integration/test_docs_run.py.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.broker.topology import exchanges, queues
from shared.messages import JobMessage, Report, WireMessage
from shared.retry import DELAY_STEPS_SECONDS
from shared.settings import PREFIX, Settings
from shared.states import JobState
from tests.faults.catalogue import ALL_FAULTS
from tests.faults.table import rows as table_rows
from tests.support.documents import (
    DOCUMENTS,
    REASONS_NOT_TO_RUN,
    ROOT,
    RUN_LANGUAGES,
    blocks,
    differences,
    prose,
    read,
)

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
OUR_PATH = re.compile(r"`((?:producer|consumer|shared|deploy|bench|tests)/[\w/.-]+)`")
SETTING = re.compile(rf"^#?{PREFIX}([A-Z_]+)=(.*)$", re.MULTILINE)
# One stop: its number, what happens, the file, the name in it.
STOP = re.compile(r"^\| (\d+) \| .* \| `([^`]+)` \| `([^`]+)` \|$", re.MULTILINE)
# A test in a table of docs/security.md, by its file and its name, or an exchange of tests/data by its words.
NAMED_FILE = re.compile(r"\b((?:unit|integration|contract|end_to_end|fuzz|data)/[\w/]+\.(?:py|yaml))")
NAMED_TEST = re.compile(r"`(test_\w+)`")
README_LINES = 130
SHOWN = """HTTP/1.1 202 Accepted
location: /jobs/01a203f7-2316-7400-922d-0a315fe2b95f

{"id": "01a203f7-2316-7400-922d-0a315fe2b95f", "run": 1, "hops": [{"seconds": 0.1, ...}, ...], ...}
"""
PRINTED = """HTTP/1.1 202 Accepted
date: Sun, 22 Nov 2026 15:54:17 GMT
location: /jobs/01a2ffff-2316-7400-922d-0a315fe2b95f

{"id": "01a2ffff-2316-7400-922d-0a315fe2b95f", "run": 1,
 "hops": [{"seconds": 2.5, "ip": "::"}, {}], "kind": 1}
"""


def examples_of_settings() -> dict[str, str]:
    return {name.lower(): value for name, value in SETTING.findall(read(".env.example"))}


def stops() -> list[tuple[str, str, str]]:
    return STOP.findall(read("README.md"))


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub makes of the headings of a text without blocks."""
    headings = HEADING.findall(text)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def relative_links() -> Iterator[tuple[Path, str]]:
    for document in DOCUMENTS:
        for target in LINK.findall(prose(document)):
            if not re.match(r"[a-z]+:", target):
                yield document, target


def bodies_of_messages() -> list[str]:
    return [block.text for block in blocks("docs/messages.md") if block.language == "json"]


def test_every_setting_is_listed_and_every_listed_setting_exists() -> None:
    listed = [name for name, _ in SETTING.findall(read(".env.example"))]

    assert sorted(listed) == sorted(name.upper() for name in Settings.model_fields)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_setting_is_listed_with_its_real_default(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(f"{PREFIX}{field.upper()}", raising=False)
        monkeypatch.delenv(f"{PREFIX}{field.upper()}_FILE", raising=False)
    monkeypatch.setenv(f"{PREFIX}{name.upper()}", examples_of_settings()[name])

    assert getattr(Settings(), name) == Settings.model_fields[name].default


def test_a_job_is_followed_through_ten_different_files() -> None:
    assert [number for number, *_ in stops()] == [str(number) for number in range(1, 11)]
    assert len({file for _, file, *_ in stops()}) == 10


@pytest.mark.parametrize(("file", "name"), [(file, name) for _, file, name in stops()])
def test_a_stop_names_something_that_its_file_defines(file: str, name: str) -> None:
    assert re.search(rf"^ *(?:async )?(?:def|class) {name}\b", read(file), re.MULTILINE)


def test_the_readme_is_short() -> None:
    assert len(read("README.md").splitlines()) <= README_LINES


def test_the_agent_in_thirty_lines_of_shell_has_thirty() -> None:
    assert len((ROOT / "examples" / "shell-agent" / "agent.sh").read_text().splitlines()) == 30


def test_every_block_is_run_or_says_why_not() -> None:
    reasons = {
        str(block): block.not_run for document in DOCUMENTS for block in blocks(document) if block.not_run
    }

    assert {place: reason for place, reason in reasons.items() if reason not in REASONS_NOT_TO_RUN} == {}
    assert set(reasons.values()) == REASONS_NOT_TO_RUN


def test_every_comment_that_holds_a_block_back_stands_right_before_it() -> None:
    for document in DOCUMENTS:
        held_back = [block for block in blocks(document) if block.not_run]

        assert read(document).count("<!-- not run:") == len(held_back), document
        assert {block.language for block in held_back} <= RUN_LANGUAGES, document


def test_every_decision_begins_with_whether_it_holds() -> None:
    first_lines = {
        document: read(document).splitlines()[2]
        for document in DOCUMENTS
        if document.parent.name == "decisions"
    }

    assert [
        path for path, line in first_lines.items() if not line.startswith(("**Holds", "**Overturned"))
    ] == []


def test_an_answer_is_as_it_is_shown_but_for_ids_times_and_fractions() -> None:
    ids: dict[str, str] = {}

    assert list(differences(SHOWN, PRINTED, ids)) == []
    assert ids == {"01a203f7-2316-7400-922d-0a315fe2b95f": "01a2ffff-2316-7400-922d-0a315fe2b95f"}


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ("202 Accepted", "200 OK"),
        ('"run": 1', '"run": 2'),
        ('"run": 1,', ""),
        ('"ip": "::"}', '"ip": "::"}]'),
        ("/jobs/01a2ffff", "/jobs/01a2fffe"),
        ('"seconds": 2.5', '"seconds": null'),
    ],
)
def test_an_answer_that_differs_from_what_is_shown_is_noticed(was: str, now: str) -> None:
    assert was in PRINTED

    assert list(differences(SHOWN, PRINTED.replace(was, now), {}))


def test_every_relative_link_leads_somewhere() -> None:
    astray = []
    for document, target in relative_links():
        path, _, anchor = target.partition("#")
        there = (ROOT / document.parent / path if path else ROOT / document).resolve()
        if not there.exists() or (anchor and anchor not in anchors(prose(there.relative_to(ROOT)))):
            astray.append(f"{document}: {target}")

    assert astray == []


def test_every_file_that_a_page_names_exists() -> None:
    astray = {
        f"{document}: {path}"
        for document in DOCUMENTS
        # A decision names the files of its day, and the changelog those that went.
        if document.parent.name != "decisions" and document.name != "CHANGELOG.md"
        for path in OUR_PATH.findall(prose(document))
        if not (ROOT / path).exists()
    }

    assert astray == set()


def test_every_command_of_make_in_the_documents_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", read("Makefile"), re.MULTILINE))
    code = re.compile(r"`[^`\n]*`|^```sh\n.*?^```", re.MULTILINE | re.DOTALL)
    named = {
        target
        for document in DOCUMENTS
        for piece in code.findall(read(document))
        for target in re.findall(r"\bmake ([a-z0-9-]+)", piece)
    }

    assert named <= targets
    assert {"demo", "test", "run"} <= named


def test_every_state_is_in_the_architecture_page() -> None:
    page = read("docs/architecture.md")

    assert [state for state in JobState if f"| `{state}` |" not in page] == []


def test_every_exchange_and_queue_is_in_the_architecture_page() -> None:
    page = read("docs/architecture.md")
    names = {spec.name for spec in exchanges()}
    names |= {re.sub(r"^jobs\.delay\..*", "jobs.delay.<nnnnn>s", spec.name) for spec in queues(["<kind>"])}
    names = {re.sub(r"<kind>\..*", "<kind>.<lane>", name) for name in names}

    assert [name for name in sorted(names) if f"| `{name}` |" not in page] == []
    assert f"There are {len(DELAY_STEPS_SECONDS)} delay queues" in page


def test_there_are_examples_of_jobs_and_reports() -> None:
    is_report = ["job_id" in json.loads(body) for body in bodies_of_messages()]

    assert is_report.count(True) >= 2 and is_report.count(False) >= 2


@pytest.mark.parametrize("body", bodies_of_messages())
def test_an_example_of_a_message_is_just_what_its_model_writes(body: str) -> None:
    model: type[WireMessage] = Report if "job_id" in json.loads(body) else JobMessage

    message = model.decode(body.encode())

    assert json.loads(message.encode()) == json.loads(body)


def test_every_trap_has_a_test_that_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", read("docs/reliability.md").partition("## Traps")[2]))
    written = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }

    assert len(named) > 20
    assert named - written == set()


def test_the_table_of_faults_shows_each_on_both_brokers_and_no_promise_broken() -> None:
    rows = table_rows(ROOT / "docs" / "reliability.md")

    for broker in ("3.10", "4.3"):
        assert [row[0] for row in rows if row[1].startswith(broker)] == [fault.name for fault in ALL_FAULTS]
    for fault, broker, acknowledged, *broken, _, _ in rows:
        assert int(acknowledged) > 0 and set(broken) == {"0"}, f"{fault} on {broker}"


def test_every_volume_of_secrets_has_a_folder_in_the_image_whose_owner_it_takes_over() -> None:
    folders = set(re.findall(r"secret-[a-z-]+:(/secrets/[\w-]+)", read("docker-compose.yml")))

    assert folders and folders <= set(re.findall(r"/secrets/[\w-]+", read("Dockerfile")))


def test_every_asset_and_entrance_has_a_test_that_holds_it() -> None:
    chapters = re.split(r"^## ", read("docs/security.md"), flags=re.MULTILINE)
    tables = {chapter.partition("\n")[0]: chapter.split("| --- |\n")[-1] for chapter in chapters}
    rows = [
        row for name in ("Assets", "Entrances") for row in tables[name].splitlines() if row.startswith("| ")
    ]

    assert len(rows) >= 16
    assert [row for row in rows if not NAMED_FILE.search(row.split("|")[-2])] == []


def test_every_bound_of_the_page_on_security_has_a_test_that_is_there() -> None:
    rows = [line for line in read("docs/security.md").splitlines() if re.match(r"\| (\+|[\d, ]+) \|", line)]
    defined = {
        name
        for path in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text())
    }

    page = read("docs/security.md")
    files = set(NAMED_FILE.findall(page))
    assert len(rows) >= 45 and set(NAMED_TEST.findall(page)) <= defined
    assert [path for path in sorted(files) if not (ROOT / "tests" / path).is_file()] == []
    assert {line for row in rows for line in re.findall(r"\d+", row.split("|")[1])} == {
        str(line) for line in range(1, 20)
    }
