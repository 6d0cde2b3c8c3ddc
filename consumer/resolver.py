"""The DNS of a worker: bounded in time and in addresses, and strict with names that lead inside."""

import asyncio
import socket
from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest

import aiodns
import aiodns.error
from aiohttp.abc import AbstractResolver, ResolveResult

from consumer.egress import EgressDenied, Network, denied_class
from shared.settings import Settings

MAX_ADDRESSES = 6
"""How many addresses of a name are tried. Each may take the whole time for connecting, and a host that is up
answers on one of the first few."""

TRIES = 2


class BoundedResolver(AbstractResolver):
    """Looks names up in time, and hands over a few addresses of both families.

    A name is refused when the guard denies any of its addresses. The guard at the socket would let the
    public ones through, but a name that leads outside and inside at once is a mistake or an attack that waits
    for its moment, and no check of it means anything.
    """

    def __init__(
        self, *, timeout_seconds: float, servers: Sequence[str] = (), allow: Iterable[Network] = ()
    ) -> None:
        """Make a resolver for the running loop.

        Args:
            timeout_seconds: Limit of one lookup, every try included.
            servers: As `RETRIEVER_DNS_SERVERS`; without any, those of the machine.
            allow: Networks that the guard lets through.
        """
        self._timeout_seconds = timeout_seconds
        self._allow = tuple(allow)
        # Without a list of its own c-ares also reads /etc/hosts, then asks as /etc/resolv.conf says.
        self._dns = aiodns.DNSResolver(
            nameservers=list(servers) or None, timeout=timeout_seconds / TRIES, tries=TRIES
        )

    @classmethod
    def of(cls, settings: Settings) -> "BoundedResolver":
        """Return the resolver that settings describe."""
        return cls(
            timeout_seconds=settings.dns_timeout_seconds,
            servers=settings.dns_servers,
            allow=settings.egress_allow,
        )

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return where a name leads.

        Raises:
            EgressDenied: the guard denies one of its addresses.
            OSError: it leads nowhere, or no DNS server answers; the cause is an `aiodns.error.DNSError`.
        """
        try:
            addresses = await self._look_up(host, family)
        except aiodns.error.DNSError as error:
            raise OSError(None, "DNS lookup failed") from error
        for address in addresses:
            if denied := denied_class(address, self._allow):
                raise EgressDenied(denied)
        return [_found(host, address, port) for address in _few_of_both(addresses)]

    async def close(self) -> None:
        """Stop; lookups under way end."""
        await self._dns.close()

    async def _look_up(self, host: str, family: socket.AddressFamily) -> list[str]:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                answer = await self._dns.getaddrinfo(host, family=family, type=socket.SOCK_STREAM)
        except TimeoutError:
            # aiohttp takes a TimeoutError for one of its own.
            raise aiodns.error.DNSError(aiodns.error.ARES_ETIMEOUT, "Timeout") from None
        addresses = [str(node.addr[0], "ascii") for node in answer.nodes]
        if not addresses:
            raise aiodns.error.DNSError(aiodns.error.ARES_ENODATA, "No data")
        return list(dict.fromkeys(addresses))


def _few_of_both(addresses: Sequence[str]) -> list[str]:
    """Return at most `MAX_ADDRESSES`, of both families alternately; the family that came first begins."""
    first_is_v6 = ":" in addresses[0]
    first = [address for address in addresses if (":" in address) is first_is_v6]
    second = [address for address in addresses if (":" in address) is not first_is_v6]
    in_turns = chain.from_iterable(zip_longest(first, second))
    return [address for address in in_turns if address is not None][:MAX_ADDRESSES]


def _found(host: str, address: str, port: int) -> ResolveResult:
    return ResolveResult(
        hostname=host,
        host=address,
        port=port,
        family=socket.AF_INET6 if ":" in address else socket.AF_INET,
        proto=0,
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )
