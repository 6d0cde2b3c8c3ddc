"""Draws a report of `bench throughput` as bars: `python -m bench.peers.plot report.json` writes report.png.

Here because matplotlib is in the environment of the peers, where the product need not carry it.
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

_COLOURS = {"ours": "#c1440e", "peer": "#5b7c99", "floor": "#b8b8b8"}


def draw(report: Path) -> None:
    """Write a PNG beside a report: a panel for each sort of job, medians as bars, ranges as whiskers."""
    mpl.use("Agg")
    told = json.loads(report.read_text())
    works = list(dict.fromkeys(row["work"] for row in told["rows"]))
    figure, panels = plt.subplots(1, len(works), figsize=(2 + 5 * len(works), 3.6), squeeze=False)
    for panel, work in zip(panels[0], works, strict=True):
        _draw_work(panel, work, [row for row in told["rows"] if row["work"] == work])
    figure.suptitle(
        f"One worker process, medians of {told['rounds']}; {told['cpus']} CPUs shared by all, {told['at']}",
        fontsize=10,
    )
    figure.tight_layout()
    figure.savefig(report.with_suffix(".png"), dpi=120)


def _draw_work(panel: Any, work: str, rows: list[dict[str, Any]]) -> None:
    rows = rows[::-1]
    rates = [row["jobs_per_second"] for row in rows]
    medians = [rate["median"] for rate in rates]
    below = [rate["median"] - rate["lowest"] for rate in rates]
    above = [rate["highest"] - rate["median"] for rate in rates]
    colours = [_COLOURS[row["role"]] for row in rows]
    names = [row["contender"] for row in rows]
    panel.barh(names, medians, xerr=[below, above], color=colours, capsize=3)
    panel.set_title(work)
    panel.set_xlabel("jobs/s")


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
