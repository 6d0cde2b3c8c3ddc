"""The table of handlers: which function does the work of which kind."""

from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar, cast

from pydantic import BaseModel

from consumer.handlers.check import check
from consumer.handlers.paged_fetch import fetch_or_page
from consumer.handlers.webhook import send_webhook
from consumer.http.client import Client
from shared.errors import SettingsInvalid
from shared.kinds.check import CheckArgs
from shared.kinds.command import COMMAND, CommandArgs
from shared.kinds.fetch import FetchArgs
from shared.kinds.registry import KINDS
from shared.kinds.webhook import WEBHOOK, WebhookArgs
from shared.outcomes import Outcome

ArgsT = TypeVar("ArgsT", bound=BaseModel)
Work = Callable[[ArgsT, Client], Coroutine[Any, Any, Outcome]]


@dataclass(frozen=True, slots=True)
class Handler:
    """The work of one kind, bound to the model of its arguments; `handler_of` makes it."""

    args_model: type[BaseModel]
    work: Work[BaseModel]

    def __call__(self, args: BaseModel, client: Client) -> Coroutine[Any, Any, Outcome]:
        """Return one attempt, to be awaited. It never raises for what the world does.

        Cancelling it stops the work.

        Raises:
            TypeError: the arguments are another kind's, a mistake of ours.
        """
        if not isinstance(args, self.args_model):
            raise TypeError(f"{type(args).__name__} is not {self.args_model.__name__}")
        return self.work(args, client)


def handler_of(args_model: type[ArgsT], work: Work[ArgsT]) -> Handler:
    """Return a handler whose function takes exactly this model."""
    # Sound, because `Handler.__call__` lets nothing but the model through.
    return Handler(args_model, cast("Work[BaseModel]", work))


HANDLERS: Mapping[str, Handler] = MappingProxyType(
    {
        "check": handler_of(CheckArgs, check),
        "fetch": handler_of(FetchArgs, fetch_or_page),
        WEBHOOK: handler_of(WebhookArgs, send_webhook),
    }
)


def check_handlers(kinds: Iterable[str]) -> None:
    """Prove that this worker can do the work of the kinds it was started for.

    Raises:
        SettingsInvalid: a kind is unknown, has no handler here, or has one for other arguments.
    """
    # Commands ask no host anything: `consumer.handlers.command` has no client.
    args_models = {COMMAND: CommandArgs, **{name: handler.args_model for name, handler in HANDLERS.items()}}
    for name in kinds:
        kind, args_model = KINDS.get(name), args_models.get(name)
        if kind is None:
            raise SettingsInvalid(f"--kinds: no kind is named {name!r}; known are {', '.join(KINDS)}")
        if args_model is None:
            raise SettingsInvalid(f"--kinds: this worker has no handler for kind {name!r}")
        if args_model is not kind.args_model:
            raise SettingsInvalid(
                f"--kinds: the handler for kind {name!r} takes other arguments than the kind has"
            )
