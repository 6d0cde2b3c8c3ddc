"""The columns of a CSV batch: which argument each is, and how its cells are read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from shared.errors import FieldError, JobInvalid
from shared.kinds.registry import Kind

_WANTED = {
    "integer": "Must be a whole number",
    "number": "Must be a number such as 2.5",
    "boolean": "Must be true or false",
    "array": "Must be a list as JSON",
    "object": "Must be an object as JSON",
}
_BOOLEANS = frozenset({"true", "false"})


@dataclass(frozen=True, slots=True)
class Column:
    """One column: an argument's name and the types of JSON that it takes."""

    name: str
    types: frozenset[str]

    def read(self, cell: str, *, at: str) -> Any:
        """Return what a cell says: text as it is, for an argument that takes text; anything else as JSON.

        Raises:
            JobInvalid: it is not JSON.
        """
        if "string" in self.types:
            return cell
        text = cell.strip()
        # Spreadsheets write TRUE.
        text = text.lower() if text.lower() in _BOOLEANS else text
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            msg = next((_WANTED[name] for name in sorted(self.types) if name in _WANTED), "Must be JSON")
            raise JobInvalid([FieldError(f"{at}/{self.name}", msg)]) from None


def read_header(kind: Kind, cells: Sequence[str], *, at: str) -> list[Column]:
    """Return the columns that a header names.

    Raises:
        JobInvalid: a name is no argument of the kind, or comes twice. It is told by its place: a body
            without a header begins with values, and these may be secret.
    """
    schema = kind.args_model.model_json_schema()
    known: Mapping[str, Any] = schema["properties"]
    names = [cell.strip() for cell in cells]
    errors = [
        FieldError(at, msg)
        for place, name in enumerate(names, start=1)
        if (msg := _fault(kind, known, names, place, name))
    ]
    if errors:
        raise JobInvalid(errors)
    definitions = schema.get("$defs", {})
    return [Column(name, frozenset(_types(known[name], definitions))) for name in names]


def _fault(kind: Kind, known: Mapping[str, Any], names: Sequence[str], place: int, name: str) -> str | None:
    if name not in known:
        listed = ", ".join(known)
        return f"Column {place} of the header is no argument of {kind.name}; there are: {listed}"
    if (first := names.index(name) + 1) != place:
        return f"Columns {first} and {place} of the header are both {name}"
    return None


def _types(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the types of JSON that a schema takes."""
    if "$ref" in schema:
        yield from _types(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "type" in schema:
        yield from [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    for choice in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        yield from _types(choice, definitions)
