"""A circuit breaker: a host that fails again and again is left alone, then asked by one probe. Pure."""

from dataclasses import dataclass

FIRST_REST_SECONDS = 10.0
LONGEST_REST_SECONDS = 120.0


@dataclass(slots=True)
class Breaker:
    """Closed while the host answers; open for a rest after too many failures in a row.

    Attributes:
        failures_to_open: 0 never opens.
        rests_until: While open: until when nobody asks.
        probe: Who asks alone after the rest; any object.
    """

    failures_to_open: int
    failures: int = 0
    rest_seconds: float = 0.0
    rests_until: float | None = None
    probe: object | None = None

    @property
    def is_closed(self) -> bool:
        """Whether everybody may ask."""
        return self.rests_until is None

    def admits(self, now: float) -> bool:
        """Return whether one more may ask: anybody while closed, one probe after the rest."""
        return self.rests_until is None or (now >= self.rests_until and self.probe is None)

    def started(self, who: object, now: float) -> None:
        """Note that somebody asks; after a rest it is the probe."""
        if self.rests_until is not None and self.admits(now):
            self.probe = who

    def succeeded(self) -> None:
        """Close: the host answers."""
        self.failures, self.rest_seconds, self.rests_until, self.probe = 0, 0.0, None, None

    def failed(self, who: object, now: float) -> None:
        """Count a failure; open after too many, and rest twice as long after a probe that failed."""
        if self.rests_until is None:
            self.failures += 1
            if self.failures_to_open and self.failures >= self.failures_to_open:
                self._rest(now)
        elif who is self.probe:
            self._rest(now)

    def ended(self, who: object) -> None:
        """Note that somebody is done; a probe that learned nothing makes room for the next."""
        if self.probe is who:
            self.probe = None

    def _rest(self, now: float) -> None:
        self.rest_seconds = min(max(self.rest_seconds * 2, FIRST_REST_SECONDS), LONGEST_REST_SECONDS)
        self.rests_until = now + self.rest_seconds
        self.probe = None
