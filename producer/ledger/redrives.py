"""After a redrive or discard, the old message leaves `jobs.parked`: it holds what is still parked."""

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial

from producer.ledger.metrics import LedgerMetrics
from producer.ledger.parked_messages import ParkedRun, ParkedRuns, leaving, parked_runs
from producer.ledger.patience import until_stored
from producer.ledger.turns import Turns
from producer.store import parking
from producer.store.database import Database
from shared.broker.parked_queue import Choice, Walk, walk_parked
from shared.clock import utc_now
from shared.errors import BrokerUnavailable
from shared.settings import Settings

_POLL_SECONDS = 0.5
# One walk serves all that is pending, however much that is: some 100 bytes each.
_PENDING = 100_000
# A walk costs what the queue is long, whatever it removes. Between two, so many times its duration passes: a
# mass redrive then shares a few walks, and a single one in a short queue still takes half a second.
_REST_FACTOR = 3
# A parked message may reach its queue a moment after the recorder saw its twin. A message that is
# still missing after that many walks was taken out by somebody else.
_MAX_ROUNDS = 5

logger = logging.getLogger(__name__)


class RedriveSweeper:
    """Takes the messages of jobs that have left the parking lot out of the parking queue."""

    def __init__(self, *, store: Database, turns: Turns, metrics: LedgerMetrics, settings: Settings) -> None:
        """Make a sweeper that has swept nothing yet."""
        self._store = store
        self._turns = turns
        self._metrics = metrics
        self._amqp_url = settings.amqp_url
        self._rounds: dict[ParkedRun, int] = {}

    async def run(self) -> None:
        """Sweep until cancelled."""
        rest_seconds = _POLL_SECONDS
        while True:
            await asyncio.sleep(rest_seconds)
            started = time.monotonic()
            pending = await until_stored(partial(self._store.read, parking.pending_redrives, _PENDING))
            if pending and await self._turns.take():
                await self._sweep(set(pending))
                await self._turns.give_up()
            rest_seconds = max(_POLL_SECONDS, (time.monotonic() - started) * _REST_FACTOR)

    async def _sweep(self, pending: set[ParkedRun]) -> None:
        missing, seen = set(pending), set[ParkedRun]()

        async def choose(bodies: Sequence[bytes]) -> Choice:
            page = [parked_runs(body) for body in bodies]
            gone = await self.judge(page, seen)
            missing.difference_update(run for place in gone for run in page[place])
            return Choice(gone, is_last=not missing or not await self._turns.take())

        try:
            walk = await walk_parked(self._amqp_url, choose=choose)
        except BrokerUnavailable as error:
            logger.warning("parked_sweep_failed", extra={"error": str(error)})
            return
        await self._settle(pending, missing, walk)

    async def judge(self, page: Sequence[ParkedRuns], seen: set[ParkedRun]) -> frozenset[int]:
        """Return the places of a page's messages that do not belong in the queue, as the store stands."""
        job_ids = {job_id for runs in page for job_id, _ in runs}
        standing = await until_stored(partial(self._store.read, parking.runs_of, job_ids))
        return leaving(page, standing, seen)

    async def _settle(self, pending: set[ParkedRun], missing: set[ParkedRun], walk: Walk) -> None:
        self._rounds = {key: self._rounds.get(key, 0) + walk.complete for key in missing}
        settled = (pending - missing) | {key for key, rounds in self._rounds.items() if rounds >= _MAX_ROUNDS}
        await until_stored(
            partial(self._store.write, parking.settle_redrives, sorted(settled), now=utc_now())
        )
        self._metrics.parked_removed.labels("sweep").inc(walk.removed)
        logger.info(
            "parked_swept", extra={"seen": walk.seen, "removed": walk.removed, "missing": len(missing)}
        )
