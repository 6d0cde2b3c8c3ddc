"""What a job names of its project's secrets, and what may be kept as one."""

import json
from typing import Any

import pytest

from producer.records import ClaimedJob
from producer.secrets import Named, checked_origins, checked_value, named_in, new_signing_secret, receiver_of
from shared.identity import new_id
from shared.kinds.registry import Lane
from shared.sealed import SecretUse

URL = "https://a.example/"


def claimed(args: dict[str, Any], *, kind: str = "fetch") -> ClaimedJob:
    text = json.dumps(args, separators=(",", ":"))
    return ClaimedJob(new_id(), kind, Lane.BULK, text, "{}", 1, None, None, "docs")


@pytest.mark.parametrize(
    ("args", "names"),
    [
        ({"url": URL, "headers": {"X-Key": {"secret": "a"}, "X-Plain": "secret"}}, {"a"}),
        ({"url": URL, "auth": {"type": "bearer", "token": {"secret": "b"}}}, {"b"}),
        (
            {
                "url": URL,
                "headers": {"A": {"secret": "a"}, "B": {"secret": "c"}},
                "auth": {"type": "basic", "username": "u", "password": {"secret": "b"}},
            },
            {"a", "b", "c"},
        ),
        ({"url": URL}, set()),
        ({"url": URL, "json": {"secret": "a"}}, set()),
        ({"url": URL, "headers": {"secret": "a"}}, set()),
        # Of a third party, and not as the kind has it.
        ({"url": URL, "headers": [{"secret": "a"}], "auth": "secret"}, set()),
        ({"url": URL, "headers": {"A": {"secret": 7}}, "auth": {"secret": {"secret": None}}}, set()),
        ({"url": f'{URL}"secret"', "headers": {"A": {"secret": "\ud800"}, "B": {"secret": "A B"}}}, set()),
    ],
)
def test_a_job_names_what_stands_in_its_headers_and_credentials(
    args: dict[str, Any], names: set[str]
) -> None:
    assert named_in(claimed(args)) == (Named(frozenset(names)) if names else None)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://hooks.example/a?b", "https://hooks.example"),
        ("http://hooks.example:8080/", "http://hooks.example:8080"),
        ("https://hooks.example:443/", "https://hooks.example"),
        ("https://[2001:db8::1]:8443/", "https://[2001:db8::1]:8443"),
        ("nowhere", None),
        (7, None),
        (None, None),
    ],
)
def test_a_webhook_is_signed_for_the_origin_of_its_receiver(url: object, origin: str | None) -> None:
    job = claimed({"data": {"url": "x"}, "url": url}, kind="webhook")

    assert (named_in(job), receiver_of(job)) == (Named(is_webhook=True), origin)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["https://A.example:443"], ("https://a.example",)),
        (
            ["https://b.example/", "http://a.example:80", "https://b.example"],
            ("http://a.example", "https://b.example"),
        ),
        (["https://bücher.example"], ("https://xn--bcher-kva.example",)),
        (["https://0x7f.1"], ("https://127.0.0.1",)),
        (["https://[2001:DB8::1]"], ("https://[2001:db8::1]",)),
    ],
)
def test_origins_have_one_spelling(given: list[str], kept: tuple[str, ...]) -> None:
    assert checked_origins(given) == kept


@pytest.mark.parametrize(
    "origin",
    [
        *("a.example", "https://", "ftp://a.example", "https://a.example/path", "https://a.example/?q"),
        *("https://a.example/#f", "https://user@a.example", "https://*.example/x", "", "null"),
    ],
)
def test_what_is_more_or_less_than_an_origin_is_refused(origin: str) -> None:
    with pytest.raises(ValueError, match="Must be an origin and no more"):
        checked_origins([origin])


def test_there_are_few_origins_and_one_at_least() -> None:
    with pytest.raises(ValueError, match="1 to 20 origins"):
        checked_origins([])
    with pytest.raises(ValueError, match="1 to 20 origins"):
        checked_origins(f"https://{n}.example" for n in range(21))


@pytest.mark.parametrize("value", ["", " a", "a\n", "a\nb", "\x7f", "a\0", "x" * 4_097, "ü" * 2_049])
def test_a_value_that_cannot_be_sent_is_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(ValueError, match=r"^Must (have 1 to|be without)") as error:
        checked_value(value, SecretUse.REQUEST)

    assert "xxx" not in str(error.value)


def test_a_signing_secret_is_as_the_standard_has_it() -> None:
    made = new_signing_secret()

    assert checked_value(made, SecretUse.WEBHOOK) == made
    for wrong in ("whsec_", "secret", made.removeprefix("whsec_"), "whsec_c2hvcnQ="):
        with pytest.raises(ValueError, match="whsec_ and the base64"):
            checked_value(wrong, SecretUse.WEBHOOK)
