"""The URL type that all kinds share. Knows nothing of the egress guard, which acts at the socket."""

from typing import Annotated

from pydantic import AfterValidator, Field, TypeAdapter, WithJsonSchema
from pydantic_core import SchemaValidator, core_schema

MAX_URL_LENGTH = 8_192

# As pydantic's `AnyHttpUrl`, without an object of Python around each.
_PARSER = SchemaValidator(core_schema.url_schema(allowed_schemes=["http", "https"]))


def _normalize(text: str) -> str:
    # WHATWG parsing at the border, so that the odd spellings of a host (hexadecimal, full-width)
    # are gone before anything compares, groups or connects by it.
    return str(_PARSER.validate_python(text))


HttpUrl = Annotated[
    str,
    Field(min_length=1, max_length=MAX_URL_LENGTH),
    AfterValidator(_normalize),
    WithJsonSchema({"type": "string", "format": "uri", "minLength": 1, "maxLength": MAX_URL_LENGTH}),
]

_URL = TypeAdapter[str](HttpUrl)


def normalize_url(text: str) -> str:
    """Return a URL as jobs carry it: absolute, ASCII, one spelling of each host.

    Raises:
        ValueError: it is not an absolute http or https URL, or too long.
    """
    return _URL.validate_python(text)


def url_host(url: str) -> str:
    """Return the host of a normalized URL, lower case, without port or brackets."""
    return (_PARSER.validate_python(url).host or "").strip("[]")


def url_origin(url: str) -> tuple[str, str, int | None]:
    """Return the origin of a URL (RFC 6454): scheme, host in lower case, port.

    Raises:
        ValueError: it is not an absolute http or https URL.
    """
    parsed = _PARSER.validate_python(url)
    return parsed.scheme, parsed.host or "", parsed.port
