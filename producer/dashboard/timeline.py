"""The life of a job as a picture: when it waited, and when each attempt was made. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from producer.records import AttemptRecord
from shared.kinds.check import Certificate, Hop, Timings

_WIDTH = 1_000
_LEAST_WIDTH = 4
# A picture of so many attempts is as good as one of more.
_MOST_ATTEMPTS = 200
_MOST_HOPS = 50


@dataclass(frozen=True, slots=True)
class Bar:
    """An attempt in the picture; `x` and `width` are thousandths of it."""

    x: int
    width: int
    attempt: AttemptRecord


@dataclass(frozen=True, slots=True)
class Timeline:
    """All of it: from when to when, and the attempts in between."""

    began_at: datetime
    ended_at: datetime
    bars: Sequence[Bar]

    @property
    def seconds(self) -> float:
        """How long it took until now, or to its end."""
        return (self.ended_at - self.began_at).total_seconds()


def timeline(
    created_at: datetime, finished_at: datetime | None, attempts: Sequence[AttemptRecord], *, now: datetime
) -> Timeline | None:
    """Return the picture of a job; None before its first attempt.

    Workers' clocks and ours differ, so a time may lie before the one that it follows.
    """
    attempts = attempts[-_MOST_ATTEMPTS:]
    if not attempts:
        return None
    began_at = min(created_at, *(each.started_at for each in attempts))
    ends = [each.ended_at or now for each in attempts]
    ended_at = max(finished_at or now, *ends, began_at)
    seconds = max((ended_at - began_at).total_seconds(), 1e-6)

    def place(at: datetime) -> float:
        return min(max((at - began_at).total_seconds() / seconds, 0.0), 1.0) * _WIDTH

    bars = []
    for each in attempts:
        start, end = place(each.started_at), place(each.ended_at or now)
        width = max(round(end - start), _LEAST_WIDTH)
        bars.append(Bar(min(round(start), _WIDTH - width), width, each))
    return Timeline(began_at, ended_at, bars)


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a request, and how long it took."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Answers:
    """What a result tells of the requests that were made, as far as it is as we know it."""

    hops: Sequence[Hop]
    certificate: Certificate | None


_HOPS = TypeAdapter(list[Hop])


def answers_in(result: Mapping[str, Any] | None) -> Answers:
    """Return the requests and answers that a result tells of; strangers may report anything."""
    if result is None:
        return Answers((), None)
    hops = result.get("hops")
    return Answers(
        _read(_HOPS, hops[:_MOST_HOPS]) or () if isinstance(hops, list) else (),
        _read(TypeAdapter(Certificate), result.get("certificate")),
    )


def phases(timings: Timings) -> list[Phase]:
    """Return the parts of a request that were measured, in their order."""
    named = (
        ("DNS", timings.dns_seconds),
        ("connect", timings.connect_seconds),
        ("TLS", timings.tls_seconds),
        ("first byte", timings.first_byte_seconds),
        ("total", timings.total_seconds),
    )
    return [Phase(name, seconds) for name, seconds in named if seconds is not None]


def _read(adapter: TypeAdapter[Any], value: object) -> Any:
    if not isinstance(value, BaseModel | dict | list):
        return None
    try:
        return adapter.validate_python(value)
    except ValidationError:
        return None
