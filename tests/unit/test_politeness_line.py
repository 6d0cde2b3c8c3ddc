"""Many jobs on one host: a whole worker in simulated time, to see how often each is sent away."""

import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import pytest

from consumer.politeness.admission import PrefetchShare
from consumer.politeness.host_limiter import HostLimiter, PermitRequest, Priority, Refusal
from shared.hosts import HostLimit
from shared.retry import deferral_step_seconds

HOST = "example.com"


@dataclass
class Line:
    """A broker, a worker and a host in simulated time: `run` lets jobs come, wait, run and come back."""

    limit: HostLimit
    prefetch: int = 100
    request_seconds: float = 0.05
    late_seconds: float = 0.0
    now: float = 0.0
    request_times: list[float] = field(default_factory=list)
    most_at_once: int = 0
    deferrals: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.limiter = HostLimiter(self.limit)
        self.share = PrefetchShare(self.prefetch)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._jobs: dict[PermitRequest, int] = {}
        self._slots: dict[PermitRequest, AbstractContextManager[bool]] = {}
        self._running = 0
        self._wakes_at: float | None = None

    def run(self, jobs: int, *, arrivals_per_second: float = 1_000.0) -> None:
        """Let so many jobs arrive, and go on until all are done."""
        for job in range(jobs):
            self._at(job / arrivals_per_second, lambda job=job: self._arrive(job))  # type: ignore[misc]
        while self._events:
            self.now, _, happen = heapq.heappop(self._events)
            happen()

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), happen))

    def _arrive(self, job: int) -> None:
        request = PermitRequest(Priority.BULK, 5.0)
        self._jobs[request] = job
        slot = self.share.slot(HOST)
        refusal = self.limiter.ask(request, self.now, has_slot=slot.__enter__())
        self._slots[request] = slot
        if refusal is not None:
            self._defer(request, refusal)
        self._give_out()

    def _give_out(self) -> None:
        for request in self.limiter.starts(self.now):
            self._slots.pop(request).__exit__(None, None, None)
            self.request_times.append(self.now)
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
            self._at(self.now + self.request_seconds, lambda request=request: self._end(request))  # type: ignore[misc]
        for request, refusal in self.limiter.gives_up(self.now):
            self._defer(request, refusal)
        wakes_at = self.limiter.wakes_at(self.now)
        if wakes_at is not None and wakes_at != self._wakes_at:
            self._wakes_at = wakes_at
            self._at(max(wakes_at, self.now) + self.late_seconds, self._give_out)

    def _end(self, request: PermitRequest) -> None:
        self._running -= 1
        self.limiter.end(request, self.now)
        self._give_out()

    def _defer(self, request: PermitRequest, refusal: Refusal) -> None:
        self._slots.pop(request).__exit__(None, None, None)
        job = self._jobs[request]
        self.deferrals[job] += 1
        back_at = self.now + deferral_step_seconds(refusal.seconds) + 0.01
        self._at(back_at, lambda: self._arrive(job))


def most_in_a_second(times: list[float]) -> int:
    """Return how many of the times the fullest window of a second holds, one of its ends left out."""
    return max(sum(start <= time < start + 1 - 1e-9 for time in times) for start in times)


@pytest.mark.parametrize(
    ("limit", "prefetch", "request_seconds", "most_deferrals", "most_seconds"),
    [
        (HostLimit(4, 20), 100, 0.05, 5, 45.0),
        # Few slots: most of those who come back together are sent away again.
        (HostLimit(4, 20), 20, 0.05, 15, 115.0),
        (HostLimit(2, 0), 100, 0.1, 5, 75.0),
        # Four at once are only eight a second here, which the limiter has to learn while the jobs come.
        (HostLimit(4, 20), 100, 0.5, 5, 95.0),
    ],
)
def test_five_hundred_jobs_that_no_ledger_spaces_keep_the_limits_and_all_get_through(
    limit: HostLimit, prefetch: int, request_seconds: float, most_deferrals: int, most_seconds: float
) -> None:
    line = Line(limit, prefetch=prefetch, request_seconds=request_seconds)

    line.run(500)

    assert len(line.request_times) == 500
    assert line.most_at_once <= limit.concurrency
    assert not limit.rate_per_second or most_in_a_second(line.request_times) <= limit.rate_per_second
    assert max(line.deferrals.values()) <= most_deferrals
    assert line.now <= most_seconds
