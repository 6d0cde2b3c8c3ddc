"""What `make demo` prints: live on a terminal, plain lines in a log. Knows nothing of processes or HTTP."""

import json
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from producer.api.documents import Job, JobSummary
from shared.kinds.check import Verdict
from shared.log_lines import escaped, printable_lines
from shared.states import JobState

PLAIN_WIDTH = 100
PLAIN_SECONDS = 1.0
BAR_WIDTH = 24
INDENT = "  "
SHOWN_STATES = (
    JobState.ACCEPTED,
    JobState.QUEUED,
    JobState.RUNNING,
    JobState.DELAYED,
    JobState.SUCCEEDED,
    JobState.PARKED,
)
STYLES: Mapping[str, str] = {
    JobState.DELAYED: "yellow",
    JobState.SUCCEEDED: "green",
    JobState.PARKED: "red",
    Verdict.OK: "green",
    Verdict.BROKEN: "yellow",
    Verdict.BLOCKED: "magenta",
    Verdict.DOWN: "red",
}


@dataclass(frozen=True, slots=True)
class Moment:
    """Where all jobs are at one time.

    Attributes:
        seconds: Since the jobs were handed in.
        counts: Jobs in each state.
        queues: Messages that wait in each queue of the demo; empty before there are queues.
    """

    seconds: float
    counts: Mapping[JobState, int]
    queues: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Row:
    """How one job ended, or many alike."""

    kind: str
    name: str
    verdict: str
    status: int | None
    attempts: str
    seconds: float
    state: JobState
    reason: str


def row_of(name: str, job: Job) -> Row:
    """Return the row of a finished job; the reason is left out where verdict and status say it."""
    result = job.result or {}
    reason = (job.reason or "") if job.state is JobState.PARKED else (result.get("reason") or "")
    waits = [f"{attempt.wait_seconds:g}" for attempt in job.attempts if attempt.wait_seconds]
    attempts = f"{len(job.attempts)} ({'+'.join(waits)} s)" if waits else f"{len(job.attempts)}"
    return Row(
        kind=job.kind,
        name=name,
        verdict=result.get("verdict") or "",
        status=result.get("status"),
        attempts=attempts,
        seconds=_seconds(job),
        state=job.state,
        reason="" if reason == "ok" or reason.startswith("http_") else reason,
    )


def row_of_fine(jobs: Sequence[JobSummary]) -> Row:
    """Return one row for many jobs alike: what holds for the last holds for all, the time is the longest."""
    last = jobs[-1]
    return Row(
        kind=last.kind,
        name=f"/ok/1 to {len(jobs)}",
        verdict=(last.result or {}).get("verdict") or "",
        status=(last.result or {}).get("status"),
        attempts="1 each",
        seconds=max(_seconds(job) for job in jobs),
        state=last.state,
        reason="",
    )


