"""Asks sources of advisories about all pinned packages: `python -m deploy.audit.advisories [LOCK ...]`.

Ends with 0 when nothing bad is known of any package, with 1 when something is, and with 75 when no source
answered for all packages: no answer is never good news. `make audit` runs it.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from deploy.local.errors import ControlFailed

PIP_AUDIT: Final = Path(".run/audit/bin/pip-audit")
LOCKS: Final = (
    "Pipfile.lock",
    "bench/peers/Pipfile.lock",
    "deploy/audit/Pipfile.lock",
    "tests/browser/Pipfile.lock",
)
NOTHING_KNOWN: Final = 0
VULNERABLE: Final = 1
# EX_TEMPFAIL of sysexits.h, as `worker --drain` ends when its broker is away.
UNANSWERED: Final = 75
# In this order; the first that answers for all packages is believed.
SOURCES: Final = ("pypi", "osv")
_ANSWER_SECONDS: Final = 15
_LIMIT_SECONDS: Final = 900
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Answer:
    """What one source says.

    Attributes:
        advisories: A line for each thing that it knows.
        silent_about: The packages of which it says nothing; all of them when it does not answer.
        complaint: Why, as pip-audit says it of the first of them.
    """

    advisories: tuple[str, ...]
    silent_about: tuple[str, ...]
    complaint: str = ""


def pins(lock: str) -> list[str]:
    """Return the packages of a Pipfile.lock as `name==version`, whatever they are for, once each."""
    sections: dict[str, Any] = json.loads(lock)
    del sections["_meta"]
    return sorted(
        {
            _pin(name, package["version"].removeprefix("=="))
            for packages in sections.values()
            for name, package in packages.items()
        }
    )


def audit(
    pinned: Sequence[str], ask: Callable[[str, Sequence[str]], Answer], *, say: Callable[[str], None]
) -> int:
    """Ask one source after the other until one has answered for all packages; return the status.

    What a source knows counts, also if it does not know every package.
    """
    for source in SOURCES:
        answer = ask(source, pinned)
        for advisory in answer.advisories:
            say(advisory)
        if answer.advisories:
            return VULNERABLE
        if not answer.silent_about:
            say(f"{source} knows of nothing bad in any of {len(pinned)} packages")
            return NOTHING_KNOWN
        names = ", ".join(answer.silent_about[:_SHOWN])
        more = ", ..." if len(answer.silent_about) > _SHOWN else ""
        say(f"{source} says nothing of {len(answer.silent_about)} packages: {names}{more} {answer.complaint}")
    say("NOT AUDITED: no source of advisories answers for all packages")
    return UNANSWERED


def ask_pip_audit(source: str, pinned: Sequence[str], *, program: Path = PIP_AUDIT) -> Answer:
    """Return what a source says of pinned packages; nothing is resolved or downloaded for it.

    Raises:
        ControlFailed: pip-audit is not there, or does not end.
    """
    with tempfile.TemporaryDirectory(prefix="retriever-audit-") as folder:
        wanted, report = Path(folder, "requirements.txt"), Path(folder, "report.json")
        wanted.write_text("\n".join(pinned))
        command = [str(program), "--requirement", str(wanted), "--no-deps", "--disable-pip"]
        command += ["--vulnerability-service", source, "--timeout", str(_ANSWER_SECONDS)]
        command += ["--format", "json", "--output", str(report), "--progress-spinner", "off"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=_LIMIT_SECONDS
            )
        except FileNotFoundError as error:
            raise ControlFailed(f"There is no {program}: `make audit` installs it.") from error
        except subprocess.TimeoutExpired as error:
            raise ControlFailed(f"{program} has not ended within {_LIMIT_SECONDS} s.") from error
        # Its status is 1 when a source knows something and when none answers: only the report tells.
        written = report.read_text() if report.exists() else ""
    complaint = done.stderr.strip().rpartition("\n")[2]
    return read_report(written, pinned, complaint=complaint)


def read_report(report: str, pinned: Sequence[str], *, complaint: str = "") -> Answer:
    """Return what a report of pip-audit says of pinned packages; none at all says nothing of each."""
    packages = json.loads(report)["dependencies"] if report else []
    answered = {
        _pin(package["name"], package["version"]): package["vulns"]
        for package in packages
        if "vulns" in package
    }
    # Of a report without a single answer pip-audit says that it has found nothing bad, and ends with 0.
    skipped = [package["skip_reason"] for package in packages if "skip_reason" in package]
    return Answer(
        tuple(line for pin, found in answered.items() for line in _lines(pin, found)),
        tuple(pin for pin in pinned if pin not in answered),
        skipped[0] if skipped else complaint,
    )


def _lines(pin: str, found: Sequence[dict[str, Any]]) -> Iterator[str]:
    for each in found:
        names = " ".join([each["id"], *each["aliases"]])
        yield f"{pin}: {names}, mended in {' or '.join(each['fix_versions']) or 'no version'}"


def _pin(name: str, version: str) -> str:
    # One name for one package, as PEP 503 has it.
    return f"{re.sub(r'[-_.]+', '-', name).lower()}=={version}"


def main() -> None:
    """Audit the locks named on the command line, or all of ours."""
    statuses = {_audit_lock(name) for name in sys.argv[1:] or LOCKS}
    sys.exit(next(status for status in (VULNERABLE, UNANSWERED, NOTHING_KNOWN) if status in statuses))


def _audit_lock(name: str) -> int:
    pinned = pins(Path(name).read_text(encoding="utf-8"))
    try:
        return audit(pinned, ask_pip_audit, say=partial(print, f"{name}:"))
    except ControlFailed as error:
        print(f"{name}: NOT AUDITED: {error}")
        return UNANSWERED


if __name__ == "__main__":
    main()
