"""A report as JUnit XML, which build servers read: a test case for every link.

A case **fails** when the question was answered, and badly; it is an **error** when there is no answer. What
is neither good nor a failure is skipped, and so is what the baseline knows.
"""

import re
from typing import Final, TextIO
from xml.sax.saxutils import escape, quoteattr

from retriever_client.cli.link_store import CheckedLink
from retriever_client.cli.outcomes import Outcome
from retriever_client.cli.reports.run import Run

_ERRORS: Final = frozenset({Outcome.UNANSWERED, Outcome.UNREAD, Outcome.UNFINISHED})
_GOOD: Final = frozenset({Outcome.OK, Outcome.REDIRECT})
# Whatever XML 1.0 (section 2.2) has no place for, not even as a reference.
_FORBIDDEN: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(run: Run, out: TextIO) -> None:
    """Write a test suite with a case for every link."""
    endings = {"failure": 0, "error": 0, "skipped": 0}
    for (outcome, is_known), count in run.store.counts().items():
        ending = _ending(outcome, is_failure=outcome in run.failing and not is_known)
        if ending:
            endings[ending] += count
    figures = _attributes(
        tests=run.summary().links,
        failures=endings["failure"],
        errors=endings["error"],
        skipped=endings["skipped"],
    )
    out.write(f'<?xml version="1.0" encoding="UTF-8"?>\n<testsuites{figures}>\n')
    out.write(f'<testsuite name="retriever check"{figures}>\n')
    out.writelines(map(_case, run.links()))
    out.write("</testsuite>\n</testsuites>\n")


def _case(link: CheckedLink) -> str:
    place = f"{link.place.line}:{link.place.column}"
    file = link.place.file
    attributes = _attributes(classname=file, name=f"{place} {link.url}", file=file, line=link.place.line)
    ending = _ending(link.outcome, is_failure=link.is_failure)
    if ending is None:
        return f"<testcase{attributes}/>\n"
    said = link.explanation or link.outcome.value
    why = f"{link.outcome}.{link.reason}" if link.reason else link.outcome.value
    of_ending = _attributes(type=why, message=f"known by the baseline: {said}" if link.is_known else said)
    text = escape(_clean(f"{file}:{place}: {link.outcome} {link.reason or '-'} {link.url}"))
    return f"<testcase{attributes}><{ending}{of_ending}>{text}</{ending}></testcase>\n"


def _ending(outcome: Outcome, *, is_failure: bool) -> str | None:
    """Return how the case of a link did not pass: its element; None when it did."""
    if is_failure:
        return "error" if outcome in _ERRORS else "failure"
    return None if outcome in _GOOD else "skipped"


def _attributes(**values: object) -> str:
    return "".join(f" {name}={quoteattr(_clean(str(value)))}" for name, value in values.items())


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
