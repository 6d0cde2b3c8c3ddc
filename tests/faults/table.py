"""The table of docs/reliability.md, of what the last `make faults` saw: `python -m tests.faults.table`."""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.faults.catalogue import ALL_FAULTS
from tests.faults.services import ROOT
from tests.faults.trial import Verdict, read_verdicts

PAGE = ROOT / "docs" / "reliability.md"
_BEGIN, _END = "<!-- made by `make reliability` -->\n", "<!-- end -->\n"
_HEAD = (
    "| fault | RabbitMQ | jobs | lost | recorded twice | stuck | unexpected | effects twice | promised |\n"
    "| --- | --- | --: | --: | --: | --: | --: | --: | --- |\n"
)


def table(verdicts: Iterable[Verdict]) -> str:
    """Return the table in Markdown: a row a fault and broker, in the order of the catalogue."""
    places = {fault.name: place for place, fault in enumerate(ALL_FAULTS)}
    ordered = sorted(verdicts, key=lambda verdict: (places[verdict.fault], verdict.broker))
    return _HEAD + "".join(_row(verdict) for verdict in ordered)


def write_table(page: Path, verdicts: Iterable[Verdict]) -> None:
    """Put the table between its marks in the page.

    Raises:
        ValueError: the page has no marks.
    """
    text = page.read_text()
    if _BEGIN not in text or _END not in text:
        raise ValueError(f"{page} has no place for the table")
    marked = re.compile(re.escape(_BEGIN) + ".*" + re.escape(_END), re.DOTALL)
    page.write_text(marked.sub(lambda _: f"{_BEGIN}\n{table(verdicts)}\n{_END}", text))


def rows(page: Path) -> list[list[str]]:
    """Return the cells of the table in the page, its head left out."""
    marked = page.read_text().partition(_BEGIN)[2].partition(_END)[0].strip().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in marked[2:]]


def _row(verdict: Verdict) -> str:
    counts = verdict.counts
    numbers = (counts.acknowledged, counts.lost, counts.recorded_twice, counts.stuck, counts.unexpected)
    cells = (verdict.fault, verdict.broker, *numbers, counts.duplicated_effects, verdict.promise)
    return f"| {' | '.join(str(cell) for cell in cells)} |\n"


def main() -> None:
    """Write the table of the last run."""
    verdicts = read_verdicts()
    if not verdicts:
        sys.exit("There are no results: run `make faults` first.")
    write_table(PAGE, verdicts)


if __name__ == "__main__":
    main()
