"""How hard each host may be asked, over the whole fleet: decided from one value a host. Pure.

A host that may come near its limit is **tracked**: it has a row, and the jobs that are released for it are
counted in it. Times are of the wall clock, because ledgers on several machines must agree.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from math import log
from threading import Lock
from typing import Final
from uuid import UUID

from shared.hosts import HostLimit, NamedLimit, named_limit
from shared.messages import HostWord, Report
from shared.outcomes import OutcomeName
from shared.settings import Settings

HORIZON_SECONDS: Final = 0.2
"""How far ahead jobs of a host are released, each with its time: so it is with a worker by then, a look at a
host with 20 a second finds four, and a page that holds three jobs of one host need not put two aside."""

NEAR_SECONDS: Final = 0.5
"""A retry counts as in flight from so long before its time on."""

JITTER_SECONDS: Final = 0.07
"""Jobs are spaced so that no second has more than the limit while some start so much later than others."""

MOST_COUNTED: Final = 10_000
"""Jobs that wait before another are counted no further."""

RECENT_SECONDS: Final = 60.0
"""A host of which a ledger released a job within this time is tracked when it releases another."""

FLOOR: Final = 1 / 32
"""The slowest pace, as a share of the limit. Below that, `Retry-After` and the breaker decide."""

FIRST_REST_SECONDS: Final = 10.0
LONGEST_REST_SECONDS: Final = 120.0
LONGEST_PAUSE_SECONDS: Final = 300.0
"""How long one `Retry-After` may pause all jobs of a host; the job that got it waits as long as it says."""

RESTS_BEFORE_ASKING_ANYWAY: Final = 4
"""After so many rests in a row an open breaker holds no job any more, so that a dead host cannot hold up the
end of a batch for ever."""

_MOST_RECENT_HOSTS = 50_000
# A pace doubles in this time: from the floor to the limit in ten seconds.
_DOUBLING_SECONDS = 2.0
# Complaints that come within one flight are one, and what was heard counts for some seconds.
_CUT_SECONDS = 1.0
_MEMORY_SECONDS = 5.0
# Up to the first share of complaints they are those of single pages; from the second on, most of the host.
_PAGES_FAULT, _HOSTS_FAULT = 0.25, 0.5
_FEWEST_HEARD = 4.0
_SLOW = 1 / 4
# A clock that was set back must not stop a host.
_FARTHEST = timedelta(hours=1)


_NO_CONNECTION = frozenset(
    {
        "connect_timeout",
        "connection_refused",
        "unreachable",
        "connect_failed",
        "tls_timeout",
        "tls_interrupted",
        "dns_failed",
        "dns_timeout",
    }
)


class Answer(StrEnum):
    """What a report says of its host."""

    GOOD = "good"
    BUSY = "busy"
    """503: the page or the host has no time."""
    TOO_MANY = "too_many"
    """429, which is never about one page."""
    BROKEN = "broken"
    """Another 5xx: it opens the breaker, and slows nothing down."""
    SILENT = "silent"
    """No connection could be made."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class HostState:
    """A tracked host.

    Attributes:
        name: As limits are kept by it: `shared.hosts.host_key`.
        in_flight: Jobs that were released and have neither ended nor been delayed.
        waiting: Jobs that are held in the store.
        owed: Requests that were made and are not in the rate yet.
        next_at: When the next job may start, as the rate says (GCRA, with a burst of one).
        retries: When retries come back that are delayed, as seconds since 1970, each counted when near.
        share: The pace after the last cut, at `cut_at`, as a share of the limit; it doubles from there.
        asked: How many answers were heard lately, as of `heard_at`; older ones count less.
        complained: How many of them were complaints.
        paused_until: As `Retry-After` said.
        failures: In a row.
        rests: How often in a row the breaker has opened.
        rests_until: While it is open: when one probe may go.
        turn: The batch whose jobs went last; those of the next one go first.
        limit: What somebody has set at run time, or None.
    """

    name: str
    in_flight: int = 0
    waiting: int = 0
    owed: int = 0
    next_at: datetime | None = None
    retries: Sequence[float] = ()
    share: float = 1.0
    cut_at: datetime | None = None
    asked: float = 0.0
    complained: float = 0.0
    heard_at: datetime | None = None
    paused_until: datetime | None = None
    failures: int = 0
    rests: int = 0
    rests_until: datetime | None = None
    turn: UUID | None = None
    limit: HostLimit | None = None

    def is_forgettable(self, now: datetime) -> bool:
        """Return whether nothing of it need be known any more."""
        has_work = self.in_flight or self.waiting or self.retries
        is_ill = self.rests_until is not None or self.pace(now) < 1.0 or (self.paused_until or now) > now
        return not has_work and not is_ill and self.limit is None

    def taken(self, now: datetime) -> int:
        """Return how many jobs are in flight, with the retries that are near."""
        near = now.timestamp() + NEAR_SECONDS
        return self.in_flight + sum(each <= near for each in self.retries)

    def pace(self, now: datetime) -> float:
        """Return how much of its limit it is asked for now, as a share."""
        if self.cut_at is None:
            return 1.0
        doubled = max((now - self.cut_at).total_seconds(), 0.0) / _DOUBLING_SECONDS
        grown: float = self.share * 2.0 ** min(doubled, 16.0)
        return min(grown, 1.0)

    def used_per_second(self, now: datetime) -> float:
        """Return how many requests a second were answered lately, as those say that count in `asked`."""
        if self.heard_at is None:
            return 0.0
        kept: float = 0.5 ** (max((now - self.heard_at).total_seconds(), 0.0) / _MEMORY_SECONDS)
        return self.asked * kept * log(2) / _MEMORY_SECONDS

    def allowed(self, limit: HostLimit, now: datetime) -> HostLimit:
        """Return what it may be asked now, of a limit."""
        pace = self.pace(now)
        return HostLimit(max(int(limit.concurrency * pace), 1), limit.rate_per_second * pace)

    def is_open(self) -> bool:
        """Return whether the breaker holds its jobs."""
        return self.rests_until is not None and self.rests <= RESTS_BEFORE_ASKING_ANYWAY


