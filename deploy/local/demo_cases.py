"""What `make demo` hands in, and how each job must end. Knows nothing of HTTP or of the screen."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from producer.api.documents import Job, JobSummary
from shared.kinds.check import Verdict
from shared.states import JobState

FINE_TOTAL = 200
MAX_ATTEMPTS = 4
# Quick, so that a minute shows what takes hours with the policy of a real job.
RETRY = {"max_attempts": MAX_ATTEMPTS, "first_delay_seconds": 1, "max_delay_seconds": 4}
MENDABLE = "demo"


@dataclass(frozen=True, slots=True)
class Ending:
    """How the latest run of a job ended."""

    state: JobState
    attempts: int = 1
    verdict: Verdict | None = None
    reason: str | None = None

    def __str__(self) -> str:
        """Return it as a phrase for a person."""
        facts = [f"{self.attempts} attempts", self.verdict and f"verdict {self.verdict}", self.reason]
        return ", ".join([str(self.state), *filter(None, facts)])


@dataclass(frozen=True, slots=True)
class Case:
    """One job of the demo: its arguments, the name it has on screen, and the endings that are right."""

    name: str
    args: Mapping[str, Any]
    endings: tuple[Ending, ...]


def fine_urls(site_url: str) -> list[str]:
    """Return the URLs that nothing is wrong with."""
    return [f"{site_url}/ok/{number}" for number in range(1, FINE_TOTAL + 1)]


def difficult_checks(site_url: str, refused_url: str) -> tuple[Case, ...]:
    """Return one check for everything that can be wrong with a URL.

    Args:
        site_url: Where the target site listens.
        refused_url: Where nobody listens.
    """
    return (
        _check(site_url, "/moved", _ok()),
        _check(site_url, "/slow?seconds=1.5", _ok()),
        _check(site_url, "/missing", _broken("http_404")),
        _check(site_url, "/loop", _broken("redirect_loop")),
        _check(site_url, "/flaky/page", _ok(attempts=3)),
        _check(site_url, "/limited/page", _ok(attempts=2)),
        _check(site_url, "/broken", _down("http_500")),
        _check(site_url, "/hang", _down("timeout"), timeout_seconds=1),
        _check(site_url, f"/mendable/{MENDABLE}", _down("http_500")),
        _check(refused_url, "", _down("connection_refused")),
        # A machine without DNS cannot know that a name does not exist, so it is right to try again there.
        _check(
            "http://nowhere.invalid",
            "",
            *(_broken("dns_no_such_name"), _broken("dns_no_address")),
            *(_down("dns_failed"), _down("timeout")),
            timeout_seconds=2,
        ),
        _check("http://169.254.169.254", "", Ending(JobState.PARKED, reason="egress_denied")),
    )


def fetches(site_url: str) -> tuple[Case, ...]:
    """Return the fetches: an API to pick data out of, a page, one that is flaky, one that is gone."""
    dearest = {"extract": "{total: total, dearest: max_by(items, &price).name}"}
    return (
        Case(
            "/api/items",
            {"url": f"{site_url}/api/items?per_page=60"} | dearest,
            (Ending(JobState.SUCCEEDED),),
        ),
        Case("/ok", {"url": f"{site_url}/ok"}, (Ending(JobState.SUCCEEDED),)),
        Case("/flaky/feed", {"url": f"{site_url}/flaky/feed"}, (Ending(JobState.SUCCEEDED, attempts=3),)),
        Case("/missing", {"url": f"{site_url}/missing"}, (Ending(JobState.PARKED, reason="http_404"),)),
    )


def ending_of(job: Job) -> Ending:
    """Return how the latest run of a finished job ended."""
    result = job.result or {}
    return Ending(
        state=job.state,
        attempts=sum(attempt.run == job.run for attempt in job.attempts),
        verdict=result.get("verdict"),
        reason=job.reason if job.state is JobState.PARKED else result.get("reason"),
    )


def surprises(cases: tuple[Case, ...], jobs: list[Job]) -> list[str]:
    """Return a sentence for each job that did not end as it must; jobs are in the order of their cases."""
    if len(cases) != len(jobs):
        return [f"{len(jobs)} jobs were found instead of {len(cases)}."]
    return [
        f"{job.kind} {case.name} ended as [{ending_of(job)}] instead of [{case.endings[0]}]."
        for case, job in zip(cases, jobs, strict=True)
        if ending_of(job) not in case.endings
    ]


def surprises_among_fine(jobs: list[JobSummary]) -> list[str]:
    """Return a sentence if not every URL of `fine_urls` was found good at the first attempt."""
    good = sum(
        job.state is JobState.SUCCEEDED
        and job.attempt == 1
        and (job.result or {}).get("verdict") == Verdict.OK
        for job in jobs
    )
    return [] if good == FINE_TOTAL else [f"{good} of {FINE_TOTAL} good URLs were found good at once."]


def surprises_after_redrive(before: Job, after: Job, *, left_queue: bool) -> list[str]:
    """Return sentences on a mended job that did not succeed in its second run under the same id.

    Args:
        before: The job as it was parked.
        after: The job as it was seen last.
        left_queue: Whether its message has left the parking queue.
    """
    is_right = (after.id, after.run, after.state) == (before.id, before.run + 1, JobState.SUCCEEDED)
    ended = [] if is_right else [f"job {after.id}, redriven, is now [run {after.run}, {ending_of(after)}]."]
    return ended + ([] if left_queue else ["the message of the redriven job is still parked."])


def _check(site_url: str, path: str, *endings: Ending, timeout_seconds: float = 10) -> Case:
    name = path.partition("?")[0] or site_url.removeprefix("http://")
    return Case(name, {"url": f"{site_url}{path}", "timeout_seconds": timeout_seconds}, endings)


def _ok(*, attempts: int = 1) -> Ending:
    return Ending(JobState.SUCCEEDED, attempts, Verdict.OK, "ok")


def _broken(reason: str) -> Ending:
    return Ending(JobState.SUCCEEDED, 1, Verdict.BROKEN, reason)


def _down(reason: str) -> Ending:
    return Ending(JobState.PARKED, MAX_ATTEMPTS, Verdict.DOWN, reason)
