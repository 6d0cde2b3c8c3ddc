"""What systems came to that hand out tasks: medians, ratios and a table. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.summary import Spread, spread
from bench.works import Role


@dataclass(frozen=True, slots=True)
class TaskRun:
    """What one system came to in one round; CPU seconds are those of 1,000 tasks, by process."""

    system: str
    role: Role
    agents: int
    round: int
    tasks: int
    seconds: float
    tasks_per_second: float
    cpu_seconds_per_1000: Mapping[str, float]

    def __str__(self) -> str:
        cost = ", ".join(f"{name} {seconds:.2f}" for name, seconds in self.cpu_seconds_per_1000.items())
        return (
            f"{self.agents:3} at once  {self.system:28} {self.tasks_per_second:7,.0f} tasks/s  CPU s: {cost}"
        )


@dataclass(frozen=True, slots=True)
class TaskRow:
    """What a system came to in all rounds with so many agents; `ratio` is its rate to the fastest peer's."""

    system: str
    agents: int
    rounds: int
    tasks_per_second: Spread
    cpu_seconds_per_1000: Mapping[str, Spread]
    ratio: float | None


def summarize(runs: Sequence[TaskRun]) -> list[TaskRow]:
    """Return a row for each number of agents, ascending, and in it for each system, the fastest first.

    The ratio is None where no peer ran.
    """
    return [
        row
        for agents in sorted({run.agents for run in runs})
        for row in _rows([run for run in runs if run.agents == agents])
    ]


def table(rows: Sequence[TaskRow]) -> str:
    """Return the rows as a Markdown table: medians, and for the rate how far the rounds lie apart."""
    names = list(dict.fromkeys(name for row in rows for name in row.cpu_seconds_per_1000))
    head = ["agents", "system", "tasks/s", "min-max", "ratio", *(f"{name} CPU s" for name in names)]
    marks = ["---:", "---", *(["---:"] * (len(head) - 2))]
    return "\n".join(
        f"| {' | '.join(cells)} |" for cells in (head, marks, *(_cells(row, names) for row in rows))
    )


def _rows(runs: Sequence[TaskRun]) -> list[TaskRow]:
    by_system = {
        run.system: [each for each in runs if each.system == run.system]
        for run in sorted(runs, key=lambda run: run.system)
    }
    rates = {name: spread([run.tasks_per_second for run in found]) for name, found in by_system.items()}
    peers = {run.system for run in runs if run.role is Role.PEER}
    fastest = max((rates[name].median for name in peers), default=None)
    return [
        TaskRow(
            system=name,
            agents=runs[0].agents,
            rounds=len(by_system[name]),
            tasks_per_second=rates[name],
            cpu_seconds_per_1000={
                process: spread([run.cpu_seconds_per_1000[process] for run in by_system[name]])
                for process in by_system[name][0].cpu_seconds_per_1000
            },
            ratio=round(rates[name].median / fastest, 2) if fastest else None,
        )
        for name in sorted(by_system, key=lambda name: -rates[name].median)
    ]


def _cells(row: TaskRow, names: Sequence[str]) -> list[str]:
    rate, cost = row.tasks_per_second, row.cpu_seconds_per_1000
    medians = [f"{cost[name].median:.2f}" if name in cost else "-" for name in names]
    ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
    rates = [f"{rate.median:,.0f}", f"{rate.lowest:,.0f}-{rate.highest:,.0f}"]
    return [str(row.agents), row.system, *rates, ratio, *medians]
