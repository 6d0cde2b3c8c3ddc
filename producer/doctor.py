"""Whether the store and the broker are as they must be, seen from a machine of the service; changes nothing.

`retriever doctor` asks the API, which does not talk to the broker and must not show its settings. This is for
whoever has the settings.
"""

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from producer.store.database import Database
from shared.broker.queue_depths import find_faults
from shared.errors import RetrieverError
from shared.kinds.registry import BROKERED_KINDS
from shared.settings import Settings

DEAD_LETTER_COMMAND: Final = (
    "rabbitmqctl eval 'application:get_env(rabbit, dead_letter_worker_publisher_confirm_timeout).'"
)
_MOST_NAMED: Final = 5


class Health(StrEnum):
    """How something is."""

    GOOD = "ok"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found, and what to do about it."""

    check: str
    state: Health
    says: str
    todo: str = ""


async def examine(settings: Settings) -> list[Finding]:
    """Return what there is to say of store, broker, queues and egress."""
    store, broker = await asyncio.gather(asyncio.to_thread(_store, settings), _broker(settings))
    return [store, *broker, _egress(settings)]


def _store(settings: Settings) -> Finding:
    try:
        database = Database.open(settings.database_url)
        try:
            database.ping()
        finally:
            database.close()
    except RetrieverError as error:
        todo = "Is RETRIEVER_DATABASE_URL right, the database running, and `python -m producer migrate` done?"
        return Finding("store", Health.BAD, str(error), todo)
    return Finding(
        "store", Health.GOOD, "It answers, takes writes, and has tables that this version may use."
    )


async def _broker(settings: Settings) -> list[Finding]:
    try:
        missing, different = await find_faults(
            settings.amqp_url, name="retriever-doctor", kinds=BROKERED_KINDS
        )
    except (OSError, TimeoutError) as error:
        todo = "Is RETRIEVER_AMQP_URL right, and the broker running?"
        return [Finding("broker", Health.BAD, str(error) or "It does not answer.", todo)]
    found = [Finding("broker", Health.GOOD, "It takes our user, and answers.")]
    if missing:
        named = ", ".join(missing[:_MOST_NAMED])
        more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
        todo = "Start a ledger: it declares them."
        found.append(Finding("queues", Health.BAD, f"Missing: {named}{more}.", todo))
    for words in different:
        todo = "Empty it and delete it: a ledger declares it anew. Its arguments lose nothing; others might."
        found.append(Finding("queues", Health.BAD, words, todo))
    if not missing and not different:
        found.append(Finding("queues", Health.GOOD, "All are there, with our arguments."))
    says = "How long dead letters wait that could not be handed on is known to the broker's nodes alone."
    found.append(Finding("broker", Health.NOTE, says, f"Each must say {{ok,5000}}: {DEAD_LETTER_COMMAND}"))
    return found


def _egress(settings: Settings) -> Finding:
    if not settings.egress_allow:
        return Finding("egress", Health.GOOD, "Only public addresses are asked.")
    named = ", ".join(map(str, settings.egress_allow))
    says = f"RETRIEVER_EGRESS_ALLOW lets jobs reach {named}."
    return Finding("egress", Health.NOTE, says, "Leave it off where strangers hand in jobs.")