class Screen:
    """Prints the demo; only on a terminal do lines change in place."""

    def __init__(self, console: Console, *, is_live: bool) -> None:
        """Take where to print and whether lines may change in place."""
        self._console = console
        self._is_live = is_live

    def head(self, text: str) -> None:
        """Print the heading of a part."""
        self._console.print(f"\n[bold]{text}[/bold]", highlight=False)

    def say(self, text: str) -> None:
        """Print a paragraph, wrapped."""
        for line in textwrap.wrap(text, self._console.width - len(INDENT), break_on_hyphens=False):
            self._console.print(Text(INDENT + escaped(line)), soft_wrap=True)

    def gap(self) -> None:
        """Print an empty line."""
        self._console.print()

    def facts(self, facts: Sequence[tuple[str, str]]) -> None:
        """Print names and values, aligned; a value is never broken, so that it can be copied."""
        width = max(len(name) for name, _ in facts)
        for name, value in facts:
            self._console.print(
                f"  {name:<{width}}  ", Text(escaped(value), "cyan"), sep="", soft_wrap=True, highlight=False
            )

    def complain(self, text: str) -> None:
        """Print what went wrong."""
        self._console.print(Text(printable_lines(text), "red"), soft_wrap=True)

    @contextmanager
    def step(self, doing: str) -> Iterator[None]:
        """Say what is being done, and how long it took when it is done."""
        started_at = time.monotonic()
        if self._is_live:
            with self._console.status(f"  {doing} ..."):
                yield
        else:
            yield
        took_seconds = time.monotonic() - started_at
        self._console.print(f"  {doing:<40} [green]done[/green] in {took_seconds:.1f} s", highlight=False)

    @contextmanager
    def following(self) -> Iterator[Callable[[Moment], None]]:
        """Yield what shows a moment: in the place of the one before, or as a line when it differs."""
        if not self._is_live:
            lines = Lines(lambda text: self._console.print(Text(escaped(text)), soft_wrap=True))
            yield lines.show
            lines.finish()
            return
        with Live(console=self._console, auto_refresh=False) as live:
            yield lambda moment: live.update(_picture(moment), refresh=True)

    def table(self, rows: Sequence[Row]) -> None:
        """Print what became of the jobs."""
        table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False, header_style="bold")
        table.add_column("Kind")
        table.add_column("URL", no_wrap=True)
        table.add_column("Verdict")
        table.add_column("Status", justify="right")
        table.add_column(" Attempts", no_wrap=True)
        table.add_column("Time", justify="right", no_wrap=True)
        table.add_column(" State")
        for row in rows:
            state = Text(f" {row.state}", STYLES.get(row.state, ""))
            table.add_row(
                Text(escaped(row.kind)),
                Text(escaped(row.name)),
                Text(escaped(row.verdict) or "-", STYLES.get(row.verdict, "dim")),
                str(row.status or "-"),
                f" {row.attempts}",
                f"{row.seconds:.1f} s",
                state.append(f", {escaped(row.reason)}" if row.reason else "", "default"),
            )
        self._console.print(Padding(table, (0, 0, 1, 2), expand=False))

    def explain(self, peaks: Mapping[str, int], fetched: Sequence[Job]) -> None:
        """Print how to read the table, which delay queues were used, and what the fetches picked out."""
        self.say("ok and broken are answers, so the job succeeded. Failures that may pass were tried again.")
        self.say("Jobs that still failed, or can never work, are parked with their reason.")
        waited = [f"{name} ({length})" for name, length in peaks.items() if length and "delay" in name]
        if waited:
            self.say(f"Largest number of waiting messages: {', '.join(waited)}.")
        for data in filter(None, ((job.result or {}).get("data") for job in fetched)):
            self.say(f"Data that the extract picked from /api/items: {json.dumps(data)}.")


class Lines:
    """Writes a line when something has changed, once a second at most; the last one always."""

    def __init__(self, write: Callable[[str], None]) -> None:
        """Take what writes one line."""
        self._write = write
        self._held: Moment | None = None
        self._written = ""
        self._written_at_seconds = -PLAIN_SECONDS

    def show(self, moment: Moment) -> None:
        """Write the moment if it is news and its time has come; hold it otherwise."""
        self._held = moment
        if moment.seconds - self._written_at_seconds >= PLAIN_SECONDS:
            self.finish()

    def finish(self) -> None:
        """Write what is held, if it is news."""
        if self._held is None or line_of(self._held) == self._written:
            return
        self._written, self._written_at_seconds = line_of(self._held), self._held.seconds
        self._write(f"  {self._held.seconds:3.0f} s  {self._written}")
        self._held = None


def line_of(moment: Moment) -> str:
    """Return the states that have jobs and the delay queues that have messages, as one line."""
    states = [f"{moment.counts[state]} {state}" for state in SHOWN_STATES if moment.counts.get(state)]
    waiting = [f"{name} {length}" for name, length in moment.queues.items() if length and "delay" in name]
    return ", ".join(states) + (f"   [{', '.join(waiting)}]" if waiting else "")


def _seconds(job: JobSummary) -> float:
    return (job.finished_at - job.created_at).total_seconds() if job.finished_at else 0.0


def _picture(moment: Moment) -> Table:
    picture = Table(box=None, padding=(0, 3, 0, 1), pad_edge=True, header_style="dim")
    picture.add_column(f"Jobs after {moment.seconds:.0f} s")
    picture.add_column("Messages in RabbitMQ")
    picture.add_row(_states(moment), _queues(moment.queues))
    return picture


def _states(moment: Moment) -> Table:
    grid = Table.grid(padding=(0, 1))
    total = max(sum(moment.counts.values()), 1)
    for state in SHOWN_STATES:
        count = moment.counts.get(state, 0)
        bar = Text("\u2588" * -(-count * BAR_WIDTH // total), STYLES.get(state, "cyan"))
        grid.add_row(Text(state, "" if count else "dim"), Text(f"{count:4}", "" if count else "dim"), bar)
    return grid


def _queues(queues: Mapping[str, int]) -> Table:
    grid = Table.grid(padding=(0, 1))
    for name, length in queues.items():
        style = "" if length else "dim"
        grid.add_row(Text(name, style), Text(f"{length:4}", style))
    return grid
