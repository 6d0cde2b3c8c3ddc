"""The declarer: what somebody deletes at the broker, a queue or a binding, is soon declared again."""

import asyncio

from producer.ledger.turns import Turns
from shared.broker.declaring import Declare, keep_declaring
from shared.kinds.registry import KINDS
from shared.settings import Settings

# Workers of a queue that is gone wait for it; some fifty requests, each answered from memory.
_EVERY_SECONDS = 5.0


class Declarer:
    """Declares the topology every few seconds. One ledger at a time."""

    def __init__(self, *, turns: Turns, settings: Settings) -> None:
        """Make a declarer that has declared nothing yet."""
        self._turns = turns
        self._amqp_url = settings.amqp_url

    async def run(self) -> None:
        """Declare until cancelled."""
        await keep_declaring(
            self._amqp_url, name="retriever ledger declare", kinds=KINDS, use=self._keep_declared
        )

    async def _keep_declared(self, declare: Declare) -> None:
        while True:
            if await self._turns.take():
                await declare()
            await asyncio.sleep(_EVERY_SECONDS)
