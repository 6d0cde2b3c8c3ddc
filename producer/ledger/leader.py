"""Leader election: one ledger of the fleet runs the services that must run once.

The model is River's elector (https://github.com/riverqueue/river, `internal/leadership`): whoever holds a
lease in the store leads, and trusts that only for a time of its own monotonic clock.
"""

import asyncio
import logging
import uuid
from collections.abc import Callable, Coroutine, Sequence
from typing import Final

from producer.ledger.metrics import LedgerMetrics
from producer.store import leader
from producer.store.database import Store
from shared.errors import StoreUnavailable
from shared.repeated_warning import RepeatedWarning

LEADER_LEASE_SECONDS: Final = 15.0

# Several renewals may fail before leadership is lost, and a follower sees a lease that was released as soon.
_PERIOD_SECONDS = 3.0
# A leader steps down so long before its lease ends: its services close connections, and clocks differ.
_MARGIN_SECONDS = 5.0
_RELEASE_SECONDS = 3.0

logger = logging.getLogger(__name__)

Service = Callable[[], Coroutine[None, None, None]]


class Lease:
    """A lease in the store, as one holder sees it. It is free when its holder has not held it for so long."""

    def __init__(self, store: Store, name: str, *, seconds: float) -> None:
        """Make a holder that holds nothing yet."""
        self._store = store
        self._name = name
        self._seconds = seconds
        self._holder = uuid.uuid4().hex
        self._call: asyncio.Future[bool] | None = None

    async def hold(self) -> bool:
        """Take the lease, or keep it for as long again; return whether it is ours.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        self._call = asyncio.ensure_future(
            self._store.write(
                leader.hold_lease_from_now, self._name, holder=self._holder, seconds=self._seconds
            )
        )
        # Nobody may be waiting any more when it fails.
        self._call.add_done_callback(lambda call: call.cancelled() or call.exception())
        return await asyncio.shield(self._call)

    async def release(self) -> None:
        """Let another holder take the lease at once. If the store is away, the lease ends by itself."""
        try:
            async with asyncio.timeout(_RELEASE_SECONDS):
                if self._call is not None:
                    # A thread cannot be cancelled: one that took the lease later would keep it for nobody.
                    await asyncio.wait([self._call])
                await self._store.write(leader.release_lease, self._name, holder=self._holder)
        except (StoreUnavailable, TimeoutError):
            logger.info("lease_not_released", extra={"lease": self._name})
        finally:
            if self._call is not None:
                self._call.cancel()


class Elector:
    """Campaigns for the leader's lease, and runs the leader's services while it holds it.

    A leader that cannot renew stops its services before its lease ends, so before another ledger starts them.
    A process that was stopped in between (SIGSTOP, a paused machine) may take a last step when it goes on:
    everything that the leader does may therefore run twice.
    """

    def __init__(
        self,
        lease: Lease,
        services: Sequence[Service],
        *,
        metrics: LedgerMetrics,
        lease_seconds: float = LEADER_LEASE_SECONDS,
        period_seconds: float = _PERIOD_SECONDS,
        margin_seconds: float = _MARGIN_SECONDS,
    ) -> None:
        """Make an elector that does not lead yet.

        Args:
            services: What the leader runs; each runs until cancelled and can be started anew.
            lease_seconds: The length of `lease`.
            period_seconds: How often a leader renews its lease, and a follower asks for it.
            margin_seconds: How long before the end of its lease a leader that cannot renew it steps down.
        """
        self._lease = lease
        self._services = services
        self._metrics = metrics
        self._period_seconds = period_seconds
        self._trusted_seconds = lease_seconds - margin_seconds
        self._warning = RepeatedWarning(logger)

    async def run(self) -> None:
        """Campaign and lead until cancelled, then resign, so that another ledger leads at once.

        Raises:
            ExceptionGroup: a service of the leader failed.
        """
        try:
            while True:
                await self._lead(trusted_until=await self._win())
        finally:
            await self._lease.release()

    async def _win(self) -> float:
        """Return when the lease is ours: until which time of the loop's clock that can be trusted."""
        while True:
            trusted_until = self._trusted_from_now()
            if await self._holds(until=trusted_until):
                return trusted_until
            await asyncio.sleep(self._period_seconds)

    async def _lead(self, *, trusted_until: float) -> None:
        """Run the services until leadership is lost."""
        self._metrics.is_leader.set(1)
        logger.info("leadership_gained")
        try:
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(service()) for service in self._services]
                await self._keep(trusted_until)
                for service in running:
                    service.cancel()
        finally:
            self._metrics.is_leader.set(0)
            logger.info("leadership_lost")

    async def _keep(self, trusted_until: float) -> None:
        """Return when another ledger has the lease, or it could not be renewed in time."""
        while (now := asyncio.get_running_loop().time()) < trusted_until:
            await asyncio.sleep(min(self._period_seconds, trusted_until - now))
            # From before the call: the store counts the lease from a moment after it.
            renewed_until = self._trusted_from_now()
            is_held = await self._holds(until=trusted_until)
            if is_held:
                trusted_until = renewed_until
            elif is_held is False:
                return

    def _trusted_from_now(self) -> float:
        return asyncio.get_running_loop().time() + self._trusted_seconds

    async def _holds(self, *, until: float) -> bool | None:
        """Return whether the lease is ours; None when the store does not say so until then."""
        try:
            async with asyncio.timeout_at(until):
                is_held = await self._lease.hold()
        except (StoreUnavailable, TimeoutError) as error:
            said = str(error) or "The store did not answer while the lease could be trusted."
            self._warning.tell("store_unavailable", {"error": said[:300]})
            return None
        self._warning = RepeatedWarning(logger)
        return is_held
