"""What strangers may have us evaluate: JMESPath expressions and regular expressions.

Regular expressions are RE2's, which take linear time, and few enough to be quick. The standard library's `re`
backtracks: 30 characters of `(a+)+b` hold a worker for minutes. JMESPath is evaluated by
`consumer.handlers.extract`, under limits of its own.
"""

from collections.abc import Sequence
from typing import Annotated

import jmespath
import re2
from jmespath.exceptions import JMESPathError
from pydantic import AfterValidator, Field, WithJsonSchema

MAX_EXPRESSION_LENGTH = 1_000


def _check_expression(expression: str) -> str:
    try:
        jmespath.compile(expression)
    except (JMESPathError, RecursionError) as error:
        # Where and not what: the library's own message repeats the expression.
        at = getattr(error, "lex_position", None)
        place = "" if at is None else f", from character {at + 1} on"
        raise ValueError(f"not a JMESPath expression{place}") from error
    return expression


JmesPath = Annotated[
    str,
    Field(min_length=1, max_length=MAX_EXPRESSION_LENGTH),
    AfterValidator(_check_expression),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_EXPRESSION_LENGTH}),
]

MAX_PATTERN_LENGTH = 1_000

MAX_PROGRAM_SIZE = 500
"""The limit of all patterns of a job together. Linear means text times program: at worst about 5 s for 1 MiB
with this limit, and 25 s with a few thousand."""

_SYNTAX = "RE2 syntax (https://github.com/google/re2/wiki/Syntax): no look-around, no back references."


def compile_pattern(pattern: str) -> "re2._Regexp":
    """Return a compiled pattern.

    Raises:
        ValueError: RE2 does not take it.
    """
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except (re2.error, UnicodeError) as error:
        said = error.args[0] if isinstance(error, re2.error) and error.args else "not text"
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
        raise ValueError(f"not an RE2 pattern: {text[:200]}") from None


def program_size(patterns: Sequence[str]) -> int:
    """Return how large all these patterns together are for RE2."""
    return sum(compile_pattern(pattern).programsize for pattern in patterns)


def _check_pattern(pattern: str) -> str:
    if compile_pattern(pattern).programsize > MAX_PROGRAM_SIZE:
        raise ValueError("the pattern is too large; mind repetitions such as {1,500}")
    return pattern


Pattern = Annotated[
    str,
    Field(min_length=1, max_length=MAX_PATTERN_LENGTH),
    AfterValidator(_check_pattern),
    WithJsonSchema(
        {"type": "string", "minLength": 1, "maxLength": MAX_PATTERN_LENGTH, "description": _SYNTAX}
    ),
]
