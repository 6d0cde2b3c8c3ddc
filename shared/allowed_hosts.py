"""Which hosts a service of ours is called by, as the field `Host` names them. Pure.

A page can have its own name lead to our address (DNS rebinding), and the browser then takes our service for
the page's own. The requests name the page's host, so a service that knows its names is safe.
"""

import re
import socket
from collections.abc import Iterable
from ipaddress import ip_address

# host [ ":" port ] (RFC 9110 section 7.2). Names may have underscores, as those of containers do.
_HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(?::([0-9]{1,5}))?", re.ASCII | re.IGNORECASE)
_PATTERN = re.compile(r"\*|(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*", re.ASCII)
# A tuple origin (RFC 6454 section 6.2); `null` is the origin of nobody in particular.
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]{0,30})://(.{1,300})", re.ASCII | re.IGNORECASE)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_ANY = "*"
_LOCAL = ("localhost", "*.localhost")


def check_host_pattern(value: str) -> str:
    """Return a pattern of hosts in lower case: `api.example.com`, `*.example.com`, or `*` for all.

    Raises:
        ValueError: it has another form.
    """
    pattern = value.lower().rstrip(".")
    if not _PATTERN.fullmatch(pattern):
        raise ValueError("must be names such as api.example.com or *.example.com, without scheme and port")
    return pattern


def split_host(value: str) -> tuple[str, int | None] | None:
    """Return the host in lower case, without a dot at its end, and the port; None when it is none."""
    if (match := _HOST.fullmatch(value)) is None:
        return None
    return match[1].lower().rstrip("."), int(match[2]) if match[2] else None


def split_origin(value: str) -> tuple[int | None, tuple[str, int | None]] | None:
    """Return the port that an origin's scheme has by default, and its host and port; None when it is none."""
    if (match := _ORIGIN.fullmatch(value)) is None or (parts := split_host(match[2])) is None:
        return None
    default = _DEFAULT_PORTS.get(match[1].lower())
    host, port = parts
    return default, (host, port or default)


def check_origin(value: str) -> str:
    """Return an origin as browsers write it: in lower case, without the port that its scheme has anyhow.

    Raises:
        ValueError: it is not `scheme://host` or `scheme://host:port`.
    """
    origin = value.lower()
    if split_origin(origin) is None:
        raise ValueError("must be origins such as https://app.example.com or http://localhost:3000")
    scheme = origin.partition("://")[0]
    return origin.removesuffix(f":{_DEFAULT_PORTS.get(scheme)}")


class AllowedHosts:
    """The hosts that a service answers to.

    An address is allowed, because a name is what rebinding needs; so are `localhost` and names below it (RFC
    6761 section 6.3), the name of this machine, and those that the service was told to listen on.
    """

    def __init__(self, patterns: Iterable[str], *, listens_on: Iterable[str]) -> None:
        """Allow what the patterns fit, and the service's own names.

        Args:
            patterns: As `check_host_pattern` returns them.
            listens_on: Names or addresses.
        """
        own = (name.lower().rstrip(".") for name in (*listens_on, socket.gethostname()) if name)
        known = {*_LOCAL, *patterns, *own}
        self._allows_any = _ANY in known
        self._names = frozenset(known)
        self._endings = tuple(name[1:] for name in known if name.startswith("*."))

    def allows(self, host: str) -> bool:
        """Return whether the service answers to a host, as `split_host` returns it."""
        return self._allows_any or host in self._names or host.endswith(self._endings) or _is_address(host)


def _is_address(host: str) -> bool:
    try:
        ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
    except ValueError:
        return False
    return True
