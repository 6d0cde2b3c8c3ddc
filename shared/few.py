"""Few names or items: an object or array that has more is refused before each of them is looked at.

pydantic counts those of objects and tuples last: a megabyte of what is wrong makes hundreds of thousands of
faults by then, in half a gigabyte.
"""

from collections.abc import Callable
from typing import Any

from pydantic import BeforeValidator
from pydantic_core import PydanticKnownError


def few_names(most: int) -> BeforeValidator:
    """Return a validator that refuses an object of more names, in the words of `max_length`."""
    return BeforeValidator(_few(dict, "Dictionary", most))


def few_items(most: int) -> BeforeValidator:
    """Return a validator that refuses an array of more items, for a tuple, in the words of `max_length`."""
    few = _few(list, "Tuple", most)
    # What was looked at before is no JSON any more to pydantic, and strictly a list is no tuple.
    return BeforeValidator(lambda value: tuple(few(value)) if isinstance(value, list) else value)


def _few(kind: type[dict[Any, Any] | list[Any]], called: str, most: int) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if isinstance(value, kind) and len(value) > most:
            raise PydanticKnownError(
                "too_long", {"field_type": called, "max_length": most, "actual_length": len(value)}
            )
        return value

    return check
