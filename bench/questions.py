"""What a person asks of the API about a large store, each question with arguments of its own every time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import TypeVar
from urllib.parse import urlencode
from uuid import UUID

from bench.stock import HOSTS, HOUR, REASONS, TEAMS, Hour, moved_id
from producer.records import NewJob
from shared.states import JobState

T = TypeVar("T")

_STATES = [state.value for state in JobState]
_KINDS = ("check", "fetch", "webhook")


@dataclass(frozen=True, slots=True)
class Asker:
    """Chooses arguments in a store that has an hour and copies of it for the hours before."""

    random: Random
    hour: Hour
    hours: int

    def job(self) -> NewJob:
        """Return one of the jobs of the hour."""
        return self.random.choice(self.random.choice(self.hour.submitted).jobs)

    def job_id(self) -> UUID:
        """Return the id of any job there is."""
        return moved_id(self.job().id, self._back())

    def batch_id(self) -> UUID:
        """Return the id of any batch there is; one time in ten that of the biggest."""
        ids = [
            each.batch.id for each in self.hour.submitted if each.batch and each.batch.id != self.hour.biggest
        ]
        if self.random.random() < 0.1:
            return self.hour.biggest
        return moved_id(self.random.choice(ids), self._back())

    def host(self) -> str:
        """Return a host: as often a rare one as one that has many jobs."""
        return f"site-{self.random.randrange(HOSTS)}.example"

    def times(self) -> dict[str, str]:
        """Return a span of up to five hours."""
        after = self.hour.start - self._back() + HOUR * self.random.random()
        before = after + timedelta(minutes=self.random.randrange(10, 300))
        return {"created_after": _text(after), "created_before": _text(before)}

    def pick(self, choices: Sequence[T]) -> T:
        """Return one of some choices."""
        return self.random.choice(choices)

    def cursor(self) -> dict[str, str]:
        """Return where to go on from: one time in two nowhere, else anywhere."""
        return {"cursor": str(self.job_id())} if self.random.random() < 0.5 else {}

    def _back(self) -> timedelta:
        return HOUR * self.random.randrange(self.hours)


Question = Callable[[Asker], str]


def _jobs(**filters: str) -> str:
    return f"/jobs?{urlencode(filters)}"


QUESTIONS: Mapping[str, Question] = {
    "job": lambda ask: f"/jobs/{ask.job_id()}",
    "batch with its counts": lambda ask: f"/batches/{ask.batch_id()}",
    "batches": lambda _: "/batches",
    "batches by label": lambda ask: f"/batches?label=team:{ask.pick(TEAMS)}",
    "jobs, newest": lambda _: "/jobs",
    "jobs, any page": lambda ask: _jobs(cursor=str(ask.job_id())),
    "jobs by state": lambda ask: _jobs(state=ask.pick(_STATES), **ask.cursor()),
    "jobs by kind": lambda ask: _jobs(kind=ask.pick(_KINDS), **ask.cursor()),
    "jobs by kind and state": lambda ask: _jobs(
        kind=ask.pick(_KINDS), state=ask.pick(_STATES), **ask.cursor()
    ),
    "jobs by batch": lambda ask: _jobs(batch=str(ask.batch_id())),
    "jobs by batch and state": lambda ask: _jobs(batch=str(ask.batch_id()), state=ask.pick(_STATES)),
    "jobs by host": lambda ask: _jobs(host=ask.host(), **ask.cursor()),
    "jobs by time": lambda ask: _jobs(**ask.times()),
    "jobs by time and state": lambda ask: _jobs(state=ask.pick(_STATES), **ask.times()),
    "jobs by reason": lambda ask: _jobs(reason=ask.pick(REASONS), **ask.cursor()),
    "jobs by label": lambda ask: _jobs(label=f"team:{ask.pick(TEAMS)}", **ask.cursor()),
    "jobs by URL, common": lambda ask: _jobs(url=ask.host(), **ask.cursor()),
    "jobs by URL, rare": lambda ask: _jobs(url=ask.job().args["url"][-12:], **ask.cursor()),
    "parked groups": lambda _: "/parked",
    "parked groups of a kind": lambda ask: f"/parked?kind={ask.pick(_KINDS)}",
    "parked groups of a host": lambda ask: f"/parked?host={ask.host()}",
    "parked groups of a batch": lambda ask: f"/parked?batch_id={ask.batch_id()}",
    "metrics": lambda _: "/metrics",
}


def _text(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
