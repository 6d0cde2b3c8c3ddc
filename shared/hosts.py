"""Hosts as limits know them: their key, and how many requests each may get. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from shared.urls import MAX_URL_LENGTH, url_origin

MAX_CONCURRENCY = 2_000
MAX_RATE_PER_SECOND = 10_000.0
# Less than one request in a quarter of an hour is a schedule, not a rate.
MIN_RATE_PER_SECOND = 0.001

_DEFAULT_PORTS = {"http": 80, "https": 443}
_ENTRY = re.compile(r"(\*\.)?([a-z0-9_.:\[\]-]+)=(\d{1,4}):(\d{1,5}(?:\.\d{1,6})?)", re.ASCII)


@dataclass(frozen=True, slots=True)
class HostLimit:
    """How many requests one worker process may make to a host.

    Attributes:
        concurrency: Requests at once.
        rate_per_second: Requests a second; 0 is no limit.
    """

    concurrency: int = MAX_CONCURRENCY
    rate_per_second: float = 0.0


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
        match = _ENTRY.fullmatch(entry.strip().lower())
        if match is None:
            raise ValueError(f"{entry.strip()[:100]!r} is not like example.com=4:10 or *.example.com=1:0.5")
        wildcard, host, concurrency, rate = match.groups()
        limit = HostLimit(int(concurrency), float(rate))
        if not 1 <= limit.concurrency <= MAX_CONCURRENCY:
            raise ValueError(f"{host}: a concurrency is 1 to {MAX_CONCURRENCY}")
        if limit.rate_per_second and not MIN_RATE_PER_SECOND <= limit.rate_per_second <= MAX_RATE_PER_SECOND:
            raise ValueError(
                f"{host}: a rate is 0, or {MIN_RATE_PER_SECOND:g} to {MAX_RATE_PER_SECOND:g} a second"
            )
        return cls(f"{wildcard or ''}{host}", limit)

    def fits(self, host: str) -> bool:
        """Return whether the pattern fits a host; it may leave out the port of the key."""
        name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
        if self.pattern.startswith("*."):
            return name.endswith(self.pattern[1:])
        return self.pattern in {host, name}


def limit_of(host: str, named: Iterable[NamedLimit], default: HostLimit) -> HostLimit:
    """Return the limit of a host: the longest pattern that fits wins, and a name wins over a wildcard."""
    fitting = [entry for entry in named if entry.fits(host)]
    if not fitting:
        return default
    return max(fitting, key=lambda entry: (not entry.pattern.startswith("*."), len(entry.pattern))).limit


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
