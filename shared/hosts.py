"""Hosts and addresses as limits know them: their key, and how many requests each may get. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Self

from shared.urls import MAX_URL_LENGTH, url_origin

MAX_CONCURRENCY = 2_000
MAX_RATE_PER_SECOND = 10_000.0
# Less than one request in a quarter of an hour is a schedule, not a rate.
MIN_RATE_PER_SECOND = 0.001

_DEFAULT_PORTS = {"http": 80, "https": 443}
_ENTRY = re.compile(r"(\*\.)?([a-z0-9_.:\[\]/-]+)=(\d{1,4}):(\d{1,5}(?:\.\d{1,6})?)", re.ASCII)
_BEYOND_HOST = re.compile(r"[\s/?#@%\\*]")
_PORT = re.compile(r":([0-9]+)$")
# RFC 1035 section 2.3.4, without the dot that may end it.
_MAX_HOST_LENGTH = 253
_NAT64 = IPv6Network("64:ff9b::/96")

MACHINE_PREFIX_V6 = 64
"""A /64 is one machine: one host or customer has it whole (RFC 7421, RFC 6177) and may answer on all of its
18 quintillion addresses, so a limit of single ones would limit nothing."""


@dataclass(frozen=True, slots=True)
class HostLimit:
    """How many requests one worker process may make to a host.

    Attributes:
        concurrency: Requests at once.
        rate_per_second: Requests a second; 0 is no limit.
    """

    concurrency: int = MAX_CONCURRENCY
    rate_per_second: float = 0.0

    def at_least(self, other: "HostLimit") -> "HostLimit":
        """Return a limit that allows what either of the two allows."""
        rates = self.rate_per_second, other.rate_per_second
        return HostLimit(max(self.concurrency, other.concurrency), max(rates) if all(rates) else 0.0)


@dataclass(frozen=True, slots=True)
class NamedLimit:
    """The limit of one host, `example.com`, or of all names below one, `*.example.com`."""

    pattern: str
    limit: HostLimit

    @classmethod
    def parse(cls, entry: str) -> Self:
        """Return the limit of `host=concurrency:rate`.

        Raises:
            ValueError: it has another form, or a number is out of its bounds.
        """
        pattern, limit = _split(entry)
        if "/" in pattern:
            raise ValueError(f"{pattern}: is no name of a host")
        return cls(pattern, limit)

    def fits(self, host: str) -> bool:
        """Return whether the pattern fits a host; it may leave out the port of the key."""
        name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
        if self.pattern.startswith("*."):
            return name.endswith(self.pattern[1:])
        return self.pattern in {host, name}


@dataclass(frozen=True, slots=True)
class NetworkLimit:
    """The limit of each address in a network; `104.16.0.0/13` is the limit of every single one in it."""

    network: IPv4Network | IPv6Network
    limit: HostLimit

    @classmethod
    def parse(cls, entry: str) -> Self:
        """Return the limit of `network=concurrency:rate`.

        Raises:
            ValueError: it has another form, a number is out of its bounds, or it is a part of one machine.
        """
        pattern, limit = _split(entry)
        network = ip_network(pattern)
        if network.version == 6 and network.prefixlen > MACHINE_PREFIX_V6:
            raise ValueError(f"{pattern}: a /{MACHINE_PREFIX_V6} is one machine, and has one limit")
        return cls(network, limit)


def parse_limit(entry: str) -> NamedLimit | NetworkLimit:
    """Return what one entry of `RETRIEVER_HOST_LIMITS` limits: a host by name, or the addresses of a network.

    Raises:
        ValueError: as the two parse.
    """
    return NetworkLimit.parse(entry) if "/" in entry else NamedLimit.parse(entry)


def _split(entry: str) -> tuple[str, HostLimit]:
    match = _ENTRY.fullmatch(entry.strip().lower())
    if match is None:
        raise ValueError(
            f"{entry.strip()[:100]!r} is not like example.com=4:10, *.example.com=1:0.5 or 192.0.2.0/24=4:10"
        )
    wildcard, host, concurrency, rate = match.groups()
    limit = HostLimit(int(concurrency), float(rate))
    if not 1 <= limit.concurrency <= MAX_CONCURRENCY:
        raise ValueError(f"{host}: a concurrency is 1 to {MAX_CONCURRENCY}")
    if limit.rate_per_second and not MIN_RATE_PER_SECOND <= limit.rate_per_second <= MAX_RATE_PER_SECOND:
        raise ValueError(
            f"{host}: a rate is 0, or {MIN_RATE_PER_SECOND:g} to {MAX_RATE_PER_SECOND:g} a second"
        )
    return f"{wildcard or ''}{host}", limit


def named_limit(host: str, named: Iterable[NamedLimit]) -> HostLimit | None:
    """Return the limit that names a host: the longest pattern wins, and a name wins over a wildcard."""
    fitting = [entry for entry in named if entry.fits(host)]
    if not fitting:
        return None
    return max(fitting, key=lambda entry: (not entry.pattern.startswith("*."), len(entry.pattern))).limit


def network_limit(key: str, networks: Iterable[NetworkLimit]) -> HostLimit | None:
    """Return the limit of the smallest network that holds an address, as `address_key` writes it."""
    machine = ip_network(key)
    fitting = [
        entry
        for entry in networks
        if entry.network.version == machine.version and machine.subnet_of(entry.network)  # type: ignore[arg-type]
    ]
    return max(fitting, key=lambda entry: entry.network.prefixlen).limit if fitting else None


def address_key(address: str) -> str:
    """Return what the limits of an IP address are kept by, on all of its ports: the machine behind it.

    An IPv4 address is one, also mapped into IPv6 or behind NAT64 (RFC 6052). In IPv6 it is the /64, such as
    `2001:db8:0:1::/64`.

    Args:
        address: A literal, as sockets have it; a scope id (`%eth0`) is left out.
    """
    # Sockets write an IPv4 address in one way.
    return _key_of_ipv6(address) if ":" in address else address


@lru_cache(maxsize=8_192)
def _key_of_ipv6(address: str) -> str:
    parsed = IPv6Address(address.partition("%")[0])
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    if parsed in _NAT64:
        return str(IPv4Address(int(parsed) & 0xFFFF_FFFF))
    return str(IPv6Network((int(parsed) >> 64 << 64, MACHINE_PREFIX_V6)))


def host_named(text: str) -> str:
    """Return the key of a host that somebody names, as `host_key` has it: in any case or script, `name:port`.

    Raises:
        ValueError: it is no host; the message, which ends a sentence, is why.
    """
    if _BEYOND_HOST.search(text):
        raise ValueError("a host is a name or an address, and a port where that is not the scheme's own")
    try:
        host = url_origin(f"http://{text}/")[1].rstrip(".")
    except ValueError:
        raise ValueError("it is no name of a host, and no address; IPv6 is written in brackets") from None
    if not 1 <= len(host) <= _MAX_HOST_LENGTH:
        raise ValueError(f"a name has 1 to {_MAX_HOST_LENGTH} characters, as it is in ASCII")
    port = _PORT.search(text)
    return f"{host}:{int(port[1])}" if port else host


@lru_cache(maxsize=4_096)
def host_key(url: str) -> str | None:
    """Return what the limits of a URL's host are kept by; None when it is not an absolute http or https URL.

    It is the host in lower case, without the dot that may end it; a port other than the scheme's
    own is part of it, because another program listens there.
    """
    if len(url) > MAX_URL_LENGTH:
        return None
    try:
        scheme, host, port = url_origin(url)
    except ValueError:
        return None
    name = host.rstrip(".")
    return name if port == _DEFAULT_PORTS[scheme] else f"{name}:{port}"
