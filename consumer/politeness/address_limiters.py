"""The limits of addresses: a thousand names of one machine are one machine.

A name is cheap, so a limit by names alone limits nobody who makes them up. The host's limiter is asked first,
then the address's; what hosts ask for (`Retry-After`) stays with the host's, because sites share addresses.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from consumer.politeness.host_limiter import PermitRequest, Priority, Refusal
from consumer.politeness.host_limiters import FirstPermit, HostLimiters, Limiters, Permit
from shared.hosts import HostLimit, NetworkLimit, address_key, network_limit

MAX_KNOWN_HOSTS = 10_000

KNOWN_SECONDS = 30.0
"""How long a host's addresses are remembered after it was last asked. A guess that is wrong costs a permit of
the wrong address, and what is connected to counts anyway."""

EARLY_SECONDS = 0.01
"""A host gets a permit every 50 ms, and that of its address is asked for some microseconds later, each time a
little more or less: without this every second one would find it not yet due."""


class AddressBusy(Exception):
    """No permit for the address that a request goes to, neither now nor as soon as it may wait.

    Attributes:
        address: As limits are kept by it.
        refusal: When there may be one; None when nobody has asked for that yet.
    """

    def __init__(self, address: str, refusal: Refusal | None = None) -> None:
        super().__init__(f"no permit for {address}")
        self.address = address
        self.refusal = refusal


def address_words(key: str, host: str) -> str:
    """Return how people are told of the address of a host."""
    return f"{key}, the {'network' if '/' in key else 'address'} of {host},"


class AddressLimiters(Limiters):
    """The limiters of addresses, and which addresses hosts were last seen at.

    Attributes:
        limits_nothing: Whether no address has a limit, so that no permit need be asked for.
    """

    def __init__(
        self,
        default: HostLimit | None = None,
        networks: Iterable[NetworkLimit] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make one that knows no address yet; without arguments nothing is limited.

        Args:
            default: The limit of an address in none of `networks`.
            networks: Limits of each address in a network.
            clock: Seconds that only grow.
        """
        unnamed, named = default or HostLimit(), tuple(networks)

        def limit_of(key: str) -> HostLimit:
            return (network_limit(key, named) if named else None) or unnamed

        super().__init__(limit_of, early_seconds=EARLY_SECONDS, clock=clock)
        self.limits_nothing = unnamed == HostLimit() and not named
        self._known: OrderedDict[str, tuple[float, tuple[str, ...]]] = OrderedDict()

    def known(self, host: str) -> tuple[str, ...]:
        """Return the addresses of a host as limits are kept by them, the likeliest first; maybe none."""
        until, keys = self._known.get(host, (0.0, ()))
        return keys if until > self.now() else ()

    def note(self, host: str, keys: tuple[str, ...]) -> None:
        """Remember for a while what addresses a host has."""
        self._known[host] = self.now() + KNOWN_SECONDS, keys
        self._known.move_to_end(host)
        if len(self._known) > MAX_KNOWN_HOSTS:
            self._known.popitem(last=False)

    def note_connected(self, host: str, key: str) -> None:
        """Remember for a while at which of its addresses a host was found."""
        _, keys = self._known.get(host, (0.0, (key,)))
        self.note(host, keys if keys[0] == key else (key, *(each for each in keys if each != key)))

    def raise_limit(self, key: str, limit: HostLimit | None) -> None:
        """Allow an address at least what the named limit of a host at it allows, until it is forgotten."""
        if limit is not None:
            self._entry(key).limiter.raise_to(limit)


