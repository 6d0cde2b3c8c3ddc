"""What strangers may have us evaluate: JMESPath expressions and regular expressions.

Regular expressions are RE2's, which take linear time, and few enough to be quick. The standard library's `re`
backtracks: 30 characters of `(a+)+b` hold a worker for minutes. JMESPath is evaluated by
`consumer.compute.extract`, under limits of its own.
"""

from collections.abc import Sequence
from typing import Annotated

from jmespath.exceptions import JMESPathError
from pydantic import AfterValidator, Field, WithJsonSchema

from shared.programs import TOO_LARGE, compile_expression, pattern_size

MAX_EXPRESSION_LENGTH = 1_000


def _check_expression(expression: str) -> str:
    try:
        compile_expression(expression)
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
"""The limit of all patterns of a job together. Linear means text times program: at worst about 10 s for 1 MiB
with this limit, and the workers give it less."""

_SYNTAX = "RE2 syntax (https://github.com/google/re2/wiki/Syntax): no look-around, no back references."


def program_size(patterns: Sequence[str]) -> int:
    """Return how large all these patterns together are for RE2."""
    return sum(map(pattern_size, patterns))


def _check_pattern(pattern: str) -> str:
    if pattern_size(pattern) > MAX_PROGRAM_SIZE:
        raise ValueError(TOO_LARGE)
    return pattern


Pattern = Annotated[
    str,
    Field(min_length=1, max_length=MAX_PATTERN_LENGTH),
    AfterValidator(_check_pattern),
    WithJsonSchema(
        {"type": "string", "minLength": 1, "maxLength": MAX_PATTERN_LENGTH, "description": _SYNTAX}
    ),
]