@dataclass(frozen=True, slots=True)
class HostChange:
    """What happened to a host's jobs, all in one transaction.

    Attributes:
        not_retries: The times of retries that never come, or that have come and ended.
    """

    ended: int = 0
    unheld: int = 0
    retries: Sequence[float] = ()
    not_retries: Sequence[float] = ()
    answers: Sequence[Answer] = ()
    more_requests: int = 0
    pause_until: datetime | None = None

    @property
    def begins_tracking(self) -> bool:
        """Whether it concerns a host of which nothing was known before."""
        return self.pause_until is not None or bool(self.retries)

    def and_then(self, other: "HostChange") -> "HostChange":
        """Return both together."""
        pauses = [each for each in (self.pause_until, other.pause_until) if each is not None]
        return HostChange(
            self.ended + other.ended,
            self.unheld + other.unheld,
            [*self.retries, *other.retries],
            [*self.not_retries, *other.not_retries],
            [*self.answers, *other.answers],
            self.more_requests + other.more_requests,
            max(pauses, default=None),
        )


@dataclass(frozen=True, slots=True)
class TrackedHost:
    """A tracked host and its limit, None before a relay has looked at it."""

    state: HostState
    limit: HostLimit | None


@dataclass(frozen=True, slots=True)
class Hold:
    """What holds a job: its host, and how many jobs of its batch are `before` it, at most `MOST_COUNTED`."""

    host: TrackedHost
    before: int

    def expected_at(self, now: datetime) -> datetime | None:
        """Return when the job may be released, as far as can be told; None where that is not known."""
        state, limit = self.host.state, self.host.limit
        starts_at = max(
            now, state.paused_until or now, (state.rests_until if state.is_open() else now) or now
        )
        rate = 0.0 if limit is None else state.allowed(limit, now).rate_per_second
        if not rate or self.before >= MOST_COUNTED:
            return None
        return starts_at + timedelta(seconds=(self.before + 1) / rate)


class HostLimits:
    """The limits that settings name."""

    def __init__(self, default: HostLimit | None = None, named: Iterable[NamedLimit] = ()) -> None:
        """Keep them; without arguments nothing is limited."""
        self._default, patterns = default or HostLimit(), tuple(named)
        self._named = lru_cache(10_000)(lambda name: named_limit(name, patterns))
        self._may_name = lru_cache(10_000)(
            lambda host: any(each.fits(host) or each.pattern.rpartition(":")[0] == host for each in patterns)
        )
        self.has_names = bool(patterns)
        self.limits_nothing = not _limits(self._default) and not patterns
        # Two ledgers may each release a job of a host that neither tracks yet.
        self.tracks_every_host = _limits(self._default) and (
            self._default.concurrency < 4 or 0 < self._default.rate_per_second < 2
        )

    @classmethod
    def of_settings(cls, settings: Settings) -> "HostLimits":
        """Return those of a process."""
        return cls(settings.default_host_limit, settings.named_limits)

    def of(self, name: str, state: HostState | None = None) -> HostLimit:
        """Return the limit of a host: what somebody has set, or else what the settings say."""
        if state is not None and state.limit is not None:
            return state.limit
        return self._named(name) or self._default

    def may_name(self, host: str) -> bool:
        """Return whether the settings name a host, without its port, on any port."""
        return self._may_name(host)


