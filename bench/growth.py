"""From samples of memory to "flat" or not: start, peak, end, and a fitted slope. Pure."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_MEBIBYTE = 1_048_576
_JOBS = 10_000


@dataclass(frozen=True, slots=True)
class Sample:
    """How many jobs of the batch had ended, and the resident bytes of each process then."""

    ended: int
    resident_bytes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Growth:
    """Mebibytes of one process; `per_10000_jobs` is the slope of a line fitted to the second half.

    By then caches are filled and pools are open, so what still grows would grow for ever. What is sampled
    after the last job, while results are streamed, is in the peak alone. The slope is None if the batch was
    done too soon to have one.
    """

    start: float
    peak: float
    end: float
    per_10000_jobs: float | None


def growths(samples: Sequence[Sample]) -> dict[str, Growth]:
    """Return how each process grew, from at least one sample."""
    jobs = samples[-1].ended
    late = [sample for sample in samples if jobs / 2 <= sample.ended < jobs]
    return {
        name: Growth(
            start=_mebibytes(samples[0].resident_bytes[name]),
            peak=_mebibytes(max(sample.resident_bytes[name] for sample in samples)),
            end=_mebibytes(samples[-1].resident_bytes[name]),
            per_10000_jobs=_slope(late, name),
        )
        for name in samples[0].resident_bytes
    }


def table(found: Mapping[str, Growth]) -> str:
    """Return the growths as a Markdown table of MiB."""
    head = ("| process | start MiB | peak | end | per 10,000 jobs |", "| --- | ---: | ---: | ---: | ---: |")
    return "\n".join([*head, *(_line(name, each) for name, each in found.items())])


def _line(name: str, growth: Growth) -> str:
    slope = "-" if growth.per_10000_jobs is None else f"{growth.per_10000_jobs:+.2f}"
    return f"| {name} | {growth.start:.1f} | {growth.peak:.1f} | {growth.end:.1f} | {slope} |"


def _slope(samples: Sequence[Sample], name: str) -> float | None:
    ended = [sample.ended for sample in samples]
    if len(set(ended)) < 2:
        return None
    memory = [sample.resident_bytes[name] / _MEBIBYTE for sample in samples]
    return round(statistics.linear_regression(ended, memory).slope * _JOBS, 3)


def _mebibytes(number: int) -> float:
    return round(number / _MEBIBYTE, 1)