class AddressPermits:
    """The permits of one request to a host, for the addresses that it is sent to.

    Each dial takes one, so a fallback to another address is counted there, too. Once there is a connection,
    the permit of its address alone stays, until `release`.
    """

    __slots__ = (
        "_at_least",
        "_dialled",
        "_first",
        "_fresh",
        "_held",
        "_host",
        "_is_connected",
        "_limiters",
        "_wait_seconds",
        "failed_dial",
        "untried",
    )

    def __init__(self, limiters: AddressLimiters, hosts: HostLimiters, host: str, first: FirstPermit) -> None:
        """Make those of a request to this host.

        Args:
            limiters: Those of addresses.
            hosts: Say what an address of the host allows at least.
            host: As limits are kept by it.
            first: What the attempt began with; its permit for an address is taken.
        """
        self._limiters = limiters
        self._at_least = hosts.named_limit(host)
        self._host = host
        self._first = first
        self._wait_seconds = first.max_wait_seconds
        self._held: list[Permit] = []
        # Permits that nothing was dialled with yet.
        self._fresh: set[str] = set()
        self._dialled: set[str] = set()
        self._is_connected = False
        # Why nothing could be dialled before, and an address that was left out for want of a permit.
        self.failed_dial: BaseException | None = None
        self.untried: str | None = None
        if (permit := first.take_address()) is not None:
            self._held.append(permit)
            self._fresh.add(permit.host)

    @property
    def busy(self) -> AddressBusy | None:
        """The error to raise when all that was dialled failed, and an address was left out."""
        return None if self.untried is None else self._busy(self.untried, None)

    def begin(self) -> None:
        """Note that a connection is asked for; a request that is sent again needs a permit again."""
        if self._is_connected:
            self.release()
        self._dialled.clear()
        self._is_connected, self.failed_dial, self.untried = False, None, None

    def choose(self, addresses: Sequence[str]) -> int | None:
        """Take a permit for the first address that has one; return which, or None.

        One that is held already goes first.
        """
        if len(addresses) == 1:
            key = address_key(addresses[0])
            if self._take(key):
                return 0
            self._limiters.note(self._host, (key,))
            return None
        keys = [address_key(address) for address in addresses]
        self._limiters.note(self._host, tuple(dict.fromkeys(keys)))
        for index, key in enumerate(keys):
            if key in self._fresh:
                return index
        return next((index for index, key in enumerate(keys) if self._take(key)), None)

    def never_dialled(self, addresses: Sequence[str]) -> int | None:
        """Return the first of these that nothing was dialled at yet."""
        return next(
            (index for index, each in enumerate(addresses) if address_key(each) not in self._dialled), None
        )

    def dial(self, address: str) -> bool:
        """Use a permit to connect to an address; return whether there was one."""
        key = address_key(address)
        if not self._take(key):
            if key not in self._dialled:
                self.untried = self.untried or key
            return False
        self._fresh.discard(key)
        self._dialled.add(key)
        return True

    def reuse(self, address: str) -> bool:
        """Take a permit for the address of a kept connection; return whether there is one."""
        return self._take(address_key(address))

    async def wait(self, address: str) -> None:
        """Return with a permit for an address that was not free.

        Raises:
            AddressBusy: there is none in time. At once for the first request of an attempt, which waits
            better where it is no attempt yet.
        """
        key = address_key(address)
        if self._first.request is not None:
            raise self._busy(key, None)
        seconds = self._wait_seconds
        started = self._limiters.now()
        permit = await self._limiters.permit(key, PermitRequest(Priority.UNDER_WAY, seconds))
        self._wait_seconds = max(seconds - (self._limiters.now() - started), 0.0)
        if isinstance(permit, Refusal):
            raise self._busy(key, permit)
        self._held.append(permit)
        self._fresh.add(key)

    def connected(self, address: str) -> None:
        """Note where the request goes now: all other permits end."""
        key, kept = address_key(address), None
        for permit in self._held:
            if permit.host == key and kept is None:
                kept = permit
            else:
                permit.release()
        self._held[:] = [] if kept is None else [kept]
        self._fresh.clear()
        self._is_connected = True
        self._first.request = None
        self._limiters.note_connected(self._host, key)

    def release(self) -> None:
        """End all permits; the answer has been read, or is not wanted."""
        for permit in self._held:
            permit.release()
        self._held.clear()
        self._fresh.clear()

    def _take(self, key: str) -> bool:
        if key in self._fresh:
            return True
        self._limiters.raise_limit(key, self._at_least)
        permit = self._limiters.permit_now(key, self._new_request())
        if permit is None:
            return False
        self._held.append(permit)
        self._fresh.add(key)
        return True

    def _new_request(self) -> PermitRequest:
        asked = self._first.request
        if asked is None:
            return PermitRequest(Priority.UNDER_WAY, 0.0)
        return PermitRequest(asked.priority, 0.0)

    def _busy(self, key: str, refusal: Refusal | None) -> AddressBusy:
        if self._first.request is not None:
            self._first.busy_address = key
        return AddressBusy(key, refusal)
