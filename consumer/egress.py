"""The egress guard: no connection leaves a worker for an address that is not public unicast.

It acts where a socket is made, so it sees every address that is really dialled: literals, names,
redirects and retries alike. Knows nothing of URLs or HTTP on purpose.
"""

import socket
from collections.abc import Callable, Iterable
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
AddressInfo = tuple[Any, ...]
"""family, type, protocol, canonical name and socket address, as `getaddrinfo` gives them."""


class AddressClass(StrEnum):
    """Why an address is denied."""

    METADATA = "cloud metadata service"
    THIS_NETWORK = "this network"
    LOOPBACK = "loopback"
    PRIVATE = "private"
    SHARED = "carrier-grade NAT"
    LINK_LOCAL = "link-local"
    SITE_LOCAL = "site-local"
    PROTOCOL = "protocol assignment"
    DOCUMENTATION = "documentation"
    BENCHMARK = "benchmark"
    EMBEDDED = "IPv4 embedded in IPv6"
    MULTICAST = "multicast"
    RESERVED = "reserved"
    NOT_AN_ADDRESS = "not a plain IP address"
    OTHER_PROTOCOL = "port of another protocol"


class EgressDenied(OSError):
    """We refused a connection. An `OSError`, because aiohttp passes on no other kind."""

    def __init__(self, address_class: AddressClass) -> None:
        super().__init__(f"egress denied: {address_class}")
        self.address_class = address_class


def denied_class(address: str, allow: Iterable[Network]) -> AddressClass | None:
    """Return why an address is denied, or None when it may be dialled.

    Args:
        address: What is about to be dialled; anything but a plain IP address is denied, because the event
            loop would resolve it after we looked.
        allow: As `guarded_socket_factory`.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return _denial(family, (address, 0), tuple(allow))


def guarded_socket_factory(
    allow: Iterable[Network], deny_ports: Iterable[int] = ()
) -> Callable[[AddressInfo], socket.socket]:
    """Return a `socket_factory` for `aiohttp.TCPConnector` that makes sockets for public addresses only.

    The factory raises `EgressDenied` for every other address.

    Args:
        allow: Networks that are open nevertheless. An IPv4 network also opens the mapped forms of its
            addresses, and nothing opens what is not a plain IP address.
        deny_ports: Closed everywhere, in those networks too: servers on them may read an HTTP request as
            mail or commands (Fetch Standard, "bad port").
    """
    open_networks, closed_ports = tuple(allow), frozenset(deny_ports)

    def make_socket(info: AddressInfo) -> socket.socket:
        family, kind, protocol, _, target = info
        if denied := _denial(family, target, open_networks):
            raise EgressDenied(denied)
        if target[1] in closed_ports:
            raise EgressDenied(AddressClass.OTHER_PROTOCOL)
        return socket.socket(family=family, type=kind, proto=protocol)

    return make_socket


def _denial(family: int, target: tuple[Any, ...], allow: tuple[Network, ...]) -> AddressClass | None:
    # A scope id (the fourth field in IPv6) names an interface of ours: never a public address.
    is_plain = (family == socket.AF_INET and len(target) == 2) or (
        family == socket.AF_INET6 and len(target) in {2, 4} and not any(target[3:])
    )
    parsed = _parse(target[0]) if is_plain else None
    if parsed is None:
        return AddressClass.NOT_AN_ADDRESS
    if any(parsed.version == network.version and parsed in network for network in allow):
        return None
    return _class_of(parsed)


def _parse(address: object) -> Address | None:
    if not isinstance(address, str) or "%" in address:
        return None
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    # ::ffff:127.0.0.1 reaches 127.0.0.1, so it is judged as that.
    return parsed.ipv4_mapped or parsed if isinstance(parsed, IPv6Address) else parsed


def _class_of(address: Address) -> AddressClass | None:
    rows = _DENIED_V4 if isinstance(address, IPv4Address) else _DENIED_V6
    for network, address_class in rows:
        if address in network:
            return address_class
    return None


def _rows(*rows: tuple[str, AddressClass]) -> tuple[tuple[Network, AddressClass], ...]:
    return tuple((ip_network(network), address_class) for network, address_class in rows)


# Explicit, because `ipaddress.is_global` is true for metadata services, NAT64, 6to4 and multicast, and
# changes between patch releases of Python. The first row that holds an address names its class.
# IANA special-purpose registries: RFC 6890 and its updates.
_DENIED_V4 = _rows(
    ("169.254.169.254/32", AddressClass.METADATA),  # AWS, Azure, GCP and others
    ("169.254.170.2/32", AddressClass.METADATA),  # AWS ECS
    ("169.254.170.23/32", AddressClass.METADATA),  # AWS EKS
    ("100.100.100.200/32", AddressClass.METADATA),  # Alibaba
    ("192.0.0.192/32", AddressClass.METADATA),  # Oracle
    ("168.63.129.16/32", AddressClass.METADATA),  # Azure's wire server; public by its number only
    ("0.0.0.0/8", AddressClass.THIS_NETWORK),
    ("10.0.0.0/8", AddressClass.PRIVATE),
    ("100.64.0.0/10", AddressClass.SHARED),
    ("127.0.0.0/8", AddressClass.LOOPBACK),
    ("169.254.0.0/16", AddressClass.LINK_LOCAL),
    ("172.16.0.0/12", AddressClass.PRIVATE),
    ("192.0.0.0/24", AddressClass.PROTOCOL),
    ("192.0.2.0/24", AddressClass.DOCUMENTATION),
    ("192.88.99.0/24", AddressClass.EMBEDDED),  # 6to4 relays
    ("192.168.0.0/16", AddressClass.PRIVATE),
    ("198.18.0.0/15", AddressClass.BENCHMARK),
    ("198.51.100.0/24", AddressClass.DOCUMENTATION),
    ("203.0.113.0/24", AddressClass.DOCUMENTATION),
    ("224.0.0.0/4", AddressClass.MULTICAST),
    ("240.0.0.0/4", AddressClass.RESERVED),
)

# Only 2000::/3 is unicast that has been given out; what is not in it is denied by the last three rows.
_DENIED_V6 = _rows(
    ("fd00:ec2::254/128", AddressClass.METADATA),  # AWS
    ("fd00:ec2::23/128", AddressClass.METADATA),  # AWS EKS
    ("fd20:ce::254/128", AddressClass.METADATA),  # GCP
    ("::/128", AddressClass.THIS_NETWORK),
    ("::1/128", AddressClass.LOOPBACK),
    ("64:ff9b::/96", AddressClass.EMBEDDED),  # NAT64
    ("64:ff9b:1::/48", AddressClass.EMBEDDED),  # local NAT64
    ("2001::/32", AddressClass.EMBEDDED),  # Teredo
    ("2002::/16", AddressClass.EMBEDDED),  # 6to4
    ("::/96", AddressClass.EMBEDDED),  # IPv4-compatible
    ("::ffff:0:0:0/96", AddressClass.EMBEDDED),  # IPv4-translated
    ("2001:db8::/32", AddressClass.DOCUMENTATION),
    ("3fff::/20", AddressClass.DOCUMENTATION),
    ("2001::/23", AddressClass.PROTOCOL),
    ("fc00::/7", AddressClass.PRIVATE),
    ("fe80::/10", AddressClass.LINK_LOCAL),
    ("fec0::/10", AddressClass.SITE_LOCAL),
    ("ff00::/8", AddressClass.MULTICAST),
    ("::/3", AddressClass.RESERVED),
    ("4000::/2", AddressClass.RESERVED),
    ("8000::/1", AddressClass.RESERVED),
)
