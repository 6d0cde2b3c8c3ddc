"""Which fields a document may have at a place, for whoever sent one that there is not. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel


def no_such(noun: str, known: Iterable[str]) -> str:
    """Return what is said of a name that there is none of."""
    listed = ", ".join(known)
    return f"There is no such {noun}; there {f'are: {listed}' if listed else 'are none'}"


def known_fields(model: type[BaseModel], loc: Sequence[int | str]) -> Sequence[str]:
    """Return the fields that a document of a model may have at a place, as the contract lists them.

    Args:
        model: The model of the whole document.
        loc: The place as pydantic names it: fields, indexes, and the tags of unions.
    """
    here = [model]
    for part in loc:
        here = _below(here, part)
    names = (name for each in here if _is_model(each) for name in _names(each))
    return list(dict.fromkeys(names))


def _below(types: Sequence[Any], part: int | str) -> list[Any]:
    tagged = [each for each in types if len(types) > 1 and _is_model(each) and _has_tag(each, part)]
    # A part that leads nowhere says which member of a union was tried.
    return tagged or [inner for each in types for inner in _step(each, part)] or list(types)


def _step(outer: Any, part: int | str) -> Iterator[Any]:
    """Yield the types of what a type holds under a name or an index."""
    arguments = get_args(outer)
    match get_origin(outer):
        case None if _is_model(outer):
            for name, field in outer.model_fields.items():
                if part in (name, field.alias):
                    yield from _members(field.annotation)
        case origin if isinstance(origin, type) and issubclass(origin, Mapping):
            yield from _members(arguments[1])
        case origin if isinstance(origin, type) and issubclass(origin, Sequence):
            yield from _members(arguments[0])


def _members(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield annotation


def _has_tag(model: type[BaseModel], part: int | str) -> bool:
    literals = (field.annotation for field in model.model_fields.values())
    return any(get_origin(each) is Literal and part in get_args(each) for each in literals)


def _is_model(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)


@cache
def _names(model: type[BaseModel]) -> tuple[str, ...]:
    # From the schema, which has the public names and leaves out what is none of a client's business.
    schema = model.model_json_schema()
    return tuple(schema.get("properties", {}))
