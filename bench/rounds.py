"""From rounds of whole batches to a row for each number of workers. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.summary import Spread, spread


@dataclass(frozen=True, slots=True)
class Round:
    """What one batch came to; CPU seconds are those of 1,000 jobs, by process."""

    workers: int
    jobs: int
    seconds: float
    jobs_per_second: float
    cpu_seconds_per_1000: Mapping[str, float]

    def __str__(self) -> str:
        cost = ", ".join(f"{name} {seconds:.2f}" for name, seconds in self.cpu_seconds_per_1000.items())
        return f"{self.workers} worker(s) {self.jobs_per_second:8,.0f} jobs/s  CPU s per 1,000: {cost}"


@dataclass(frozen=True, slots=True)
class Row:
    """What all rounds with so many workers came to."""

    workers: int
    rounds: int
    jobs_per_second: Spread
    cpu_seconds_per_1000: Mapping[str, Spread]


def summarize(rounds: Sequence[Round]) -> list[Row]:
    """Return a row for each number of workers, in the order in which they were measured."""
    return [
        _row([each for each in rounds if each.workers == workers])
        for workers in dict.fromkeys(each.workers for each in rounds)
    ]


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table: medians, and for the rate how far the rounds lie apart."""
    names = max((list(row.cpu_seconds_per_1000) for row in rows), key=len)
    head = ["workers", "jobs/s", "min-max", *(f"{name} CPU s per 1,000" for name in names)]
    marks = ["---:"] * len(head)
    return "\n".join(
        f"| {' | '.join(cells)} |" for cells in (head, marks, *(_cells(row, names) for row in rows))
    )


def _row(rounds: Sequence[Round]) -> Row:
    names = rounds[0].cpu_seconds_per_1000
    return Row(
        workers=rounds[0].workers,
        rounds=len(rounds),
        jobs_per_second=spread([each.jobs_per_second for each in rounds]),
        cpu_seconds_per_1000={
            name: spread([each.cpu_seconds_per_1000[name] for each in rounds]) for name in names
        },
    )


def _cells(row: Row, names: Sequence[str]) -> list[str]:
    rate, cost = row.jobs_per_second, row.cpu_seconds_per_1000
    medians = [f"{cost[name].median:.2f}" if name in cost else "-" for name in names]
    return [str(row.workers), f"{rate.median:,.0f}", f"{rate.lowest:,.0f}-{rate.highest:,.0f}", *medians]