class RecentHosts:
    """The hosts of which a ledger released a job lately: enough to suspect them. Its relays share it."""

    def __init__(self) -> None:
        """Know none yet."""
        self._seen: OrderedDict[str, datetime] = OrderedDict()
        self._lock = Lock()

    def note(self, hosts: Iterable[str], now: datetime) -> set[str]:
        """Note that a job of each is released; return those of which one was released before."""
        seen, again, since = self._seen, set(), now - timedelta(seconds=RECENT_SECONDS)
        with self._lock:
            for host in hosts:
                if (at := seen.get(host)) is not None and at > since:
                    again.add(host)
                seen[host] = now
                seen.move_to_end(host)
            while len(seen) > _MOST_RECENT_HOSTS:
                seen.popitem(last=False)
        return again


def answer_of(report: Report) -> Answer:
    """Return what the reason of a report says of the host that was asked."""
    if report.outcome is OutcomeName.SUCCEEDED:
        return Answer.GOOD
    reason = report.reason or ""
    if report.outcome is None or not reason.startswith("http_"):
        return Answer.SILENT if reason in _NO_CONNECTION else Answer.UNKNOWN
    match reason.removeprefix("http_"):
        case "429":
            return Answer.TOO_MANY
        case "503":
            return Answer.BUSY
        case status:
            return Answer.BROKEN if status.startswith("5") else Answer.GOOD


def answers_of(word: HostWord) -> list[Answer]:
    """Return what an attempt has heard of a host; what it had to complain of comes last."""
    return [
        *[Answer.GOOD] * word.good,
        *[Answer.SILENT] * word.silent,
        *[Answer.BROKEN] * word.broken,
        *[Answer.BUSY] * word.busy,
        *[Answer.TOO_MANY] * word.too_many,
    ]


def release(state: HostState, limit: HostLimit, most: int, *, now: datetime) -> tuple[HostState, list[float]]:
    """Return the host after as many jobs were released as may be, and in how many seconds each is to start.

    Args:
        limit: The host's.
        most: How many there are.
    """
    state = settled(state, limit, now)
    if (state.paused_until or now) > now:
        return state, []
    allowed = state.allowed(limit, now)
    at_once = allowed.concurrency
    if state.is_open() and state.rests_until is not None:
        # One probe, when the rest is over.
        at_once = 1 if state.rests_until <= now else 0
    room = min(at_once - state.taken(now), most)
    if room <= 0:
        return state, []
    if not allowed.rate_per_second:
        return replace(state, in_flight=state.in_flight + room), [0.0] * room
    interval = interval_seconds(allowed)
    waits: list[float] = []
    retries = sorted(state.retries)
    at = max((state.next_at - now).total_seconds() if state.next_at else 0.0, 0.0)
    while len(waits) < room and at <= HORIZON_SECONDS:
        if retries and retries[0] - now.timestamp() < at + interval / 2:
            # It takes the place that is nearest to its time.
            retries.pop(0)
        else:
            waits.append(at)
        at += interval
    back = len(state.retries) - len(retries)
    if not waits and not back:
        return state, []
    next_at = now + timedelta(seconds=at)
    in_flight = state.in_flight + back + len(waits)
    return replace(state, in_flight=in_flight, retries=retries, next_at=next_at), waits


def interval_seconds(limit: HostLimit) -> float:
    """Return how far apart jobs start, for a limit with a rate."""
    return (1 + JITTER_SECONDS) / limit.rate_per_second


def settled(state: HostState, limit: HostLimit | None, now: datetime) -> HostState:
    """Return the host with what has become due: retries that are near, requests that were not in the rate.

    Args:
        limit: None where nobody knows it; then requests stay owed.
    """
    at = now.timestamp()
    if state.retries and (count := sum(each <= at for each in state.retries)):
        later = [each for each in state.retries if each > at]
        in_flight, owed = state.in_flight + count, state.owed + count
        state = replace(state, in_flight=in_flight, owed=owed, retries=later)
    if state.next_at is not None and state.next_at > now + _FARTHEST:
        state = replace(state, next_at=None)
    if state.owed and limit is not None:
        allowed, next_at = state.allowed(limit, now), state.next_at
        if allowed.rate_per_second:
            owed_seconds = state.owed * interval_seconds(allowed)
            next_at = max(next_at or now, now) + timedelta(seconds=owed_seconds)
        state = replace(state, owed=0, next_at=next_at)
    return state


