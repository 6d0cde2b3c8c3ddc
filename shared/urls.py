"""URLs as the URL Standard reads them (https://url.spec.whatwg.org): normalized, joined, taken apart.

Two libraries follow it. pydantic's parser is the faster one, and says what is wrong with a URL; ada also
joins. What is joined passes the parser too, so that one of them reads every host.
"""

import string
from typing import Annotated
from urllib.parse import quote_from_bytes

import ada_url
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError, SchemaValidator, core_schema

from shared.kinds.url_words import break_in, no_http_url, trimmed

MAX_URL_LENGTH = 8_192
TOO_LONG = f"it is longer than {MAX_URL_LENGTH:,} characters"

# As pydantic's `AnyHttpUrl`, without a Python object around each URL.
_PARSER = SchemaValidator(core_schema.url_schema(allowed_schemes=["http", "https"]))


def _normalize_url(text: str) -> str:
    # At the border, so that odd spellings of a host (hexadecimal, full-width) are gone before anything
    # compares, groups or connects by it.
    url = str(_PARSER.validate_python(text))
    # The Standard encodes it in paths since 2025; the parser does not yet (servo/rust-url issue 1140).
    return ada_url.normalize_url(url) if "^" in url else url


def _check_length(url: str) -> str:
    # Workers read what is written here by the same rule: what has grown would be parked.
    if len(url) > MAX_URL_LENGTH:
        raise PydanticCustomError(
            "url_too_long",
            "The URL has {length} characters once it is written in ASCII, and at most {limit} are taken",
            {"length": f"{len(url):,}", "limit": f"{MAX_URL_LENGTH:,}"},
        )
    return url


def _take_url(text: str) -> str:
    # Nearly all are printable, and hold nothing then that ends a line.
    if not text.isprintable():
        text = trimmed(text)
        if msg := break_in(text):
            raise PydanticCustomError("url", "{msg}", {"msg": msg})
    try:
        url = _normalize_url(text)
    except ValidationError as error:
        msg = no_http_url(text.lstrip()) or f"The URL cannot be used: {_why(error)}"
        raise PydanticCustomError("url", "{msg}", {"msg": msg}) from None
    return _check_length(url)


_LIMITED = Field(min_length=1, max_length=MAX_URL_LENGTH)

HttpUrl = Annotated[
    str,
    _LIMITED,
    AfterValidator(_take_url),
    WithJsonSchema({"type": "string", "format": "uri", "minLength": 1, "maxLength": MAX_URL_LENGTH}),
]

_FOUND_URL = TypeAdapter[str](
    Annotated[str, _LIMITED, AfterValidator(_normalize_url), AfterValidator(_check_length)]
)


class InvalidReference(ValueError):
    """A reference that leads to no URL which may be requested; its message, which ends a sentence, is why."""


def normalize_url(text: str) -> str:
    """Return a URL that a server wrote as jobs carry it: absolute, ASCII, one spelling of each host.

    Raises:
        ValueError: it is not an absolute http or https URL, or too long.
    """
    return _FOUND_URL.validate_python(text)


def join_url(reference: str, *, base: str) -> str:
    """Return the URL to which a server's reference leads: a redirect, a link, the next page.

    Args:
        reference: What it wrote, even with octets beyond ASCII, which come as UTF-8 or as `surrogateescape`
            and leave percent-encoded.
        base: A normalized URL.

    Raises:
        InvalidReference: that is not an http or https URL, or too long.
    """
    try:
        octets = reference.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidReference("it is not text") from None
    text = quote_from_bytes(octets, safe=string.printable) if not reference.isascii() else reference
    try:
        return normalize_url(ada_url.join_url(base, text))
    except ValidationError as error:
        raise InvalidReference(_why(error)) from None
    except ValueError:
        raise InvalidReference(_why_not_joined(text, base)) from None


def _why_not_joined(reference: str, base: str) -> str:
    # ada does not say. Only what names a host cannot be joined, so the parser is asked about that host.
    host_relative = f"{base.partition(':')[0]}://{reference.lstrip(_BEFORE_HOST)}"
    for absolute in (reference, host_relative):
        try:
            normalize_url(absolute)
        except ValidationError as error:
            if (why := _why(error)) != _RELATIVE:
                return why
    return "it cannot be read as a URL"


_BEFORE_HOST = string.whitespace + "/\\"


_RELATIVE = "relative URL without a base"
_WORDS = {
    "empty host": "it names no host",
    "invalid domain character": "its host is not a valid name",
    "invalid international domain name": "its host is not a valid name",
    "invalid port number": "its port is not a number up to 65,535",
}


def _why(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    match first["type"]:
        case "url_scheme":
            return "its scheme is not http or https"
        case "url_parsing":
            why = str(first["ctx"]["error"])
            return _WORDS.get(why, why)
        case _:
            return TOO_LONG


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


def origin_words(url: str) -> str:
    """Return the origin of a normalized URL as people write it: without the port that the scheme has."""
    return str(ada_url.URL(url).origin)


def url_query(url: str) -> str:
    """Return the query of a URL as it stands there; empty without one."""
    return _PARSER.validate_python(url).query or ""


def with_query(url: str, query: str) -> str:
    """Return a normalized URL with another query, in which only what no query may hold is percent-encoded."""
    return ada_url.replace_url(url, search=query)


def url_fragment(url: str) -> str:
    """Return the fragment of a normalized URL as it stands there; empty without one."""
    return url.partition("#")[2]


def has_credentials(url: str) -> bool:
    """Return whether a normalized URL holds a user name or a password."""
    if "@" not in url:
        return False
    parsed = _PARSER.validate_python(url)
    return parsed.username is not None or parsed.password is not None


def without_credentials(url: str) -> str:
    """Return a normalized URL without user name and password."""
    return ada_url.replace_url(url, username="", password="") if has_credentials(url) else url


def with_credentials_of(owner: str, url: str) -> str:
    """Return a normalized URL with user name and password of another, and none when that has none."""
    if not has_credentials(owner):
        return without_credentials(url)
    own = ada_url.URL(owner)
    return ada_url.replace_url(url, username=own.username, password=own.password)
