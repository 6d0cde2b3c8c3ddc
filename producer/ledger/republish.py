"""`python -m producer republish`: sends every unfinished job again at once, after a broker was lost."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Final
from uuid import UUID

from producer.ledger.metrics import LedgerMetrics
from producer.ledger.republisher import Republisher
from producer.store import unfinished
from producer.store.database import Database
from shared.broker.publisher import Publisher
from shared.broker.topology import declare_topology
from shared.clock import utc_now
from shared.errors import BrokerError, BrokerUnavailable
from shared.events import EVERY
from shared.kinds.registry import KINDS, Lane
from shared.settings import Settings
from shared.states import UNDER_WAY, JobState

COMMAND_LINE: Final = "command line"
"""Who did it, as the audit log says."""

_AGAIN = "running this again is safe"


async def republish_all(
    settings: Settings, store: Database, *, kind: str | None = None, lane: Lane | None = None
) -> Mapping[JobState, int]:
    """Declare the topology, and send every unfinished job of a kind and lane, or of all, again.

    Jobs that begin meanwhile are left to the relay. Reads and sends a page at a time. Calling it again sends
    all of them again, which costs work and harms nothing.

    Returns:
        How many were sent, by state.

    Raises:
        BrokerUnavailable: the broker did not answer, or did not take a job; what was sent stays sent.
        StoreUnavailable: the store did not answer.
    """
    async with _connected(settings) as publisher:
        republisher = Republisher(
            store=store, publisher=publisher, metrics=LedgerMetrics(), settings=settings, why="command"
        )
        sent = Counter[JobState]()
        try:
            await _send_all(store, republisher, chosen_queues(kind, lane), sent)
        except BrokerError as error:
            said = f"RETRIEVER_AMQP_URL: {error}; {sent.total()} jobs were sent, {_AGAIN}"
            raise BrokerUnavailable(said) from error
        finally:
            note = partial(
                store.write,
                unfinished.note_republished,
                kind or EVERY,
                lane or EVERY,
                counts={state.value: number for state, number in sent.items()},
                by=COMMAND_LINE,
                now=utc_now(),
            )
            await asyncio.to_thread(note)
        return sent


def chosen_queues(kind: str | None, lane: Lane | None) -> list[tuple[str, Lane]]:
    """Return the kinds and lanes that are meant; None stands for all."""
    return [(one, each) for one in KINDS for each in Lane if kind in {None, one} and lane in {None, each}]


async def _send_all(
    store: Database, republisher: Republisher, queues: list[tuple[str, Lane]], sent: Counter[JobState]
) -> None:
    began_at = utc_now()
    for state in UNDER_WAY:
        after: UUID | None = None
        while True:
            find = partial(
                store.read, unfinished.read_page, state, queues, heard_before=began_at, after=after
            )
            page = await asyncio.to_thread(find)
            sent.update(await republisher.send(page.jobs))
            if (after := page.following) is None:
                break


@asynccontextmanager
async def _connected(settings: Settings) -> AsyncIterator[Publisher]:
    publisher = Publisher(
        settings.amqp_url,
        name="retriever republish",
        timeout_seconds=settings.publish_timeout_seconds,
        plain=settings.amqp_plain,
        prepare=lambda channel: declare_topology(channel, KINDS),
    )
    running = asyncio.create_task(publisher.run())
    try:
        async with asyncio.timeout(settings.publish_timeout_seconds):
            await publisher.wait_ready()
    except TimeoutError as error:
        seconds = settings.publish_timeout_seconds
        said = f"RETRIEVER_AMQP_URL: no broker within {seconds:g} s; nothing was sent, {_AGAIN}"
        raise BrokerUnavailable(said) from error
    else:
        yield publisher
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
