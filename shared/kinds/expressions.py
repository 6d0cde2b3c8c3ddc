"""The JMESPath type that arguments share; `consumer.handlers.extract` evaluates it, under limits."""

from typing import Annotated

import jmespath
from jmespath.exceptions import JMESPathError
from pydantic import AfterValidator, Field, WithJsonSchema

MAX_EXPRESSION_LENGTH = 1_000


def _check_expression(expression: str) -> str:
    try:
        jmespath.compile(expression)
    except (JMESPathError, RecursionError) as error:
        raise ValueError(f"not a JMESPath expression: {str(error)[:200]}") from error
    return expression


JmesPath = Annotated[
    str,
    Field(min_length=1, max_length=MAX_EXPRESSION_LENGTH),
    AfterValidator(_check_expression),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_EXPRESSION_LENGTH}),
]
