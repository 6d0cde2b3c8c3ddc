"""After a redrive, its old message leaves `jobs.parked`, so that the queue holds what is still parked."""

import asyncio
import logging
from functools import partial
from uuid import UUID

from producer.ledger.patience import until_stored
from producer.store.store import JobStore
from shared.broker.parked_queue import take_out_parked
from shared.clock import utc_now
from shared.errors import BrokerUnavailable, MessageUndecodable
from shared.messages import JobMessage
from shared.settings import Settings

_POLL_SECONDS = 0.5
_PAGE = 1_000
# A parked message may reach its queue a moment after the recorder saw its twin. A message that is
# still missing after that many rounds was taken out by somebody else.
_MAX_ROUNDS = 5

logger = logging.getLogger(__name__)


class RedriveSweeper:
    """Takes the messages of redriven jobs out of the parking queue."""

    def __init__(self, *, store: JobStore, settings: Settings) -> None:
        """Make a sweeper that has swept nothing yet."""
        self._store = store
        self._amqp_url = settings.amqp_url
        self._rounds: dict[tuple[UUID, int], int] = {}

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            pending = await until_stored(partial(self._store.pending_redrives, _PAGE))
            if pending:
                await self._sweep(set(pending))

    async def _sweep(self, pending: set[tuple[UUID, int]]) -> None:
        missing = set(pending)

        def is_wanted(body: bytes) -> bool:
            key = _parked_run(body)
            is_ours = key in missing
            if key is not None:
                missing.discard(key)
            return is_ours

        try:
            removed = await take_out_parked(self._amqp_url, is_wanted=is_wanted, wanted=len(pending))
        except BrokerUnavailable as error:
            logger.warning("parked_sweep_failed", extra={"error": str(error)})
            return
        self._rounds = {key: self._rounds.get(key, 0) + 1 for key in missing}
        settled = (pending - missing) | {key for key, rounds in self._rounds.items() if rounds >= _MAX_ROUNDS}
        await until_stored(partial(self._store.settle_redrives, sorted(settled), now=utc_now()))
        logger.info("parked_swept", extra={"removed": removed, "missing": len(missing)})


def _parked_run(body: bytes) -> tuple[UUID, int] | None:
    try:
        job = JobMessage.decode(body)
    except MessageUndecodable:
        return None
    return job.id, job.run
