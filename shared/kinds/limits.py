"""How long one attempt of a job may take."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from shared.kinds.registry import KINDS

# Handlers keep their own limit, `timeout_seconds`; this much later they are stopped from outside.
OVERTIME_SECONDS = 5.0

_FIELD = "timeout_seconds"
# Of a kind without a limit of its own.
_DEFAULT_SECONDS = 60.0


def handler_seconds(args: BaseModel) -> float:
    """Return how long a handler may take for these arguments."""
    return float(getattr(args, _FIELD, _DEFAULT_SECONDS))


def attempt_seconds(kind: str, args: Mapping[str, Any]) -> float:
    """Return how long an attempt may take at most, for arguments as they are stored: without defaults.

    They need not be valid: a job that is parked for its arguments has some, too.
    """
    field = KINDS[kind].args_model.model_fields.get(_FIELD) if kind in KINDS else None
    default = _DEFAULT_SECONDS if field is None else float(field.default)
    asked = args.get(_FIELD, default)
    return (float(asked) if isinstance(asked, int | float) else default) + OVERTIME_SECONDS
