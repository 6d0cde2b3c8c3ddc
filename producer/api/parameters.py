"""The parameters of each operation, checked to the letter of the contract before the operation reads them.

connexion's own check is off: it splits lists at commas, takes the last of two values, and reads numbers as
Python does, so that `1_000`, ` 5` and Arabic digits pass.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import parse_qsl

from jsonschema import Draft4Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend
from starlette.types import Scope

from producer.api.problems import HttpProblem
from producer.api.routes import METHODS
from producer.unknown_fields import no_such
from shared.errors import FieldError
from shared.redaction import redact_text
from shared.times import NOT_RFC_3339, parse_time

_MAX_ECHO_LENGTH = 60
# Beyond this a whole number is over every maximum, and Python takes long to read it or refuses.
_MAX_DIGITS = 18

# RFC 8259 section 6.
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_BOOLEANS = {"true": True, "false": False}


class NoCheck:
    """connexion's place for a check of parameters, left empty."""

    def __init__(self, *_arguments: object, **_named: object) -> None:
        """Take whatever connexion gives."""

    def validate(self, _scope: Scope) -> None:
        """Let every request pass."""


class Parameters:
    """Knows what each operation takes, and refuses the rest."""

    def __init__(self, by_operation: Mapping[str, Sequence["Parameter"]]) -> None:
        self._by_operation = by_operation

    @classmethod
    def of(cls, contract: Mapping[str, Any]) -> Self:
        """Return the parameters of all operations of a contract."""
        return cls(
            {
                item[method]["operationId"]: [
                    Parameter.of(_resolved(contract, parameter), contract)
                    for parameter in (*item.get("parameters", ()), *item[method].get("parameters", ()))
                ]
                for item in contract["paths"].values()
                for method in METHODS
                if method in item
            }
        )

    def check(self, operation_id: str, scope: Scope) -> None:
        """Return when the contract allows all parameters of a request.

        Raises:
            HttpProblem: 400, naming each that is unknown, repeated, missing or wrong.
        """
        known = self._by_operation[operation_id]
        sent = _Sent.of(scope)
        errors = [*_unknown(known, sent), *(error for each in known for error in each.faults(sent))]
        if errors:
            first = errors[0]
            raise HttpProblem(HTTPStatus.BAD_REQUEST, f"{first.loc}: {first.msg}.", errors=errors)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of an operation. A list is sent by repeating it: a comma is a part of a value."""

    name: str
    place: str
    is_required: bool
    is_listed: bool
    is_list: bool
    is_joined: bool
    schema: Mapping[str, Any]
    validator: Draft4Validator

    @classmethod
    def of(cls, parameter: Mapping[str, Any], contract: Mapping[str, Any]) -> Self:
        """Return what the contract says of one parameter."""
        schema = dict(_resolved(contract, parameter["schema"]))
        is_list = schema["type"] == "array"
        if is_list:
            schema["items"] = _resolved(contract, schema["items"])
        return cls(
            name=parameter["name"],
            place=parameter["in"],
            is_required=parameter.get("required", False),
            is_listed=parameter["in"] == "query" and not parameter.get("deprecated", False),
            is_list=is_list,
            is_joined=parameter.get("x-is-joined", False),
            schema=schema["items"] if is_list else schema,
            validator=_Validator(schema),
        )

    @property
    def loc(self) -> str:
        """Where it is, as errors name it."""
        return f"/{self.place}/{self.name}"

    def faults(self, sent: "_Sent") -> Iterator[FieldError]:
        """Yield what is wrong with the values that were sent; one at most."""
        texts = sent.values(self.place, self.name)
        if (msg := self._fault(texts)) is not None:
            yield FieldError(self.loc, msg)

    def _fault(self, texts: Sequence[str]) -> str | None:
        if not texts:
            return "It is required" if self.is_required else None
        if not (self.is_list or self.is_joined) and len(texts) > 1:
            return f"It is sent {len(texts)} times; send it once"
        try:
            values = [_read(text, self.schema) for text in texts]
        except ValueError as error:
            return str(error)
        found = self.validator.iter_errors(values if self.is_list else values[0])
        return next(map(_message, found), None)


@dataclass(frozen=True, slots=True)
class _Sent:
    """The parameters of a request as texts."""

    query: Sequence[tuple[str, str]]
    path: Mapping[str, str]
    headers: Sequence[tuple[bytes, bytes]]

    @classmethod
    def of(cls, scope: Scope) -> Self:
        # As Starlette, which the operations read by: bytes that are not UTF-8 become U+FFFD.
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        return cls(query, scope.get("path_params", {}), scope["headers"])

    def values(self, place: str, name: str) -> list[str]:
        match place:
            case "query":
                return [value for sent, value in self.query if sent == name]
            case "path":
                return [self.path[name]] if name in self.path else []
            case _:
                wanted = name.lower().encode()
                return [value.decode("latin-1") for sent, value in self.headers if sent == wanted]


def _unknown(known: Sequence[Parameter], sent: _Sent) -> Iterator[FieldError]:
    names = [parameter.name for parameter in known if parameter.place == "query"]
    listed = [parameter.name for parameter in known if parameter.is_listed]
    for name in sorted({name for name, _ in sent.query}.difference(names)):
        yield FieldError(f"/query/{redact_text(name)[:_MAX_ECHO_LENGTH]}", no_such("parameter", listed))


def _read(text: str, schema: Mapping[str, Any]) -> object:
    """Return the value of a text, read as JSON would be, whatever Python makes of it.

    Raises:
        ValueError: it is none; the message says what is wanted.
    """
    match schema["type"]:
        case "integer":
            if not _INTEGER.fullmatch(text):
                raise ValueError("It must be a whole number, in digits alone")
            return int(text) if len(text) <= _MAX_DIGITS else float(text)
        case "number":
            if not _NUMBER.fullmatch(text):
                raise ValueError("It must be a number as in JSON, such as 2.5")
            if math.isinf(number := float(text)):
                raise ValueError("It is too large")
            return number
        case "boolean":
            if text not in _BOOLEANS:
                raise ValueError("It must be true or false")
            return _BOOLEANS[text]
        case _ if schema.get("format") == "date-time":
            return _checked_time(text)
        case _:
            return text


def _checked_time(text: str) -> str:
    try:
        parse_time(text)
    except ValueError as error:
        hint = "; write a + as %2B" if str(error) == NOT_RFC_3339 and " " in text else ""
        raise ValueError(f"{error}{hint}") from None
    return text


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    r"""Return a pattern of the contract as ECMA 262 reads it: `$` is the end, and `\d` an ASCII digit.

    To Python `$` is also before a line feed at the end, which no id and no time has.
    """
    return re.compile(re.sub(r"(?<!\\)\$$", r"\\Z", pattern), re.ASCII)


def _check_pattern(
    _validator: object, pattern: str, value: object, _schema: object
) -> Iterator[ValidationError]:
    if isinstance(value, str) and not _compiled(pattern).search(value):
        yield ValidationError("It does not match")


_Validator: type[Draft4Validator] = extend(  # type: ignore[no-untyped-call]
    Draft4Validator, {"pattern": _check_pattern}
)


def _message(error: ValidationError) -> str:
    wanted = error.validator_value
    match error.validator:
        case "enum" if isinstance(wanted, list):
            return f"It must be one of: {', '.join(map(str, wanted))}"
        case "minimum" if isinstance(error.schema, Mapping) and error.schema.get("exclusiveMinimum"):
            return f"It must be more than {wanted}"
        case "minimum":
            return f"It must be at least {wanted}"
        case "maximum":
            return f"It must be at most {wanted}"
        case keyword:
            return f"It must have {keyword} {wanted}"


def _resolved(contract: Mapping[str, Any], node: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a part of the contract, or what it refers to."""
    if "$ref" not in node:
        return node
    found: Mapping[str, Any] = contract
    for name in node["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found
