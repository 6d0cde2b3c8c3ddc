"""What a webhook may be told to send, and the secrets that sign it."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from shared.errors import SettingsInvalid
from shared.kinds.registry import args_document
from shared.kinds.webhook import MAX_DATA_BYTES, WEBHOOK_RETRY, WebhookArgs
from shared.retry import delay_step_seconds, wait_seconds
from shared.settings import read_settings
from tests.support.factories import make_webhook_secret

ARGS = {
    "url": "https://hooks.example.com/",
    "type": "invoice.paid",
    "timestamp": "2026-01-02T12:00:00Z",
    "data": {"invoice": 7},
}
VARIABLE = "RETRIEVER_WEBHOOK_SECRETS"
DAY_SECONDS = 86_400


def read(**changed: Any) -> WebhookArgs:
    return WebhookArgs.model_validate_json(json.dumps(ARGS | changed), strict=True)


def test_arguments_are_stored_as_they_were_sent() -> None:
    assert args_document(read()) == ARGS


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("url", "ftp://hooks.example.com/"),
        ("url", "https://user:password@hooks.example.com/"),
        ("url", "https://user@hooks.example.com/"),
        ("type", ""),
        ("type", "invoice..paid"),
        ("type", ".paid"),
        ("type", "invoice paid"),
        ("type", "invoice.paid\n"),
        ("type", "a" * 101),
        ("timestamp", "2026-01-02T12:00:00"),
        ("timestamp", "yesterday"),
        ("data", []),
        ("data", None),
        ("data", {"text": "x" * MAX_DATA_BYTES}),
        ("timeout_seconds", 0),
    ],
)
def test_a_wrong_argument_is_refused_by_its_name(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as raised:
        read(**{field: value})

    assert {error["loc"][0] for error in raised.value.errors()} == {field}


@pytest.mark.parametrize("data", ['{"x": NaN}', '{"x": 1e999}'])
def test_data_that_json_cannot_say_is_refused(data: str) -> None:
    body = json.dumps(ARGS).replace('{"invoice": 7}', data)

    with pytest.raises(ValidationError, match="Must be JSON"):
        WebhookArgs.model_validate_json(body)


def test_a_webhook_is_tried_after_seconds_at_first_and_after_hours_at_last_for_about_a_day() -> None:
    waits = [
        delay_step_seconds(wait_seconds(WEBHOOK_RETRY, attempt, retry_after_seconds=None, random=lambda: 0.5))
        for attempt in range(1, WEBHOOK_RETRY.max_attempts)
    ]

    assert waits[:4] == [1, 3, 8, 25]
    assert waits[-1] == 21_600
    assert 0.7 * DAY_SECONDS < sum(waits) < 1.3 * DAY_SECONDS


@pytest.mark.parametrize("between", [",", ", ", "\n"])
def test_secrets_are_read_from_a_variable_or_a_file_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, between: str
) -> None:
    first, second = make_webhook_secret(24), make_webhook_secret(64)
    monkeypatch.setenv(VARIABLE, f"{first}{between}{second}\n")

    settings = read_settings()

    assert [secret.get_secret_value() for secret in settings.webhook_secrets] == [first, second]
    assert first not in repr(settings) and second not in repr(settings)


@pytest.mark.parametrize(
    "wrong",
    [
        "whsec_",
        "whsec_c2hvcnQ=",
        make_webhook_secret().removeprefix("whsec_"),
        make_webhook_secret(23),
        make_webhook_secret(65),
        make_webhook_secret()[:-3],
        f"{make_webhook_secret()}!",
    ],
    # Secrets are random, and two processes must collect the same names.
    ids=["no key", "far too short", "no mark", "too short", "too long", "cut", "no base64"],
)
def test_a_malformed_secret_stops_the_start_and_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.setenv(VARIABLE, f"{make_webhook_secret()},{wrong}")

    with pytest.raises(SettingsInvalid) as raised:
        read_settings()

    assert str(raised.value).startswith(f"{VARIABLE}: ") and "number 2" in str(raised.value)
    assert wrong not in str(raised.value) or wrong == "whsec_"
