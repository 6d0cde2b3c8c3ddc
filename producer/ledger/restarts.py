"""Services that fail are started anew, after a pause that grows: a fault in one of them ends no ledger."""

import asyncio
import logging
import time

from producer.ledger.leader import Service
from producer.ledger.metrics import LedgerMetrics

_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0
# One that ran for so long had been well, so its next fault is a first one.
_WELL_SECONDS = 300.0

logger = logging.getLogger(__name__)


class Restarts:
    """Makes services that outlive their own faults."""

    def __init__(self, metrics: LedgerMetrics, *, first_pause_seconds: float = _FIRST_PAUSE_SECONDS) -> None:
        """Count the faults in these metrics."""
        self._metrics = metrics
        self._first_pause_seconds = first_pause_seconds

    def of(self, name: str, service: Service) -> Service:
        """Return the service, started anew each time it fails; it ends when cancelled, or by itself.

        A row or a message that spoils a service is put aside where it is met. This is for what nobody
        foresaw: other services go on meanwhile, and readiness shows when the ledger is of no use.
        """

        async def run() -> None:
            pause_seconds = self._first_pause_seconds
            while True:
                began = time.monotonic()
                try:
                    await service()
                except Exception:  # One of the three edges: a service loop.
                    if time.monotonic() - began >= _WELL_SECONDS:
                        pause_seconds = self._first_pause_seconds
                    self._metrics.service_failures.labels(name).inc()
                    facts = {"service": name, "pause_seconds": pause_seconds}
                    logger.exception("service_failed", extra=facts)
                else:
                    return
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(pause_seconds * 2, _LONGEST_PAUSE_SECONDS)

        return run
