"""From runs to medians, ranges and ratios. Pure: it knows of no broker and no file."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from bench.works import Role, Work

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Run:
    """What one contender came to in one round."""

    work: Work
    contender: str
    role: Role
    round: int
    jobs: int
    seconds: float
    jobs_per_second: float
    worker_cpu_seconds_per_1000: float
    broker_cpu_seconds_per_1000: float
    peak_mebibytes: float

    def __str__(self) -> str:
        return (
            f"{self.work:20} {self.contender:20} {self.jobs_per_second:8,.0f} jobs/s"
            f"  {self.worker_cpu_seconds_per_1000:.2f} CPU s per 1,000"
        )


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some figures, and how far they lie apart."""

    median: float
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True)
class Row:
    """What a contender came to in all rounds; `ratio` is its median rate to that of the fastest peer."""

    work: Work
    contender: str
    role: Role
    rounds: int
    jobs_per_second: Spread
    worker_cpu_seconds_per_1000: Spread
    broker_cpu_seconds_per_1000: Spread
    peak_mebibytes: Spread
    ratio: float | None


def rotated(contenders: Sequence[T], by: int) -> list[T]:
    """Return the contenders in the order of a round, so that each round begins with another."""
    start = by % len(contenders)
    return [*contenders[start:], *contenders[:start]]


def spread(figures: Sequence[float]) -> Spread:
    """Return the spread of at least one figure.

    Raises:
        ValueError: there is none.
    """
    if not figures:
        raise ValueError("no figures, no median")
    return Spread(statistics.median(figures), min(figures), max(figures))


@dataclass(frozen=True, slots=True)
class Percentiles:
    """The middle and the end of many figures."""

    p50: float
    p99: float
    highest: float

    def __str__(self) -> str:
        return f"p50 {self.p50:,.1f}, p99 {self.p99:,.1f}, highest {self.highest:,.1f}"


def percentiles(figures: Sequence[float]) -> Percentiles:
    """Return those of at least one figure; each is one of them, the smallest that enough are not above.

    Raises:
        ValueError: there is none.
    """
    if not figures:
        raise ValueError("no figures, no percentiles")
    ordered = sorted(figures)
    p50, p99 = (ordered[math.ceil(len(ordered) * part) - 1] for part in (0.5, 0.99))
    return Percentiles(p50, p99, ordered[-1])


def summarize(runs: Sequence[Run]) -> list[Row]:
    """Return a row for each work and contender, works in their order, the fastest first.

    The ratio is None where no peer ran. The floor is no peer: nobody chooses it instead of a job system.
    """
    rows: list[Row] = []
    for work in Work:
        of_work = [run for run in runs if run.work is work]
        names = dict.fromkeys(run.contender for run in of_work)
        rates = {name: spread([r.jobs_per_second for r in of_work if r.contender == name]) for name in names}
        peers = {run.contender for run in of_work if run.role is Role.PEER}
        fastest = max((rates[name].median for name in peers), default=None)
        rows.extend(
            _row([run for run in of_work if run.contender == name], rates[name], fastest)
            for name in sorted(names, key=lambda name: -rates[name].median)
        )
    return rows


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table for each work.

    CPU seconds are those of 1,000 jobs, the ratio is to the fastest peer.
    """
    parts = []
    for work in dict.fromkeys(row.work for row in rows):
        lines = [_line(row) for row in rows if row.work is work]
        parts.append("\n".join([f"### {work.capitalize()}", "", *_HEAD, *lines]))
    return "\n\n".join(parts)


_HEAD = (
    "| system | jobs/s | min-max | ratio | worker CPU s | broker CPU s | peak MiB |",
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
)


def _row(runs: Sequence[Run], rate: Spread, fastest: float | None) -> Row:
    return Row(
        work=runs[0].work,
        contender=runs[0].contender,
        role=runs[0].role,
        rounds=len(runs),
        jobs_per_second=rate,
        worker_cpu_seconds_per_1000=spread([run.worker_cpu_seconds_per_1000 for run in runs]),
        broker_cpu_seconds_per_1000=spread([run.broker_cpu_seconds_per_1000 for run in runs]),
        peak_mebibytes=spread([run.peak_mebibytes for run in runs]),
        ratio=round(rate.median / fastest, 2) if fastest else None,
    )


def _line(row: Row) -> str:
    rate = row.jobs_per_second
    name = f"{row.contender} (floor)" if row.role is Role.FLOOR else row.contender
    ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
    cells = (
        name,
        f"{rate.median:,.0f}",
        f"{rate.lowest:,.0f}-{rate.highest:,.0f}",
        ratio,
        f"{row.worker_cpu_seconds_per_1000.median:.2f}",
        f"{row.broker_cpu_seconds_per_1000.median:.2f}",
        f"{row.peak_mebibytes.median:.0f}",
    )
    return f"| {' | '.join(cells)} |"
