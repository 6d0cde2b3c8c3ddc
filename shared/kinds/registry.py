"""The table of kinds: everything about a kind except its work."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from shared.kinds.check import CheckArgs, CheckResult
from shared.kinds.command import COMMAND, CommandArgs, CommandResult
from shared.kinds.fetch import FetchArgs, FetchResult
from shared.kinds.task import TASK, TaskArgs, TaskResult
from shared.kinds.webhook import WEBHOOK, WEBHOOK_RETRY, WebhookArgs, WebhookResult
from shared.retry import RetryPolicy
from shared.states import JobState

OVERTIME_SECONDS = 5.0
"""How much later than their own limit, `timeout_seconds`, handlers are stopped from outside."""

COMPUTE_SECONDS = 30.0
"""How long an attempt may wait for a process of its worker that looks at an answer, and have it work. That
time is the worker's own, so it counts for no limit of the job."""

_TIMEOUT_FIELD = "timeout_seconds"
# For a kind without a limit of its own.
_DEFAULT_SECONDS = 60.0
_LONGEST_SECONDS = 86_400.0


class Lane(StrEnum):
    """Two queues a kind, so that a million-URL batch never makes one person wait."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of job.

    When it `is_bundled`, several jobs of its bulk lane may travel in one message. A crash then repeats all
    jobs of the message, even those that were done: only for kinds that change nothing in the world.

    When it `is_pulled`, its jobs wait in the store, and agents pull them over HTTP: no message asks for one.
    """

    name: str
    description: str
    args_model: type[BaseModel]
    result_model: type[BaseModel]
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    is_bundled: bool = False
    is_pulled: bool = False


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind("check", "Is this URL good?", CheckArgs, CheckResult, is_bundled=True),
            Kind("fetch", "Ask a page or an API, keep the answer, pick out data.", FetchArgs, FetchResult),
            Kind(COMMAND, "Run a program, judge it by its exit code.", CommandArgs, CommandResult),
            Kind(TASK, "Work for agents that pull it over HTTP.", TaskArgs, TaskResult, is_pulled=True),
            Kind(WEBHOOK, "Tell a URL what has happened, signed.", WebhookArgs, WebhookResult, WEBHOOK_RETRY),
        )
    }
)


BROKERED_KINDS: tuple[str, ...] = tuple(kind.name for kind in KINDS.values() if not kind.is_pulled)
"""The kinds whose jobs travel through RabbitMQ, to workers."""


_WAITING_STATES = {
    kind.name: JobState.QUEUED if kind.is_pulled else JobState.ACCEPTED for kind in KINDS.values()
}


def waiting_state(kind: str) -> JobState:
    """Return the state of a new job that is to run now: `accepted` for the relay, or at once `queued`."""
    return _WAITING_STATES.get(kind, JobState.ACCEPTED)


def is_bundled(kind: str, lane: Lane) -> bool:
    """Return whether several jobs of a kind and lane may travel in one message; false for unknown kinds."""
    return lane is Lane.BULK and kind in KINDS and KINDS[kind].is_bundled


def args_document(args: BaseModel) -> dict[str, Any]:
    """Return validated arguments as the JSON that is stored and sent: only what differs from the defaults."""
    return args.model_dump(mode="json", exclude_defaults=True)


def handler_seconds(args: BaseModel) -> float:
    """Return how long a handler may take for these arguments."""
    return float(getattr(args, _TIMEOUT_FIELD, _DEFAULT_SECONDS))


# Not as a union, which is made anew for each look.
_NUMBERS = (int, float)


def asked_seconds(args: Mapping[str, Any]) -> float | None:
    """Return the time limit of an attempt that arguments ask for, valid or not.

    None when they ask for none, or for one that no arguments of ours can have.
    """
    asked = args.get(_TIMEOUT_FIELD)
    if isinstance(asked, _NUMBERS) and 0 <= asked <= _LONGEST_SECONDS:
        return float(asked)
    return None


def attempt_seconds(kind: str, args: Mapping[str, Any]) -> float:
    """Return how long an attempt may take, for arguments as they are stored, without defaults.

    They need not be valid: a job that is parked for its arguments has an attempt, too.
    """
    field = KINDS[kind].args_model.model_fields.get(_TIMEOUT_FIELD) if kind in KINDS else None
    default = _DEFAULT_SECONDS if field is None else float(field.default)
    asked = asked_seconds(args)
    seconds = default if asked is None else asked
    return seconds + OVERTIME_SECONDS + (COMPUTE_SECONDS if kind in _LOOKS_AT_ANSWERS else 0.0)


_LOOKS_AT_ANSWERS = frozenset({"check", "fetch"})
