"""JMESPath under limits: an expression is a stranger's program, and Python cannot stop a thread.

The language has no loops, yet 100 characters of `[@,@]|[@,@]|…` describe more than a machine can hold, and
such an expression never returns. So every value is weighed as it is made.
"""

import math
import re
import time
from typing import Any

from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions, signature
from jmespath.visitor import Options, TreeInterpreter

from consumer.compute.answers import EXTRACT_FAILED, EXTRACT_LIMIT, NUMBER_TOO_LARGE, Flaw
from shared import exact_json
from shared.exact_json import MAX_DATA_BYTES
from shared.programs import compile_expression

EXTRACT_SECONDS = 2.0
"""Of the processor, for all expressions on one body together."""

MAX_WEIGHT = 4_000_000
"""The limit of any one value, and of all values that an expression makes: about characters of JSON."""

MAX_DEPTH = 100
"""The nesting of what is picked out; every JSON library on its way to the reader can take it."""


class Budget:
    """How much of the processor expressions may still take: of this thread, whatever else the machine does.

    Attributes:
        left_seconds: 0 when an expression was stopped for it.
    """

    __slots__ = ("left_seconds",)

    def __init__(self, seconds: float = EXTRACT_SECONDS) -> None:
        """Begin with so many seconds."""
        self.left_seconds = seconds


def extract(document: Any, expression: str, budget: Budget | None = None) -> Any | Flaw:
    """Return what an expression picks out of a document, as JSON that every store can hold, or a `Flaw`.

    NUL characters and lone surrogates, which PostgreSQL refuses, become U+FFFD. Blocks for about as long as
    it may take, unless the document is large.

    Args:
        document: JSON, as `read_json_body` gives it.
        expression: A JMESPath expression that compiles.
        budget: What it may take, and takes; None is `EXTRACT_SECONDS`.
    """
    budget = budget or Budget()
    deadline = time.thread_time() + budget.left_seconds
    interpreter = _BoundedInterpreter(deadline)
    try:
        data = _storable(interpreter.visit(compile_expression(expression), document))
        return data if len(exact_json.dumps(data)) <= MAX_DATA_BYTES else EXTRACT_LIMIT
    except _LimitReached:
        return EXTRACT_LIMIT
    except _NotFiniteError:
        return NUMBER_TOO_LARGE
    # jmespath checks types, and where it does not, Python's own errors come through.
    except (
        JMESPathError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ):
        return EXTRACT_FAILED
    finally:
        interpreter.forget()
        budget.left_seconds = max(0.0, deadline - time.thread_time())


class _LimitReached(Exception):
    """An expression ran for too long or made too much."""


class _NotFiniteError(Exception):
    """A number was picked out that no double can hold."""


class _BoundedFunctions(Functions):
    """The standard functions; only `join` can make much out of little in one call."""

    @signature({"types": ["string"]}, {"types": ["array-string"]})
    def _func_join(self, separator: str, array: list[str]) -> str:
        if len(separator) * len(array) > MAX_WEIGHT:
            raise _LimitReached
        return separator.join(array)


class _BoundedInterpreter(TreeInterpreter):
    """Evaluates an expression, and checks the clock and the weight of every result."""

    def __init__(self, deadline: float) -> None:
        """Begin; the deadline is one of `time.thread_time`."""
        super().__init__(Options(custom_functions=_BoundedFunctions()))
        self._deadline = deadline
        self._made = 0
        # By id. The values are kept, so that no id is used twice.
        self._weights: dict[int, int] = {}
        self._weighed: list[Any] = []

    def visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:
        result = super().visit(node, *args, **kwargs)
        if time.thread_time() > self._deadline:
            raise _LimitReached
        if isinstance(result, list | dict):
            self._weigh(result)
        elif isinstance(result, str) and node["type"] == "function_expression":
            self._make(len(result))
        return result

    def forget(self) -> None:
        """Let go of the document: visitors hold themselves, and would hold it until garbage is collected."""
        self._weights.clear()
        self._weighed.clear()

    def _weigh(self, value: Any) -> int:
        if isinstance(value, str):
            return len(value) + 1
        if not isinstance(value, list | dict):
            # A decimal digit takes over three bits.
            return 1 + value.bit_length() // 3 if isinstance(value, int) else 1
        if known := self._weights.get(id(value)):
            return known
        self._make(len(value))
        if isinstance(value, dict):
            weight = 1 + sum(len(name) + self._weigh(part) for name, part in value.items())
        else:
            weight = 1 + sum(map(self._weigh, value))
        if weight > MAX_WEIGHT:
            raise _LimitReached
        self._weights[id(value)] = weight
        self._weighed.append(value)
        return weight

    def _make(self, weight: int) -> None:
        self._made += weight
        if self._made > MAX_WEIGHT:
            raise _LimitReached


# What no text of the store may hold.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def _storable(value: Any, depth: int = 0) -> Any:
    """Return a copy that is JSON to everybody.

    Raises:
        ValueError: it is nested too deep, or holds something that JSON cannot say.
        _NotFiniteError: it holds an infinity.
    """
    if depth > MAX_DEPTH:
        raise ValueError("nested too deep")
    match value:
        case None | bool() | int():
            return value
        case str():
            return _UNSTORABLE.sub("\ufffd", value)
        case float():
            if not math.isfinite(value):
                raise _NotFiniteError
            return value
        case list():
            return [_storable(part, depth + 1) for part in value]
        case dict():
            return {_storable(name): _storable(part, depth + 1) for name, part in value.items()}
        case _:
            raise ValueError("not JSON")
