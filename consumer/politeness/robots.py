"""What a robots.txt says to us, RFC 9309, and for how long it is remembered. Pure; the parser is Protego."""

import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Self

from protego import Protego

MAX_FILE_BYTES = 500 * 1_024
"""RFC 9309 section 2.5; what comes after that is not read."""

KEPT_SECONDS = 86_400.0
"""RFC 9309 section 2.4: no longer than a day."""

KEPT_UNREACHABLE_SECONDS = 60.0
MAX_KEPT_BYTES = 33_554_432

_AGENT_LINE = re.compile(r"[ \t]*user[- ]?agent[ \t]*:?[ \t]*([^#\r\n]*).*", re.IGNORECASE)
_SOMEBODY_ELSE = "user-agent: somebody-else"


@dataclass(frozen=True, slots=True)
class RobotsRules:
    """The rules of one origin for one product token.

    Attributes:
        parsed: None allows or denies everything.
        is_reachable: Whether the file could be read, or was said not to exist; nothing is allowed otherwise.
    """

    token: str
    parsed: Protego | None = None
    is_reachable: bool = True
    size_bytes: int = 0

    @classmethod
    def parse(cls, text: str, *, token: str) -> Self:
        """Return the rules in a file. Whatever it holds, there are some: what is no rule is passed over."""
        ours = token.lower()
        lines = "\n".join(_only_ours(line, ours) for line in text.splitlines())
        return cls(token, Protego.parse(lines), size_bytes=len(text))

    def allows(self, url: str) -> bool:
        """Return whether we may ask for a URL."""
        if not self.is_reachable:
            return False
        return self.parsed is None or self.parsed.can_fetch(url, self.token)

    @property
    def crawl_delay_seconds(self) -> float | None:
        """How far apart the host wants our requests to be, if it says so."""
        return None if self.parsed is None else self.parsed.crawl_delay(self.token)


class RobotsCache:
    """Rules by origin, for a day at most and within a bound; the ones unused the longest go first."""

    def __init__(self) -> None:
        """Start with none."""
        self._kept: OrderedDict[str, tuple[float, RobotsRules]] = OrderedDict()
        self._kept_bytes = 0

    def get(self, origin: str, *, now: float) -> RobotsRules | None:
        """Return what is remembered of an origin."""
        until, rules = self._kept.get(origin, (now, None))
        if rules is None or until <= now:
            return None
        self._kept.move_to_end(origin)
        return rules

    def put(self, origin: str, rules: RobotsRules, *, now: float) -> None:
        """Remember the rules of an origin."""
        self._forget(origin)
        seconds = KEPT_SECONDS if rules.is_reachable else KEPT_UNREACHABLE_SECONDS
        self._kept[origin] = now + seconds, rules
        self._kept_bytes += _cost_bytes(rules)
        while self._kept_bytes > MAX_KEPT_BYTES:
            self._forget(next(iter(self._kept)))

    def _forget(self, origin: str) -> None:
        if (kept := self._kept.pop(origin, None)) is not None:
            self._kept_bytes -= _cost_bytes(kept[1])


def _cost_bytes(rules: RobotsRules) -> int:
    return rules.size_bytes + 1_024


def _only_ours(line: str, token: str) -> str:
    # The parser gives every rule of a group to every agent of it: ten thousand agents and as many rules
    # would be 100 million. All agents that are not ours are one.
    match = _AGENT_LINE.fullmatch(line)
    if match is None or (agent := match[1].strip().lower()) == "*" or (agent and token.startswith(agent)):
        return line
    return _SOMEBODY_ELSE
