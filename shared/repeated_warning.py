"""A warning about something that stays as it is: told at once, and then again every minute."""

import logging
import time
from collections.abc import Mapping

_TOLD_AGAIN_SECONDS = 60.0


class RepeatedWarning:
    """Logs one event at WARNING when it is news, and at DEBUG in between. Make a new one when all is well."""

    def __init__(self, logger: logging.Logger) -> None:
        """Make one that has told nothing yet."""
        self._logger = logger
        self._last: tuple[str, Mapping[str, object]] | None = None
        self._told_at = 0.0
        self._times = 0

    def tell(
        self, event: str, facts: Mapping[str, object], *, latest: Mapping[str, object] | None = None
    ) -> None:
        """Log an event; `times` says how often it has happened in a row with the same facts.

        Args:
            event: Its name.
            facts: What makes it news when it changes.
            latest: Facts of this time alone, which do not.
        """
        is_new = (event, facts) != self._last
        self._times = 1 if is_new else self._times + 1
        is_due = is_new or time.monotonic() - self._told_at >= _TOLD_AGAIN_SECONDS
        if is_due:
            self._last, self._told_at = (event, facts), time.monotonic()
        level = logging.WARNING if is_due else logging.DEBUG
        self._logger.log(level, event, extra={**facts, **(latest or {}), "times": self._times})
