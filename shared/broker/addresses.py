"""Reading `RETRIEVER_AMQP_URL`, which may name several hosts; knows nothing of connections."""

import re
from ipaddress import AddressValueError, IPv6Address
from urllib.parse import urlsplit

_SCHEMES = frozenset({"amqp", "amqps"})
_AUTHORITY = re.compile(r"(?P<scheme>[^:/?#]+)://(?P<authority>[^/?#]*)(?P<rest>.*)", re.DOTALL)
# A name or an IPv4 address, or an IPv6 address in brackets; then perhaps a port.
_HOST = re.compile(r"(?:[^\s:\[\]@]+|\[(?P<ipv6>[^\s\[\]@]+)\])(?::(?P<port>[0-9]{1,5}))?")
_MAX_PORT = 65_535


def split_hosts(url: str) -> tuple[str, ...]:
    """Return one URL for each host that a URL names, in its order.

    As in libpq's URLs, commas divide the hosts, each may have a port of its own, and all share the rest:
    `amqp://user:password@one:5672,two:5673,[::1]/vhost?heartbeat=20`. The user ends at the last `@`, so
    that a password may hold commas.

    Raises:
        ValueError: a part is missing or wrong; says which, and shows nothing of the URL but hosts' places.
    """
    parts = _AUTHORITY.fullmatch(url)
    if parts is None or parts["scheme"] not in _SCHEMES:
        raise ValueError("must look like amqp://user:password@host:5672/vhost, with commas between hosts")
    user, at, hosts = parts["authority"].rpartition("@")
    places = hosts.split(",")
    for number, place in enumerate(places, start=1):
        _check_host(place, f"host {number} of {len(places)}")
    return tuple(f"{parts['scheme']}://{user}{at}{place}{parts['rest']}" for place in places)


def hosts_of(url: str) -> tuple[str, ...]:
    """Return the names or addresses of the hosts of a URL, without ports.

    Raises:
        ValueError: as `split_hosts`.
    """
    return tuple(urlsplit(each).hostname or "" for each in split_hosts(url))


def _check_host(place: str, name: str) -> None:
    if not place:
        raise ValueError(f"{name} is empty")
    matched = _HOST.fullmatch(place)
    if matched is None:
        # Not the text itself: a password with a raw slash in it would end up here.
        raise ValueError(f"{name} is not a name or address with perhaps a port (IPv6 as [::1]:5672)")
    if matched["port"] is not None and not 1 <= int(matched["port"]) <= _MAX_PORT:
        raise ValueError(f"the port of {name} is not one of 1 to {_MAX_PORT}")
    if matched["ipv6"] is not None:
        try:
            IPv6Address(matched["ipv6"])
        except AddressValueError:
            raise ValueError(f"{name} is not an IPv6 address") from None
