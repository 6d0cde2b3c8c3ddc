"""Names, arguments and bindings of every exchange and queue, and their declaration.

The topology is the same on RabbitMQ 3.10 and 4.3. Correctness depends on queue arguments and not on policies:
losing nothing must not depend on an operator's step. Declaring again is harmless; a queue that exists with
other arguments is a 406, which names it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractQueue
from pamqp.common import FieldTable

from shared.kinds.registry import KINDS, Lane, is_bundled
from shared.retry import DELAY_STEPS_SECONDS

DEFAULT = ""
JOBS = "jobs"
DELAY = "jobs.delay"
RETURN = "jobs.return"
DEAD = "jobs.dead"
UNROUTED = "jobs.unrouted"
RESULTS = "results"
LARGE_RESULTS = "results.large"
LARGE_REPORT_BYTES = 262_144
"""Larger reports go to `LARGE_RESULTS`, of which a recorder has only few in hand at once."""
OUTCOMES = "outcomes"
# Leads to the streams below. Workers may publish here, and reading workers take no order that came this way.
MARKS = "control.marks"

PARKED_QUEUE = "jobs.parked"
RECORDER_QUEUE = "results.recorder"
LARGE_RESULTS_QUEUE = "results.large"
# Copies of the reports of the interactive lane, so that they wait behind none of the bulk lane's. Whoever
# reads only the two queues above hears of everything, as ledgers of version 0.1.0 do.
INTERACTIVE_RESULTS_QUEUE = "results.interactive"
LARGE_INTERACTIVE_RESULTS_QUEUE = "results.interactive.large"
# Nobody is in a hurry any more after that, and without a reader they must not pile up.
_COPIES_SECONDS = 60
# Streams that carry orders to workers, and no jobs. Every worker reads them from their start, so that one
# that starts later knows of earlier cancellations. Kept for a week, six days longer than the longest delay.
CANCELLED_STREAM = "control.cancelled"
# The last snapshot in it says which queues are paused.
PAUSED_STREAM = "control.paused"

# A worker that dies with a message counts here. An explicit number, because the defaults differ:
# none on 3.10, 20 on 4.x; and -1 drops messages on 3.10.
WORK_DELIVERY_LIMIT = 20
# The parking queue is terminal and has no dead-letter exchange: from 4.0 on, the default limit of 20 would
# delete a message that a dying reader had in hand that often. So this limit is out of reach.
PARKED_DELIVERY_LIMIT = 1_000_000_000


_WORK_QUEUE_ENDS = frozenset({*(lane.value for lane in Lane), "bundles"})


@dataclass(frozen=True, slots=True)
class ExchangeSpec:
    """A durable exchange."""

    name: str
    type: ExchangeType = ExchangeType.TOPIC
    alternate: str | None = None


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """A durable queue, quorum unless said otherwise, and what it is bound to, as (exchange, binding key)."""

    name: str
    bindings: tuple[tuple[str, str], ...]
    arguments: Mapping[str, str | int] = field(default_factory=dict)
    type: str = "quorum"
    has_copies: bool = False
    """Whether all of its messages are in other queues, too: losing it loses nothing."""

    @property
    def all_arguments(self) -> FieldTable:
        """What it is declared with."""
        return {"x-queue-type": self.type, **self.arguments}


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """How many messages of a queue are ready to be delivered, and how many consumers it has."""

    name: str
    ready: int
    consumers: int


def work_queue(kind: str, lane: Lane) -> str:
    """Return the name of the queue that workers of one kind and lane consume."""
    return f"jobs.{kind}.{lane}"


def work_key(kind: str, lane: Lane) -> str:
    """Return the routing key of a job that is to run now.

    Third parties publish with just this key, and the recorder gets a copy of what they publish.
    """
    return f"{kind}.{lane}"


def stored_key(kind: str, lane: Lane) -> str:
    """Return the routing key of a job that is to run now and is in the store: the recorder gets no copy."""
    return f"{work_key(kind, lane)}.stored"


def bundle_queue(kind: str) -> str:
    """Return the name of the queue that workers of one kind consume bundles of bulk jobs from."""
    return f"jobs.{kind}.bundles"


def bundle_key(kind: str) -> str:
    """Return the routing key of several jobs of the bulk lane that are to run now and are in the store."""
    return f"{kind}.bundles"


def is_bundle_key(key: str) -> bool:
    """Return whether it is the routing key of several jobs of any kind."""
    return key.endswith(bundle_key(""))


def may_carry(key: str, kind: str) -> bool:
    """Return whether a job of a kind may come with a routing key: a key that names a kind names the job's.

    Who may publish checks shall not begin commands by what a body says. Keys that name no kind are those of
    messages that a person has moved.
    """
    named = key.partition(".")[0]
    return named == kind or named not in KINDS or kind not in KINDS


def is_interactive_key(key: str) -> bool:
    """Return whether what is published with a routing key, to exchanges of reports, is of that lane."""
    return key.split(".", 2)[1:2] == [Lane.INTERACTIVE.value]


def is_work_queue(name: str) -> bool:
    """Return whether it is the name of a queue that workers of any kind consume."""
    match name.split("."):
        case ["jobs", _, last]:
            return last in _WORK_QUEUE_ENDS
    return False


def lane_queues(kind: str, lane: Lane) -> tuple[str, ...]:
    """Return the names of all queues in which jobs of a kind and lane wait for workers."""
    return (work_queue(kind, lane), *([bundle_queue(kind)] if is_bundled(kind, lane) else []))


def delay_queue(step_seconds: int) -> str:
    """Return the name of the queue in which messages wait for one step of the ladder.

    Five digits, so that the management console sorts the steps by their length.
    """
    return f"jobs.delay.{step_seconds:05d}s"


def delay_key(kind: str, lane: Lane, step_seconds: int) -> str:
    """Return the routing key that picks a delay step and, unchanged, leads home."""
    return f"{kind}.{lane}.{step_seconds}s"


def exchanges() -> tuple[ExchangeSpec, ...]:
    """Return every exchange, alternates first."""
    return (
        ExchangeSpec(UNROUTED, ExchangeType.FANOUT),
        # No alternate exchange: an unroutable job must come back to the relay, which keeps it.
        ExchangeSpec(JOBS),
        ExchangeSpec(DELAY),
        # At-least-once dead-lettering stalls for good behind 32 unroutable messages, so
        # everything that dead-letters must find a queue.
        ExchangeSpec(RETURN, alternate=UNROUTED),
        ExchangeSpec(DEAD, alternate=UNROUTED),
        ExchangeSpec(RESULTS),
        ExchangeSpec(LARGE_RESULTS),
        ExchangeSpec(OUTCOMES),
        ExchangeSpec(MARKS, ExchangeType.DIRECT),
    )


def queues(kinds: Iterable[str]) -> tuple[QueueSpec, ...]:
    """Return every queue for the given kinds."""
    lanes = [(kind, lane) for kind in kinds for lane in Lane]
    # Whole keys and no pattern: a job of an unknown kind must come back to its publisher.
    from_strangers = tuple((JOBS, work_key(kind, lane)) for kind, lane in lanes)
    return (
        QueueSpec(PARKED_QUEUE, ((DEAD, "#"), (UNROUTED, "#")), {"x-delivery-limit": PARKED_DELIVERY_LIMIT}),
        QueueSpec(
            RECORDER_QUEUE,
            ((RESULTS, "#"), (DELAY, "#"), (DEAD, "#"), (UNROUTED, "#"), *from_strangers),
            _dead_lettering_to_parking(),
        ),
        QueueSpec(LARGE_RESULTS_QUEUE, ((LARGE_RESULTS, "#"),), _dead_lettering_to_parking()),
        _copies_spec(INTERACTIVE_RESULTS_QUEUE, RESULTS, DELAY, DEAD),
        _copies_spec(LARGE_INTERACTIVE_RESULTS_QUEUE, LARGE_RESULTS),
        _stream_spec(CANCELLED_STREAM),
        _stream_spec(PAUSED_STREAM),
        *(_work_queue_spec(kind, lane) for kind, lane in lanes),
        *(_bundle_queue_spec(kind) for kind, lane in lanes if is_bundled(kind, lane)),
        *(_delay_queue_spec(step) for step in DELAY_STEPS_SECONDS),
    )


async def verify_topology(channel: AbstractChannel, kinds: Iterable[str]) -> None:
    """Make sure that every queue exists, without declaring any; of those with copies nobody needs one.

    A publish to `jobs.delay` reaches the recorder even when the queue of its step is missing, so a worker
    that knows more steps than the ledger has declared must not start.

    Raises:
        ChannelNotFoundEntity: a queue is missing; the error names it.
    """
    for spec in queues(kinds):
        if not spec.has_copies:
            await channel.declare_queue(spec.name, passive=True)


async def declare_topology(channel: AbstractChannel, kinds: Iterable[str]) -> list[QueueDepth]:
    """Declare every exchange, queue and binding; return the depths of all queues. Idempotent.

    Raises:
        ChannelPreconditionFailed: something of that name exists with other arguments.
    """
    declared: dict[str, AbstractExchange] = {}
    for spec in exchanges():
        arguments: FieldTable | None = {"alternate-exchange": spec.alternate} if spec.alternate else None
        declared[spec.name] = await channel.declare_exchange(
            spec.name, spec.type, durable=True, arguments=arguments
        )
    depths = []
    for queue_spec in queues(kinds):
        queue = await channel.declare_queue(queue_spec.name, durable=True, arguments=queue_spec.all_arguments)
        for exchange, key in queue_spec.bindings:
            await queue.bind(declared[exchange], key)
        depths.append(depth_of(queue))
    return depths


def depth_of(queue: AbstractQueue) -> QueueDepth:
    """Return the depth of a queue as it was when it was declared."""
    declared = queue.declaration_result
    return QueueDepth(queue.name, declared.message_count or 0, declared.consumer_count or 0)


def _dead_lettering_to(exchange: str) -> dict[str, str | int]:
    # At-least-once needs reject-publish; with drop-head it silently falls back to at-most-once.
    # https://www.rabbitmq.com/docs/quorum-queues#dead-lettering
    return {
        "x-dead-letter-exchange": exchange,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def _dead_lettering_to_parking() -> dict[str, str | int]:
    # Straight to the parking queue: over an exchange that it is bound to, the recorder's queue would
    # dead-letter to itself, which 3.10 cannot do.
    return {
        "x-delivery-limit": WORK_DELIVERY_LIMIT,
        "x-dead-letter-routing-key": PARKED_QUEUE,
        **_dead_lettering_to(DEFAULT),
    }


def _copies_spec(name: str, *exchanges: str) -> QueueSpec:
    # What expires or comes back too often is dropped.
    return QueueSpec(
        name,
        tuple((exchange, f"*.{Lane.INTERACTIVE}.#") for exchange in exchanges),
        {"x-delivery-limit": WORK_DELIVERY_LIMIT, "x-message-ttl": _COPIES_SECONDS * 1_000},
        has_copies=True,
    )


def _stream_spec(name: str) -> QueueSpec:
    # Old messages go by whole segments, so these are small: some 5,000 cancellations each.
    return QueueSpec(
        name,
        ((MARKS, name),),
        {"x-max-age": "7D", "x-stream-max-segment-size-bytes": 1_000_000},
        type="stream",
    )


def _work_queue_spec(kind: str, lane: Lane) -> QueueSpec:
    key = f"{work_key(kind, lane)}.#"
    return QueueSpec(work_queue(kind, lane), ((JOBS, key), (RETURN, key)), _work_queue_arguments())


def _bundle_queue_spec(kind: str) -> QueueSpec:
    # Nothing returns here from a delay, because a delayed copy carries one job.
    return QueueSpec(bundle_queue(kind), ((JOBS, bundle_key(kind)),), _work_queue_arguments())


def _work_queue_arguments() -> dict[str, str | int]:
    return {"x-delivery-limit": WORK_DELIVERY_LIMIT, **_dead_lettering_to(DEAD)}


def _delay_queue_spec(step_seconds: int) -> QueueSpec:
    return QueueSpec(
        delay_queue(step_seconds),
        ((DELAY, f"#.{step_seconds}s"),),
        {"x-message-ttl": step_seconds * 1_000, **_dead_lettering_to(RETURN)},
    )
