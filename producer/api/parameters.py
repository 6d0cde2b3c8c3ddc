"""How a wrong parameter is told: by name, in one line, without echoing what was sent."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Any

from connexion.lifecycle import ConnexionRequest
from connexion.validators.parameter import ParameterValidator
from jsonschema import Draft4Validator

from producer.api.problems import HttpProblem
from shared.errors import FieldError

MAX_ECHO_LENGTH = 60


class NamedParameterValidator(ParameterValidator):  # type: ignore[misc]
    """connexion's check of path and query parameters, whose own message is a page that repeats the value."""

    @staticmethod
    def validate_parameter(
        parameter_type: str, value: object, param: Mapping[str, Any], param_name: str | None = None
    ) -> None:
        """Check one parameter against its schema in the contract.

        Raises:
            HttpProblem: 400, naming the parameter.
        """
        loc = f"/{parameter_type}/{param_name or param['name']}"
        if value is None:
            if param.get("required"):
                raise _invalid(loc, "It is required")
            return
        error = next(Draft4Validator(param["schema"]).iter_errors(value), None)
        if error is not None:
            raise _invalid(loc, _message(error.validator, error.validator_value))

    def validate_query_parameter_list(
        self, request: ConnexionRequest, security_params: Sequence[str] | None = None
    ) -> frozenset[str]:
        """Check that the contract has every parameter of the query, so that no typing error goes unseen.

        Raises:
            HttpProblem: 400, naming the first that is unknown.
        """
        unknown = super().validate_query_parameter_list(request, security_params=security_params)
        for name in sorted(unknown):
            raise _invalid(f"/query/{name[:MAX_ECHO_LENGTH]}", "There is no such parameter")
        return frozenset()


def read_time(name: str, text: str | None) -> datetime | None:
    """Return the time of a query parameter, None when it was left out.

    Raises:
        HttpProblem: 400, naming the parameter: there is no such time, such as February 30th.
    """
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise _invalid(f"/query/{name}", "There is no such time") from None


def read_labels(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Return the names and values of labels, written as `name:value`; the contract sees to the colon."""
    split = (label.partition(":") for label in labels)
    return [(name, value) for name, _, value in split]


def _message(keyword: str, wanted: object) -> str:
    match keyword:
        case "enum" if isinstance(wanted, list):
            return f"It must be one of: {', '.join(map(str, wanted))}"
        case "type":
            return f"It must be of type {wanted}"
        case "minimum":
            return f"It must be at least {wanted}"
        case "maximum":
            return f"It must be at most {wanted}"
        case _:
            return f"It must have {keyword} {wanted}"


def _invalid(loc: str, msg: str) -> HttpProblem:
    return HttpProblem(HTTPStatus.BAD_REQUEST, f"{loc}: {msg}.", errors=[FieldError(loc, msg)])
