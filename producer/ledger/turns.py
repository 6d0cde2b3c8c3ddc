"""Taking turns: what only one ledger may do at a time, by a lease in the store."""

import uuid
from functools import partial

from producer.ledger.patience import until_stored
from producer.store import leader
from producer.store.database import Database
from shared.clock import utc_now

# Far above the time of one step between two calls of `take`; a ledger that dies is waited for as long.
_LEASE_SECONDS = 60.0


class Turns:
    """One holder's claim to a lease; a process may make several, and each has to wait for the others."""

    def __init__(self, store: Database, name: str, *, lease_seconds: float = _LEASE_SECONDS) -> None:
        """Make a claim that holds nothing yet.

        Args:
            store: Where the lease is.
            name: What is done in turns.
            lease_seconds: For how long a holder that says nothing is waited for.
        """
        self._store = store
        self._name = name
        self._lease_seconds = lease_seconds
        self._holder = uuid.uuid4().hex

    async def take(self) -> bool:
        """Take the turn, or keep it a while longer; return whether it is ours."""
        # The time is told in the call: one that waited for the store must not be of the past.
        return await until_stored(
            lambda: self._store.write(
                leader.hold_lease,
                self._name,
                holder=self._holder,
                seconds=self._lease_seconds,
                now=utc_now(),
            )
        )

    async def give_up(self) -> None:
        """Let the next one have its turn at once."""
        await until_stored(partial(self._store.write, leader.release_lease, self._name, holder=self._holder))
