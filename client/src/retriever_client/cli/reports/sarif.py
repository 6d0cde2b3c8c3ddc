"""A report as SARIF 2.1.0, which code scanning reads: a result for every link that is not good.

https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final, TextIO
from urllib.parse import quote

from retriever_client.cli.link_store import CheckedLink
from retriever_client.cli.outcomes import Outcome
from retriever_client.cli.reports.run import Run, document_of_summary
from retriever_client.cli.reports.words import NOT_GOOD

_SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_RULES: Final[Mapping[Outcome, str]] = {
    Outcome.BROKEN: "The link is broken, until somebody repairs it.",
    Outcome.DOWN: "The target was down for all attempts; that may pass.",
    Outcome.REJECTED: "The link is no URL that can be asked for.",
    Outcome.UNANSWERED: "It could not be found out whether the link is good.",
    Outcome.UNREAD: "The document could not be read.",
    Outcome.BLOCKED: "The target does not let us in; a person may see a page.",
    Outcome.UNFINISHED: "The link was not checked in time.",
    Outcome.REDIRECT: "The link is good, and leads elsewhere.",
}


def write_sarif(run: Run, out: TextIO) -> None:
    """Write one log of one run."""
    rules = [
        {
            "id": outcome.value,
            "name": f"{outcome.value.capitalize()}Link",
            "shortDescription": {"text": words},
        }
        for outcome, words in _RULES.items()
    ]
    driver = {"name": "retriever", "semanticVersion": _version(), "rules": rules}
    head = {
        "tool": {"driver": driver},
        # Columns of ours are in characters.
        "columnKind": "unicodeCodePoints",
        "properties": document_of_summary(run),
    }
    out.write(f'{{"$schema": {json.dumps(_SCHEMA)}, "version": "2.1.0", "runs": [\n')
    out.write(f'{json.dumps(head)[:-1]}, "results": [')
    separator = "\n"
    for link in run.links(NOT_GOOD):
        out.write(separator + json.dumps(_result(link, has_baseline=run.has_baseline)))
        separator = ",\n"
    out.write("]}]}\n")


def _result(link: CheckedLink, *, has_baseline: bool) -> dict[str, Any]:
    level = "error" if link.is_failure else "note" if link.outcome is Outcome.REDIRECT else "warning"
    said = f"{link.url}: {link.explanation or _RULES[link.outcome]}"
    identity = hashlib.sha256(f"{link.place.file}\0{link.url}".encode()).hexdigest()
    result = {
        "ruleId": link.outcome.value,
        "level": level,
        "message": {"text": _escaped(said)},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": _uri(link.place.file)},
                    "region": {"startLine": link.place.line, "startColumn": link.place.column},
                }
            }
        ],
        "partialFingerprints": {"retrieverLink/v1": identity},
        "properties": {"url": link.url, "reason": link.reason, "known": link.is_known},
    }
    return result | ({"baselineState": "unchanged" if link.is_known else "new"} if has_baseline else {})


def _escaped(text: str) -> str:
    """Return a text without links of SARIF (section 3.11.6)."""
    return text.replace("\\", r"\\").replace("[", r"\[").replace("]", r"\]")


def _uri(file: str) -> str:
    is_url = file.startswith(("http://", "https://"))
    return file if is_url else quote(file, safe="/") or "-"


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - slow, and for this alone

    try:
        return version("retriever-client")
    except PackageNotFoundError:  # It runs from its sources.
        return "0.0.0"
