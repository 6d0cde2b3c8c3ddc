"""What a report is written of."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from retriever_client.cli.link_store import CheckedLink, LinkStore
from retriever_client.cli.outcomes import Outcome


@dataclass(frozen=True, slots=True)
class Run:
    """A run that is over, or has been left.

    Attributes:
        documents: How many were read.
        urls: How many distinct URLs the service was asked about.
        failing: The outcomes by which a run fails.
        skipped: How many links were not asked about, by why.
        ignored: How many links were taken out by comments in their documents.
        answered_before: How many URLs were not asked for, since they were found good lately.
        has_baseline: Whether some failures may be known.
    """

    store: LinkStore = field(repr=False)
    documents: int
    urls: int
    failing: Sequence[Outcome]
    batch_ids: Sequence[str] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)
    ignored: int = 0
    answered_before: int = 0
    has_baseline: bool = False

    def links(self, outcomes: Sequence[Outcome] | None = None) -> Iterator[CheckedLink]:
        """Yield the links by file, line and column: all, or those that ended in one of some ways."""
        return self.store.links(self.failing, outcomes)

    def summary(self) -> "Summary":
        """Count."""
        outcomes = dict.fromkeys(Outcome, 0)
        known = failures = 0
        for (outcome, is_known), count in self.store.counts().items():
            outcomes[outcome] += count
            if outcome in self.failing:
                known += count if is_known else 0
                failures += 0 if is_known else count
        return Summary(
            links=sum(outcomes.values()),
            outcomes=outcomes,
            failures=failures,
            known=known,
            mended=self.store.count_mended(self.failing) if self.has_baseline else 0,
            elsewhere=self.store.count_elsewhere(),
            unjudged_fragments=self.store.count_unjudged(),
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """How many links ended how.

    Attributes:
        failures: By how many the run fails; `known` are those that would, were they not in the baseline.
        mended: How many of the baseline fail no more.
        elsewhere: How many good links lead elsewhere.
        unjudged_fragments: How many were not looked for: the page was too long, or there were too many.
    """

    links: int
    outcomes: Mapping[Outcome, int]
    failures: int
    known: int
    mended: int
    elsewhere: int
    unjudged_fragments: int


def document_of_link(link: CheckedLink) -> dict[str, Any]:
    """Return a link as JSON and CSV have it."""
    return {
        "file": link.place.file,
        "line": link.place.line,
        "column": link.place.column,
        "kind": link.kind,
        "text": link.text,
        "url": link.url,
        "outcome": link.outcome.value,
        "reason": link.reason,
        "explanation": link.explanation,
        "status": link.status,
        "final_url": link.final_url,
        "job_id": link.job_id,
        "failure": link.is_failure,
        "known": link.is_known,
    }


def document_of_summary(run: Run) -> dict[str, Any]:
    """Return the figures of a run as JSON has them."""
    summary = run.summary()
    return {
        "documents": run.documents,
        "links": summary.links,
        "urls": run.urls,
        "outcomes": {outcome.value: count for outcome, count in summary.outcomes.items()},
        "failures": summary.failures,
        "known": summary.known,
        "mended": summary.mended,
        "elsewhere": summary.elsewhere,
        "answered_before": run.answered_before,
        "unjudged_fragments": summary.unjudged_fragments,
        "ignored": run.ignored,
        "skipped": dict(run.skipped),
        "batches": list(run.batch_ids),
    }
