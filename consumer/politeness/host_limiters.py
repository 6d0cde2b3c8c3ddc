"""The limiters of all hosts of a worker: permits and waits, one timer a host. Nothing is decided here.

`Limiters` knows no hosts: `consumer.politeness.address_limiters` keeps those of addresses with it.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from consumer.politeness.host_limiter import HostLimiter, PermitRequest, Refusal
from shared.hosts import HostLimit, NamedLimit, named_limit
from shared.messages import HostWord

MAX_HOSTS = 10_000
"""About 1 KB each. The host that was idle longest is forgotten first."""

MAX_WAIT_SECONDS = 5.0
"""How long a further request of an attempt waits for its permit, unless the attempt has less time."""

# Timers of the loop have milliseconds; a shorter wait would only spin.
_SHORTEST_TIMER_SECONDS = 0.001


_SORTS = ("good", "busy", "too_many", "broken", "silent")
_ONCE = [1, 1, 0, 0, 0, 0, 0]


@dataclass(slots=True)
class _Entry:
    limiter: HostLimiter
    timer: asyncio.TimerHandle | None = None


class Permit:
    """Permission for one request to one host or address, now; `release` it when the answer has been read.

    Attributes:
        host: The host or the address that it is for, as limits are kept by it.
    """

    __slots__ = ("_entry", "_is_over", "_limiters", "_request", "host")

    def __init__(self, limiters: "Limiters", host: str, entry: _Entry, request: PermitRequest) -> None:
        """Make one; only `Limiters` does."""
        self.host = host
        self._limiters = limiters
        self._entry = entry
        self._request = request
        self._is_over = False

    def pause(self, seconds: float) -> None:
        """Let nothing go to the host for some time, as it has asked."""
        self._entry.limiter.pause(seconds, self._limiters.now())
        self._limiters.learned(self.host, self._entry)

    def release(self) -> None:
        """Let another request go; a second call does nothing."""
        if not self._is_over:
            self._is_over = True
            self._entry.limiter.end(self._request, self._limiters.now())
            self._limiters.learned(self.host, self._entry)


class FirstPermit:
    """What an attempt begins with; a context that releases at the end what no request took.

    Attributes:
        max_wait_seconds: How long a further request of the attempt may wait for its permits.
        request: How the attempt asked for its permits, while nothing was sent and it can be given back as if
            it had not begun. None afterwards.
        busy_address: The address without a permit for which it was given back, as limits are kept by it.
        has_waited: Whether the job may have been in hand for long before it was given.
    """

    __slots__ = (
        "_address_permit",
        "_host",
        "_permit",
        "_words",
        "busy_address",
        "max_wait_seconds",
        "request",
    )

    has_waited = False

    def __init__(
        self,
        permit: Permit | None = None,
        address_permit: Permit | None = None,
        *,
        max_wait_seconds: float = MAX_WAIT_SECONDS,
        request: PermitRequest | None = None,
    ) -> None:
        """Keep permits for a host and its address; None for an attempt that has none before it begins."""
        self._permit = permit
        self._host = None if permit is None else permit.host
        # By host: requests, then answers by `_SORTS`, then the longest pause.
        self._words: dict[str, list[float]] = {}
        self._address_permit = address_permit
        self.max_wait_seconds = max_wait_seconds
        self.request = request
        self.busy_address: str | None = None

    def take(self, host: str) -> Permit | None:
        """Return the permit, once, if it is for this host."""
        permit = self._permit
        if permit is None or permit.host != host:
            return None
        self._permit = None
        return permit

    def take_address(self) -> Permit | None:
        """Return the permit for an address of the host, once."""
        permit, self._address_permit = self._address_permit, None
        return permit

    def note_request(self, host: str) -> None:
        """Note a request that is made to a host."""
        words = self._words.get(host)
        if words is None:
            words = self._words[host] = [0] * (len(_SORTS) + 2)
        words[0] += 1

    def note_answer(self, host: str, sort: str, pause_seconds: float = 0.0) -> None:
        """Note how a request was answered, by the name of the field of `HostWord`."""
        words = self._words[host]
        words[1 + _SORTS.index(sort)] += 1
        words[-1] = max(words[-1], pause_seconds)

    @property
    def asked(self) -> tuple[HostWord, ...] | None:
        """What the ledger is told of the hosts that were asked; None where it was one, once, and well."""
        if not self._words or (len(self._words) == 1 and self._words.get(self._host or "") == _ONCE):
            return None
        return tuple(
            HostWord(
                host=host,
                requests=int(requests),
                **{sort: int(each) for sort, each in zip(_SORTS, answers, strict=True)},
                pause_seconds=pause or None,
            )
            for host, (requests, *answers, pause) in self._words.items()
        )

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if self._address_permit is not None:
            self._address_permit.release()
        if self._permit is not None:
            self._permit.release()


class _NoPermit(FirstPermit):
    """Keeps nothing, because many attempts share it."""

    def note_request(self, host: str) -> None:
        """Do nothing."""

    def note_answer(self, host: str, sort: str, pause_seconds: float = 0.0) -> None:
        """Do nothing."""


NO_PERMIT: FirstPermit = _NoPermit()
"""Shared by all attempts that begin without a permit."""


class Limiters:
    """Gives out permits. It belongs to one event loop; the limits are those of this process."""

    def __init__(
        self,
        limit_of: Callable[[str], HostLimit],
        *,
        early_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make one that knows no host yet.

        Args:
            limit_of: Says the limit of a host that is asked for the first time.
            early_seconds: As of `HostLimiter`.
            clock: Seconds that only grow.
        """
        self._limit_of = limit_of
        self._early_seconds = early_seconds
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._answers: dict[PermitRequest, asyncio.Future[Permit | Refusal]] = {}

    def now(self) -> float:
        """Return the time of the limiters' clock."""
        return self._clock()

    def permit_now(self, host: str, request: PermitRequest) -> Permit | None:
        """Return a permit if the host is free now and no request waits for it."""
        entry = self._entry(host)
        return (
            Permit(self, host, entry, request)
            if entry.limiter.starts_at_once(request, self._clock())
            else None
        )

    async def permit(self, host: str, request: PermitRequest, *, has_slot: bool = True) -> Permit | Refusal:
        """Return a permit, after a wait of at most `max_wait_seconds`; or why there is none."""
        return self.permit_now(host, request) or await self.wait_permit(host, request, has_slot=has_slot)

    async def wait_permit(
        self, host: str, request: PermitRequest, *, has_slot: bool = True
    ) -> Permit | Refusal:
        """Return what `permit` does, for a request to which `permit_now` gave none."""
        entry = self._entry(host)
        if refusal := entry.limiter.ask(request, self._clock(), has_slot=has_slot):
            return refusal
        answer: asyncio.Future[Permit | Refusal] = asyncio.get_running_loop().create_future()
        self._answers[request] = answer
        self._give_out(host, entry)
        try:
            return await answer
        except asyncio.CancelledError:
            self._take_back(host, entry, request, answer)
            raise

    def learned(self, host: str, entry: _Entry) -> None:
        """Give out the permits that a limiter allows after it has learned something."""
        if entry.limiter.has_line or entry.timer is not None:
            self._give_out(host, entry)

    def _entry(self, host: str) -> _Entry:
        entry = self._entries.get(host)
        if entry is None:
            self._forget_idle()
            limiter = HostLimiter(self._limit_of(host), early_seconds=self._early_seconds)
            entry = self._entries[host] = _Entry(limiter)
        self._entries.move_to_end(host)
        return entry

    def _forget_idle(self) -> None:
        if len(self._entries) < MAX_HOSTS:
            return
        # At most as many as the prefetch are busy, so one of the first is idle.
        idle = next((host for host, entry in self._entries.items() if entry.limiter.is_idle), None)
        if idle is not None:
            del self._entries[idle]

    def _give_out(self, host: str, entry: _Entry) -> None:
        now = self._clock()
        for request in entry.limiter.starts(now):
            self._answer(request, Permit(self, host, entry, request))
        for request, refusal in entry.limiter.gives_up(now):
            self._answer(request, refusal)
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        wakes_at = entry.limiter.wakes_at(now)
        if wakes_at is not None:
            seconds = max(wakes_at - now, _SHORTEST_TIMER_SECONDS)
            entry.timer = asyncio.get_running_loop().call_later(seconds, self._give_out, host, entry)

    def _answer(self, request: PermitRequest, answer: Permit | Refusal) -> None:
        waiting = self._answers.pop(request)
        if not waiting.cancelled():
            waiting.set_result(answer)
        elif isinstance(answer, Permit):
            # Its job has just been cancelled.
            asyncio.get_running_loop().call_soon(answer.release)

    def _take_back(
        self, host: str, entry: _Entry, request: PermitRequest, answer: asyncio.Future[Permit | Refusal]
    ) -> None:
        if self._answers.pop(request, None) is not None:
            entry.limiter.leave(request)
            self._give_out(host, entry)
        elif answer.done() and not answer.cancelled() and isinstance(permit := answer.result(), Permit):
            permit.release()


class HostLimiters(Limiters):
    """The limiters of hosts by name, and how long they asked us to stay away."""

    def __init__(
        self,
        default: HostLimit | None = None,
        named: Iterable[NamedLimit] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make one that knows no host yet; without arguments nothing is limited.

        Args:
            default: The limit of hosts that none of `named` fits.
            named: Limits of hosts by name.
            clock: As of `Limiters`.
        """
        unnamed = default or HostLimit()
        patterns = tuple(named)
        self._limit_by_name = lru_cache(MAX_HOSTS)(lambda host: named_limit(host, patterns))
        super().__init__(lambda host: self._limit_by_name(host) or unnamed, clock=clock)

    def named_limit(self, host: str) -> HostLimit | None:
        """Return the limit of a host if somebody has named one."""
        return self._limit_by_name(host)

    def limit_rate(self, host: str, per_second: float) -> None:
        """Lower the rate of a host, as its `crawl-delay` asks; a higher one than it has changes nothing."""
        self._entry(host).limiter.limit_to(per_second)