def ready_at(state: HostState, limit: HostLimit | None, now: datetime) -> datetime | None:
    """Return when a job that waits may be released; None when a report must come first.

    Args:
        limit: None where nobody knows it; then it is when it is worth a look.
    """
    if limit is None:
        at = max(now, state.paused_until or now)
        return max(at, state.next_at - timedelta(seconds=HORIZON_SECONDS / 2)) if state.next_at else at
    at = max(state.paused_until or now, now)
    full = state.taken(now) >= state.allowed(limit, now).concurrency
    if state.is_open() and state.rests_until is not None:
        full, at = state.taken(now) >= 1, max(at, state.rests_until)
    if full and at <= now:
        # A pace that grows makes room, too.
        grows = state.pace(now) < 1.0 and state.taken(now) < limit.concurrency and not state.is_open()
        return now + timedelta(seconds=_DOUBLING_SECONDS / 4) if grows else None
    if state.next_at is not None and limit.rate_per_second:
        at = max(at, state.next_at - timedelta(seconds=HORIZON_SECONDS / 2))
    return at


def changed(state: HostState, change: HostChange, *, failures_to_open: int, now: datetime) -> HostState:
    """Return the host after what happened to its jobs, and what their reports say of it.

    Args:
        failures_to_open: In a row; 0 never opens the breaker.
    """
    state = settled(state, None, now)
    retries, ended = [*state.retries, *change.retries], change.ended
    for each in change.not_retries:
        if each in retries:
            retries.remove(each)
        else:
            ended += 1
    state = replace(
        state,
        in_flight=max(state.in_flight - ended, 0),
        waiting=max(state.waiting - change.unheld, 0),
        retries=retries,
        owed=state.owed + change.more_requests,
    )
    for answer in change.answers:
        state = _heard(state, answer, failures_to_open, now)
    if change.pause_until is not None:
        most = now + timedelta(seconds=LONGEST_PAUSE_SECONDS)
        until = min(change.pause_until, most)
        state = replace(state, paused_until=max(state.paused_until or until, until))
    return state


def _heard(state: HostState, answer: Answer, failures_to_open: int, now: datetime) -> HostState:
    if answer is Answer.UNKNOWN:
        return state
    state = _counted(state, complains=answer in {Answer.BUSY, Answer.TOO_MANY}, now=now)
    match answer:
        case Answer.TOO_MANY:
            state = _cut(state, FLOOR, now)
        case Answer.BUSY if state.asked >= _FEWEST_HEARD:
            share = state.complained / state.asked
            if share > _PAGES_FAULT:
                state = _cut(state, FLOOR if share > _HOSTS_FAULT else _SLOW, now)
    if answer in {Answer.GOOD, Answer.TOO_MANY}:
        return replace(state, failures=0, rests=0, rests_until=None)
    failures = state.failures + 1
    if not failures_to_open or failures < failures_to_open:
        return replace(state, failures=failures)
    if state.rests_until is not None and state.rests_until > now:
        # One of those that were under way when it opened.
        return state
    rest = min(FIRST_REST_SECONDS * 2**state.rests, LONGEST_REST_SECONDS)
    rests_until = now + timedelta(seconds=rest)
    return replace(state, failures=failures, rests=state.rests + 1, rests_until=rests_until)


def _counted(state: HostState, *, complains: bool, now: datetime) -> HostState:
    passed = max((now - state.heard_at).total_seconds(), 0.0) if state.heard_at else 0.0
    kept = 0.5 ** (passed / _MEMORY_SECONDS)
    return replace(
        state, asked=state.asked * kept + 1, complained=state.complained * kept + complains, heard_at=now
    )


def _cut(state: HostState, lowest: float, now: datetime) -> HostState:
    """Return the host at half its pace, once for all that were under way together."""
    pace = state.pace(now)
    if state.cut_at is not None and (now - state.cut_at).total_seconds() < _CUT_SECONDS:
        return state
    return replace(state, share=max(pace / 2, min(lowest, pace)), cut_at=now)


def _limits(limit: HostLimit) -> bool:
    return limit != HostLimit()
