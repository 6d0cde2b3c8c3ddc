"""Plots as SVG: what ended in each span of time, and how long it took. Pure.

A bar is stacked of how its jobs ended. The same figures stand in a table beside each plot.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from producer.figures import Span
from shared.states import JobState

WIDTH: Final = 960
HEIGHT: Final = 150
_LEFT = 44
_TOP = 8
_BOTTOM = 18
_INNER_HEIGHT = HEIGHT - _TOP - _BOTTOM
# From the bottom up.
STACK: Final = (JobState.SUCCEEDED, JobState.PARKED, JobState.CANCELLED)
_NICE = (1, 2, 5, 10)
_LABELS = 6
# The scale of durations, in seconds.
_MARKS = {0.1: "0.1 s", 1: "1 s", 10: "10 s", 60: "1 min", 600: "10 min", 3_600: "1 h", 86_400: "1 d"}


@dataclass(frozen=True, slots=True)
class Rect:
    """A part of a bar."""

    x: float
    y: float
    width: float
    height: float
    state: JobState


@dataclass(frozen=True, slots=True)
class Bar:
    """A span in the plot: its parts, and a place to point at."""

    x: float
    width: float
    span: Span
    parts: Sequence[Rect]


@dataclass(frozen=True, slots=True)
class Tick:
    """A line of the scale, or a label below."""

    place: float
    text: str


@dataclass(frozen=True, slots=True)
class EndsPlot:
    """How many jobs ended, by how."""

    bars: Sequence[Bar]
    scale: Sequence[Tick]
    labels: Sequence[Tick]


@dataclass(frozen=True, slots=True)
class Line:
    """A line, as the points of an SVG polyline; one for each stretch without a gap."""

    name: str
    stretches: Sequence[str]


@dataclass(frozen=True, slots=True)
class DurationPlot:
    """How long jobs took, on a logarithmic scale."""

    lines: Sequence[Line]
    scale: Sequence[Tick]
    labels: Sequence[Tick]


def plot_ends(spans: Sequence[Span]) -> EndsPlot:
    """Return the plot of how many ended in each span."""
    top = _nice_top(max((span.total for span in spans), default=0))
    step = (WIDTH - _LEFT) / max(len(spans), 1)
    bars = []
    for place, span in enumerate(spans):
        x, width = _LEFT + place * step, max(step - (1 if step > 4 else 0), 0.5)
        parts, y = [], float(HEIGHT - _BOTTOM)
        for state in STACK:
            if number := span.ended.get(state, 0):
                # What there is is seen, however little it is.
                height = max(number / top * _INNER_HEIGHT, 1.0)
                y -= height
                parts.append(Rect(round(x, 1), round(y, 1), round(width, 1), round(height, 1), state))
        bars.append(Bar(round(x, 1), round(step, 1), span, parts))
    scale = [Tick(_y(share), f"{top * share:,.0f}") for share in (0.0, 0.5, 1.0) if top * share % 1 == 0]
    return EndsPlot(bars, scale, _times(spans, step))


def plot_durations(spans: Sequence[Span]) -> DurationPlot:
    """Return the plot of within which time half and 95 % of them ended."""
    step = (WIDTH - _LEFT) / max(len(spans), 1)
    lowest, highest = math.log10(0.1), math.log10(86_400)

    def y_of(seconds: float) -> float:
        return _y((math.log10(max(seconds, 0.1)) - lowest) / (highest - lowest))

    shares: tuple[tuple[str, Callable[[Span], float | None]], ...] = (
        ("half", lambda span: span.within_seconds(0.5)),
        ("95 %", lambda span: span.within_seconds(0.95)),
    )
    lines = [Line(name, _stretches(spans, step, share, y_of)) for name, share in shares]
    marks = (
        (0.1, "0.1 s"),
        (1, "1 s"),
        (10, "10 s"),
        (60, "1 min"),
        (600, "10 min"),
        (3_600, "1 h"),
        (86_400, "1 d"),
    )
    return DurationPlot(lines, [Tick(y_of(at), text) for at, text in marks], _times(spans, step))


def _stretches(
    spans: Sequence[Span], step: float, share: Callable[[Span], float | None], y_of: Callable[[float], float]
) -> list[str]:
    stretches: list[list[str]] = [[]]
    for place, span in enumerate(spans):
        seconds = share(span)
        if seconds is None:
            stretches.append([])
            continue
        # A level for each span, so that one alone is seen, too.
        x, y = _LEFT + place * step, round(y_of(seconds), 1)
        stretches[-1] += [f"{x:.1f},{y}", f"{x + step:.1f},{y}"]
    return [" ".join(points) for points in stretches if points]


def _y(share: float) -> float:
    return round(HEIGHT - _BOTTOM - min(share, 1.0) * _INNER_HEIGHT, 1)


def _nice_top(number: int) -> int:
    """Return the least number of 1, 2 or 5 and zeros that is not below."""
    power = int("1" + "0" * (len(str(number)) - 1))
    return next(nice * power for nice in _NICE if nice * power >= number)


def _times(spans: Sequence[Span], step: float) -> list[Tick]:
    every = max(len(spans) // _LABELS, 1)
    form = "%H:%M" if len(spans) > 1 and (spans[-1].began_at - spans[0].began_at).days < 2 else "%d. %H:%M"
    return [
        Tick(round(_LEFT + place * step, 1), span.began_at.strftime(form))
        for place, span in enumerate(spans)
        if place % every == 0 and place <= len(spans) - every // 2
    ]
