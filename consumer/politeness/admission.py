"""Admission of attempts: each begins with its permits, waits a moment for them, or is deferred."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from consumer.politeness.address_limiters import AddressLimiters, address_words
from consumer.politeness.host_limiter import PermitRequest, Priority, Refusal
from consumer.politeness.host_limiters import MAX_WAIT_SECONDS, NO_PERMIT, FirstPermit, HostLimiters, Permit
from shared.clock import utc_now
from shared.hosts import host_key
from shared.kinds.registry import Lane, asked_seconds
from shared.messages import JobMessage
from shared.outcomes import DeferralReason, Deferred

_EXPLANATIONS = {
    DeferralReason.BUSY: "{host} is at its limit for this worker",
    DeferralReason.PAUSED: "{host} asked us to stay away for a while",
}


class Admission:
    """Asks the limiters of host and address for the first permits of each attempt."""

    def __init__(
        self,
        limiters: HostLimiters,
        addresses: AddressLimiters | None = None,
        *,
        prefetch_by_lane: Mapping[Lane, int],
    ) -> None:
        """Make one; the prefetch limits bound how many jobs wait in hand.

        Without limiters of addresses, none is limited.
        """
        self._limiters = limiters
        self._addresses = addresses or AddressLimiters()
        self._prefetch_by_lane = prefetch_by_lane
        self._shares: dict[tuple[str, Lane], PrefetchShare] = {}

    async def admit(self, job: JobMessage, *, address: str | None = None) -> FirstPermit | Deferred:
        """Return the permits to hold during the attempt, maybe after a moment; or that it is deferred.

        The host's is asked for first, and the address's while it is held, everywhere: so nobody waits for a
        host who holds an address. Where the address is not known, the attempt begins without, and is given
        back if it is busy. A job whose deadline has passed and a job without a URL need no permit.

        Args:
            address: For an attempt that was given back: the address that had no permit.
        """
        host = _host_of(job)
        if host is None or (job.expires_at is not None and utc_now() >= job.expires_at):
            return NO_PERMIT
        share = self._share(job)
        keys = (address,) if address is not None else self._addresses.known(host)
        request = _permit_request(job)
        permit = self._limiters.permit_now(host, request)
        of_address = self._address_now(job, host, keys) if permit is not None else None
        if permit is None or (keys and of_address is None):
            # By the address, so that many names of one machine are one in the prefetch, too.
            with share.slot(keys[0] if keys else host) as has_slot:
                granted = permit or await self._limiters.wait_permit(host, request, has_slot=has_slot)
                if isinstance(granted, Refusal):
                    return _deferred(granted, host)
                answer = await self._address(job, host, keys, granted, has_slot=has_slot)
                if isinstance(answer, Refusal):
                    granted.release()
                    return _deferred(answer, address_words(keys[0], host))
                permit, of_address = granted, answer
        return FirstPermit(permit, of_address, max_wait_seconds=_max_wait_seconds(job.args), request=request)

    def _address_now(self, job: JobMessage, host: str, keys: tuple[str, ...]) -> Permit | None:
        for key in keys:
            self._addresses.raise_limit(key, self._limiters.named_limit(host))
            permit = self._addresses.permit_now(key, _permit_request(job))
            if permit is not None:
                return permit
        return None

    async def _address(
        self,
        job: JobMessage,
        host: str,
        keys: tuple[str, ...],
        held: Permit,
        *,
        has_slot: bool,
    ) -> Permit | Refusal | None:
        """Return a permit for one of these addresses, or a refusal of the first; None where none is known.

        An error, such as a cancellation, ends the host's permit.
        """
        try:
            free = self._address_now(job, host, keys)
            if free is not None or not keys:
                return free
            return await self._addresses.wait_permit(keys[0], _permit_request(job), has_slot=has_slot)
        except BaseException:
            held.release()
            raise

    def _share(self, job: JobMessage) -> "PrefetchShare":
        key = job.kind, job.lane
        if key not in self._shares:
            self._shares[key] = PrefetchShare(self._prefetch_by_lane[job.lane])
        return self._shares[key]


def _permit_request(job: JobMessage) -> PermitRequest:
    priority = Priority.INTERACTIVE if job.lane is Lane.INTERACTIVE else Priority.BULK
    return PermitRequest(priority, MAX_WAIT_SECONDS)


def _deferred(refusal: Refusal, whom: str) -> Deferred:
    explanation = f"Deferred, because {_EXPLANATIONS[refusal.reason].format(host=whom)}."
    return Deferred(refusal.seconds, refusal.reason, explanation)


def _host_of(job: JobMessage) -> str | None:
    url = job.args.get("url")
    return host_key(url) if isinstance(url, str) else None


def _max_wait_seconds(args: Mapping[str, Any]) -> float:
    # A quarter of the attempt's time, so that our waiting never looks like the target's silence.
    limit_seconds = asked_seconds(args)
    return MAX_WAIT_SECONDS if limit_seconds is None else min(MAX_WAIT_SECONDS, limit_seconds / 4)


class PrefetchShare:
    """The slots for jobs that wait in hand: half of a queue's prefetch. Free hosts always have the rest.

    All hosts of one address count as one. A host may take as many slots as stay free: one busy host takes
    half of them, two take a third each, and there is always a slot for another.
    """

    def __init__(self, prefetch: int) -> None:
        """Make the share of a queue with this prefetch limit."""
        self._slots = max(prefetch // 2, 1)
        self._taken: Counter[str] = Counter()

    @contextmanager
    def slot(self, host: str) -> Iterator[bool]:
        """Hold a slot while inside, if there is one for this host; yield whether there is."""
        has_slot = self._taken[host] < self._slots - self._taken.total()
        self._taken[host] += has_slot
        try:
            yield has_slot
        finally:
            self._taken[host] -= has_slot
            if not self._taken[host]:
                del self._taken[host]
