"""The `webhook` kind: tell a URL that something has happened, as Standard Webhooks say.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from shared.retry import RetryPolicy
from shared.times import Rfc3339Time
from shared.urls import MAX_URL_LENGTH, HttpUrl, has_credentials

WEBHOOK: Final = "webhook"

# A fetched page fits, a fetched megabyte does not; receivers prefer even less.
MAX_DATA_BYTES = 262_144
MAX_TYPE_LENGTH = 100
TYPE_PATTERN = r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$"

# 1, 3 and 9 seconds at first, then minutes and hours, about a day in all; with jitter, rounded up to steps.
WEBHOOK_RETRY = RetryPolicy(max_attempts=13, first_delay_seconds=1, factor=3, max_delay_seconds=21_600)


def encode_json(value: Any) -> str:
    r"""Return JSON as it is sent: compact and ASCII, so that any text, lone surrogates too, has a form.

    Raises:
        ValueError: it holds a number that JSON cannot say.
        RecursionError: it is nested too deeply.
    """
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def fits(data: Mapping[str, Any]) -> bool:
    """Return whether data may be sent; it is valid JSON."""
    return len(encode_json(data)) <= MAX_DATA_BYTES


def _check_data(data: dict[str, Any]) -> dict[str, Any]:
    try:
        is_small = fits(data)
    except (ValueError, RecursionError):
        raise ValueError("Must be JSON, not nested too deeply") from None
    if not is_small:
        raise ValueError(f"Must be at most {MAX_DATA_BYTES:,} bytes of JSON, all characters in ASCII")
    return data


def _check_no_credentials(url: str) -> str:
    if has_credentials(url):
        raise ValueError("Must be without user and password: a webhook proves itself by its signature")
    return url


WebhookUrl = Annotated[
    HttpUrl,
    AfterValidator(_check_no_credentials),
    WithJsonSchema({"type": "string", "format": "uri", "minLength": 1, "maxLength": MAX_URL_LENGTH}),
]


class WebhookArgs(BaseModel):
    """The receiver and the message: `type`, `timestamp` and `data` are the body that is sent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: Annotated[WebhookUrl, Field(description="Without credentials. Redirects are not followed.")]
    type: Annotated[
        str,
        Field(
            max_length=MAX_TYPE_LENGTH,
            pattern=TYPE_PATTERN,
            description="What has happened, such as `invoice.paid`: names with full stops between.",
        ),
    ]
    timestamp: Annotated[Rfc3339Time, Field(description="When it happened, not when it is sent.")]
    data: Annotated[
        dict[str, Any],
        AfterValidator(_check_data),
        Field(description=f"The details: at most {MAX_DATA_BYTES:,} bytes."),
    ]
    timeout_seconds: Annotated[float, Field(ge=0.1, le=300, description="Limit of one attempt.")] = 15.0


class WebhookResult(BaseModel):
    """How the receiver answered."""

    model_config = ConfigDict(frozen=True)

    status: Annotated[int | None, Field(description="Null when there was no answer.")] = None
    seconds: Annotated[float, Field(description="How long the attempt took.")]
