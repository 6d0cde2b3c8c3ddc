"""The announcer: tells the broker of ended jobs, complete batches and cancellations."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import partial
from uuid import UUID

from producer.ledger.metrics import LedgerMetrics
from producer.ledger.outbox import Outbox, Packed
from producer.records import ClaimedEvent
from producer.store import events as store_events
from producer.store.database import Database
from producer.store.wakeup import Wakeup
from shared.broker.outgoing import Outgoing
from shared.broker.publisher import Publisher
from shared.broker.topology import CANCELLED_STREAM, DEFAULT, OUTCOMES
from shared.events import EventType
from shared.settings import Settings


class Announcer:
    """Publishes the events of the store, at least once each. Any number of announcers share the work."""

    def __init__(
        self,
        *,
        store: Database,
        publisher: Publisher,
        outcomes: Publisher,
        wakeup: Wakeup,
        metrics: LedgerMetrics,
        settings: Settings,
    ) -> None:
        """Make an announcer that has announced nothing yet.

        Args:
            outcomes: Publishes to `outcomes` and nothing else. Anybody may bind a queue there, and one that
                is broken holds up the channel that publishes to it.
        """
        self._store = store
        self._metrics = metrics
        self._outbox = Outbox(
            claim=self._claim,
            pack=_packed,
            settle=self._forget,
            release=self._release,
            publisher=publisher,
            publishers={OUTCOMES: outcomes},
            wakeup=wakeup,
            settings=settings,
        )

    async def run(self) -> None:
        """Announce until cancelled."""
        await self._outbox.run()

    def _claim(self, *, limit: int, lease_seconds: float, now: datetime) -> list[ClaimedEvent]:
        return self._store.write(store_events.claim_events, limit=limit, lease_seconds=lease_seconds, now=now)

    def _release(self, event_ids: Sequence[UUID], *, retry_at: datetime) -> None:
        self._store.write(store_events.release_events, event_ids, retry_at=retry_at)

    async def _forget(self, told: Sequence[ClaimedEvent]) -> None:
        # Confirm before delete: a crash between the two repeats the event, with the same message id.
        await self._outbox.stored(
            partial(self._store.write, store_events.forget_events, [event.id for event in told])
        )
        self._metrics.events.inc(len(told))


def event_message(event: ClaimedEvent) -> Outgoing:
    """Return the message of an event.

    Outcomes may find nobody bound, and carry an id that stays the same however often they are sent: the
    job's, or the job's and the run's after a redrive.
    """
    # As it was encoded when it was stored.
    body = event.body_json.encode()
    match event.type:
        case EventType.OUTCOME:
            ended = event.body
            job_id, run = ended["job_id"], ended["run"]
            message_id = job_id if run == 1 else f"{job_id}.{run}"
            key = f"{ended['kind']}.{ended['state']}"
            return Outgoing(OUTCOMES, key, body, event.type.value, job_id, message_id=message_id)
        case EventType.BATCH:
            return Outgoing(OUTCOMES, "batch.completed", body, event.type.value, message_id=event.body["id"])
        case EventType.CANCELLATION:
            return Outgoing(DEFAULT, CANCELLED_STREAM, body, event.type.value)


def _packed(events: Sequence[ClaimedEvent]) -> Iterable[Packed[ClaimedEvent]]:
    return ((event_message(event), (event,)) for event in events)
