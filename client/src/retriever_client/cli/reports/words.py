"""Reports for people: a table, lines for `grep`, Markdown for a pull request, annotations for GitHub."""

from collections.abc import Sequence
from itertools import groupby
from typing import Final, TextIO

import click

from retriever_client.cli.link_store import CheckedLink
from retriever_client.cli.outcomes import Outcome
from retriever_client.cli.output import escaped
from retriever_client.cli.reports.run import Run

# The rest is good.
NOT_GOOD: Final = tuple(outcome for outcome in Outcome if outcome is not Outcome.OK)
# What a person is told of one by one: of a run that was left there may be very many unfinished.
_TOLD: Final = tuple(outcome for outcome in NOT_GOOD if outcome is not Outcome.UNFINISHED)
# Of a table of Markdown: GitHub takes 65,536 characters for a comment, and 1 MiB for a summary.
MOST_MARKDOWN_ROWS: Final = 250
_COLOURS: Final = {
    Outcome.BROKEN: "red",
    Outcome.DOWN: "magenta",
    Outcome.REJECTED: "red",
    Outcome.UNREAD: "red",
    Outcome.UNANSWERED: "yellow",
    Outcome.BLOCKED: "yellow",
    Outcome.UNFINISHED: "yellow",
    Outcome.REDIRECT: "cyan",
}
# What most reasons have at most.
_REASON: Final = len("fragment_missing")
_WIDEST = max(len(outcome) for outcome in Outcome)


def write_table(run: Run, out: TextIO) -> None:
    """Write what is not good, document by document, then the figures."""
    for file, links in groupby(_told(run), key=lambda link: link.place.file):
        click.echo(click.style(escaped(file), bold=True), out)
        for link in links:
            place = f"{link.place.line}:{link.place.column}"
            # Padded first: colours have no width.
            outcome = click.style(link.outcome.ljust(_WIDEST), fg=_COLOURS.get(link.outcome))
            click.echo(f"  {place:<8} {outcome}  {_what(link)}", out)
        click.echo("", out)
    for line in sentences(run):
        click.echo(line, out)


def write_plain(run: Run, out: TextIO) -> None:
    """Write a line for each link that is not good, with tabs: place, outcome, reason, URL, explanation."""
    for link in _told(run, NOT_GOOD):
        place = f"{link.place.file}:{link.place.line}:{link.place.column}"
        cells = (place, link.outcome, link.reason or "-", link.url, link.explanation or "-")
        out.write("\t".join(escaped(cell) for cell in cells) + "\n")


def write_markdown(run: Run, out: TextIO) -> None:
    """Write the figures, and what is not good as tables: what fails first, then the rest."""
    summary = run.summary()
    out.write(f"## Links: {_headline(summary.failures)}\n\n")
    out.write(" ".join(sentences(run)) + "\n")
    for title, is_wanted in (
        ("Failures", lambda link: link.is_failure),
        ("Redirects", lambda link: not link.is_failure and link.outcome is Outcome.REDIRECT),
        (
            "Not good, and no failures",
            lambda link: not link.is_failure and link.outcome is not Outcome.REDIRECT,
        ),
    ):
        _write_markdown_table(title, filter(is_wanted, _told(run)), out)


def write_github(run: Run, out: TextIO) -> None:
    """Write annotations of GitHub Actions.

    https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands
    """
    for link in _told(run):
        level = "error" if link.is_failure else "notice" if link.outcome is Outcome.REDIRECT else "warning"
        place = f"file={_property(link.place.file)},line={link.place.line},col={link.place.column}"
        title = _property(f"{link.outcome} link" if link.kind != "document" else "document not read")
        said = " ".join(_what(link).split())
        out.write(f"::{level} {place},title={title}::{_data(said)}\n")


def sentences(run: Run) -> list[str]:
    """Return the figures of a run as a person wants them, a line each."""
    summary = run.summary()
    found = [f"{count:,} {outcome}" for outcome, count in summary.outcomes.items() if count]
    lines = [
        f"{_some(summary.links, 'link')} in {_some(run.documents, 'document')}: {', '.join(found) or 'none'}."
    ]
    if summary.elsewhere and not summary.outcomes[Outcome.REDIRECT]:
        lines.append(f"Good, but elsewhere: {summary.elsewhere:,}; --redirects warn lists them.")
    if run.answered_before:
        lines.append(f"{_some(run.answered_before, 'URL')} of {run.urls:,} had an answer already.")
    if run.has_baseline:
        lines.append(f"{summary.known:,} known by the baseline, {summary.failures:,} new.")
    if summary.mended:
        lines.append(f"{summary.mended:,} of the baseline fail no more; --update-baseline takes them out.")
    if summary.unjudged_fragments:
        lines.append(f"{_some(summary.unjudged_fragments, 'fragment')} could not be looked for.")
    skipped = [f"{count:,} {why}" for why, count in sorted(run.skipped.items())]
    if run.ignored:
        skipped.append(f"{run.ignored:,} ignored by comments")
    if skipped:
        lines.append(f"Not asked about: {', '.join(skipped)}.")
    return lines


def _told(run: Run, outcomes: Sequence[Outcome] = _TOLD) -> "filter[CheckedLink]":
    """Return what a person is told of; what the baseline has is only counted."""
    return filter(lambda link: not link.is_known, run.links(outcomes))


def _what(link: CheckedLink) -> str:
    if link.outcome is Outcome.REDIRECT:
        return escaped(f"{link.reason or '-':<{_REASON}}  {link.url} -> {link.final_url}")
    said = f"{link.reason or '-':<{_REASON}}  {link.url}"
    # Of what a server answered the code says all; a person wants to know more of the others.
    has_more = link.explanation and not (link.reason or "").startswith(("http_", "file_"))
    return escaped(f"{said}  ({link.explanation})" if has_more else said)


def _headline(failures: int) -> str:
    return _some(failures, "failure") if failures else "no failures"


def _some(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _write_markdown_table(title: str, links: "filter[CheckedLink]", out: TextIO) -> None:
    rows = 0
    for link in links:
        if not rows:
            out.write(f"\n### {title}\n\n| where | | why | link |\n| --- | --- | --- | --- |\n")
        rows += 1
        if rows <= MOST_MARKDOWN_ROWS:
            place = f"{link.place.file}:{link.place.line}:{link.place.column}"
            url = f"{_code(link.url)} to {_code(link.final_url)}" if link.final_url else _code(link.url)
            out.write(f"| {_code(place)} | {link.outcome} | {_code(link.reason or '-')} | {url} |\n")
    if rows > MOST_MARKDOWN_ROWS:
        out.write(f"\n{rows - MOST_MARKDOWN_ROWS:,} more are not listed.\n")


def _code(text: str) -> str:
    """Return a code span in a table, of which nothing can break out."""
    inner = escaped(text).replace("`", "'").replace("|", "\\|").strip() or "-"
    return f"`{inner}`"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(escaped(text)).replace(":", "%3A").replace(",", "%2C")
