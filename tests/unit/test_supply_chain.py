"""What we install: every lock is audited, looked after and tied to no index; no answer is never good news."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.audit.advisories import (
    LOCKS,
    NOTHING_KNOWN,
    SOURCES,
    UNANSWERED,
    VULNERABLE,
    Answer,
    ask_pip_audit,
    audit,
    pins,
    read_report,
)
from deploy.local.errors import ControlFailed
from deploy.local.strip_lock import strip_lock
from tests.support.documents import ROOT

LOCK = {
    "_meta": {"sources": []},
    "default": {"flask": {"version": "==3.1.0"}, "Ada_URL": {"version": "==4.0", "markers": "never"}},
    "develop": {"flask": {"version": "==3.1.0"}, "ruff": {"version": "==0.17.0"}},
}
PINNED = ["ada-url==4.0", "flask==3.1.0"]
HARMLESS = {"name": "ada-url", "version": "4.0", "vulns": []}
HOLE = {"id": "PYSEC-1", "aliases": ["CVE-2026-1"], "fix_versions": ["3.1.1"], "description": "long"}
VULNERABLE_FLASK = {"name": "Flask", "version": "3.1.0", "vulns": [HOLE]}
UNKNOWN_FLASK = {
    "name": "flask",
    "skip_reason": "Dependency not found and could not be audited: flask (3.1.0)",
}
ADVISORY = "flask==3.1.0: PYSEC-1 CVE-2026-1, mended in 3.1.1"
SILENT = Answer((), tuple(PINNED), "no route to host")


def report(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


def locks() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for path in listed.splitlines() if path.endswith(("Pipfile.lock", "package-lock.json"))]


def outcome(answers: dict[str, Answer]) -> tuple[int, list[str]]:
    """Return the status of an audit, and what it said."""
    said: list[str] = []
    return audit(PINNED, lambda source, _: answers[source], say=said.append), said


@pytest.fixture
def pip_audit(tmp_path: Path) -> Path:
    """Return a stand-in for pip-audit: it writes the report that lies beside it, if any, and complains."""
    program = tmp_path / "pip-audit"
    program.write_text(
        "#!/bin/sh\n"
        f'cp "$2" {tmp_path}/asked\n'
        'while [ "$1" != --output ]; do shift; done\n'
        f'if [ -e {tmp_path}/report ]; then cp {tmp_path}/report "$2"; fi\n'
        'echo "ERROR: first" >&2; echo "ERROR: no route to host" >&2; exit 1\n'
    )
    program.chmod(0o755)
    return program


def test_every_lock_of_python_is_audited_and_tied_to_no_index() -> None:
    of_python = [path for path in locks() if path.endswith("Pipfile.lock")]

    assert sorted(of_python) == sorted(LOCKS)
    assert [
        path for path in of_python if strip_lock((ROOT / path).read_text()) != (ROOT / path).read_text()
    ] == []


def test_every_lock_is_looked_after() -> None:
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    looked_after = {
        (update["package-ecosystem"], folder) for update in updates for folder in update["directories"]
    }

    wanted = {("npm" if path.endswith(".json") else "pip", f"/{path.rpartition('/')[0]}") for path in locks()}
    assert wanted | {("pip", "/deploy/local"), ("docker", "/"), ("docker-compose", "/")} == looked_after


def test_every_package_is_asked_about_once_whatever_it_is_for() -> None:
    assert pins(json.dumps(LOCK)) == ["ada-url==4.0", "flask==3.1.0", "ruff==0.17.0"]


def test_a_report_that_is_not_there_says_nothing_of_any_package() -> None:
    assert read_report("", PINNED, complaint="no route to host") == SILENT


def test_a_package_that_a_source_does_not_know_is_one_of_which_it_says_nothing() -> None:
    answer = read_report(report(HARMLESS, UNKNOWN_FLASK), PINNED, complaint="No known vulnerabilities found")

    assert answer == Answer((), ("flask==3.1.0",), UNKNOWN_FLASK["skip_reason"])


def test_what_is_known_of_a_package_is_told_with_its_remedy() -> None:
    assert read_report(report(HARMLESS, VULNERABLE_FLASK), PINNED) == Answer((ADVISORY,), ())


def test_nothing_bad_is_known_when_one_source_answers_for_all_packages() -> None:
    first, second = SOURCES

    status, said = outcome({first: SILENT, second: Answer((), ())})

    assert status == NOTHING_KNOWN
    assert f"{second} knows of nothing bad in any of 2 packages" in said


def test_no_answer_is_never_good_news() -> None:
    status, said = outcome(dict.fromkeys(SOURCES, SILENT))

    assert status == UNANSWERED
    assert "NOT AUDITED: no source of advisories answers for all packages" in said
    assert all(
        f"{source} says nothing of 2 packages: {', '.join(PINNED)} no route to host" in said
        for source in SOURCES
    )


def test_an_answer_for_some_packages_is_none() -> None:
    assert outcome(dict.fromkeys(SOURCES, Answer((), ("flask==3.1.0",))))[0] == UNANSWERED


def test_a_hole_counts_though_the_source_does_not_know_every_package() -> None:
    status, said = outcome({SOURCES[0]: Answer((ADVISORY,), ("ada-url==4.0",))})

    assert status == VULNERABLE
    assert said == [ADVISORY]


def test_pip_audit_is_asked_about_the_pins_as_they_are(pip_audit: Path) -> None:
    (pip_audit.parent / "report").write_text(report(HARMLESS, VULNERABLE_FLASK))

    answer = ask_pip_audit("osv", PINNED, program=pip_audit)

    assert answer.advisories == (ADVISORY,)
    assert (pip_audit.parent / "asked").read_text().splitlines() == PINNED


def test_a_source_that_does_not_answer_pip_audit_is_no_hole_and_no_good_news(pip_audit: Path) -> None:
    answer = ask_pip_audit("osv", PINNED, program=pip_audit)

    assert answer == Answer((), tuple(PINNED), "ERROR: no route to host")


def test_pip_audit_that_is_not_installed_is_told(tmp_path: Path) -> None:
    with pytest.raises(ControlFailed, match="make audit"):
        ask_pip_audit("osv", PINNED, program=tmp_path / "missing")
