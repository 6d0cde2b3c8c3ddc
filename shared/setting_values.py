"""What the values of settings must look like, where that takes more than a bound."""

import base64
import binascii
import re
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

from shared.allowed_hosts import check_host_pattern, check_origin
from shared.hosts import MAX_RATE_PER_SECOND, MIN_RATE_PER_SECOND
from shared.listening import is_loopback
from shared.tls import tls_context

# Standard Webhooks: at least 24 bytes, which nobody guesses, and at most 64, the block of SHA-256.
_WEBHOOK_MARK = "whsec_"
_MIN_KEY_BYTES = 24
_MAX_KEY_BYTES = 64


def _check_name_server(value: str) -> str:
    # 9.9.9.9, 9.9.9.9:5353, 2620:fe::fe or [2620:fe::fe]:5353
    matched = re.fullmatch(r"\[([0-9a-f:.]+)\](?::(\d{1,5}))?|([0-9.]+):(\d{1,5})|([0-9a-f:.]+)", value, re.I)
    if matched is None or int(matched[2] or matched[4] or 53) not in range(1, 65_536):
        raise ValueError("must be IP addresses with commas between, each with :port if it is not 53")
    ip_address(matched[1] or matched[3] or matched[5])
    return value


def _check_absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


AbsolutePath = Annotated[Path, AfterValidator(_check_absolute)]


NameServer = Annotated[str, AfterValidator(_check_name_server)]


HostPattern = Annotated[str, AfterValidator(check_host_pattern)]
WebOrigin = Annotated[str, AfterValidator(check_origin)]

# What may stand in a header field: no line feeds, and nothing that servers read differently.
UserAgent = Annotated[str, Field(pattern=r"^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$")]
# In a comment (RFC 9110 section 5.6.5), so without blanks and parentheses.
ContactUrl = Annotated[str, Field(pattern=r"^(?:(?:https?://|mailto:)[\x21-\x27\x2a-\x7e]+)?$")]


def is_webhook_secret(secret: str) -> bool:
    """Return whether a text is a secret that signs webhooks, as Standard Webhooks has them."""
    prefix, _, encoded = secret.partition(_WEBHOOK_MARK)
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return False
    return not prefix and _MIN_KEY_BYTES <= len(key) <= _MAX_KEY_BYTES


def _check_webhook_secrets(secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    for number, secret in enumerate(secrets, start=1):
        if not is_webhook_secret(secret.get_secret_value()):
            raise ValueError(
                f"number {number} is not {_WEBHOOK_MARK} and the base64 of "
                f"{_MIN_KEY_BYTES} to {_MAX_KEY_BYTES} bytes"
            )
    return secrets


WebhookSecrets = Annotated[tuple[SecretStr, ...], AfterValidator(_check_webhook_secrets)]

KEY_BYTES = 32


def _check_key(secret: SecretStr) -> SecretStr:
    try:
        key = base64.b64decode(secret.get_secret_value(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        how = f"head -c {KEY_BYTES} /dev/urandom | base64"
        raise ValueError(f"must be the base64 of {KEY_BYTES} random bytes: {how}")
    return secret


RandomKey = Annotated[SecretStr, AfterValidator(_check_key)]


def _check_different(keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    if len({key.get_secret_value() for key in keys}) < len(keys):
        raise ValueError("must name each key once")
    return keys


RandomKeys = Annotated[tuple[RandomKey, ...], AfterValidator(_check_different)]


def _check_management_url(secret: SecretStr) -> SecretStr:
    parts = urlsplit(secret.get_secret_value())
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must look like http://user:password@host:15672")
    tls_context(secret.get_secret_value())
    return secret


# It holds a password, and never shows its value when it is printed or logged.
ManagementUrl = Annotated[SecretStr, AfterValidator(_check_management_url)]


def _check_api_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("must look like http://host:8080")
    if parts.username is not None:
        raise ValueError("must be without a user and password: it is shown in logs")
    return value


ApiUrl = Annotated[str, AfterValidator(_check_api_url)]


def _check_provider_url(value: str) -> str:
    parts = urlsplit(value)
    if not parts.hostname or parts.query or parts.fragment or parts.username is not None:
        raise ValueError("must look like https://login.example.com/realms/us")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname)):
        # Whoever is on the way could put keys of their own into its answer.
        raise ValueError("must be https, or http on loopback")
    return value


ProviderUrl = Annotated[str, AfterValidator(_check_provider_url)]


class SigningAlgorithm(StrEnum):
    """What a token may be signed with (RFC 7518 section 3.1, RFC 8037): a key that only the provider has."""

    RS256 = "RS256"
    RS384 = "RS384"
    RS512 = "RS512"
    PS256 = "PS256"
    PS384 = "PS384"
    PS512 = "PS512"
    ES256 = "ES256"
    ES384 = "ES384"
    ES512 = "ES512"
    ED25519 = "Ed25519"
    EDDSA = "EdDSA"


def _not_too_slow(rate: float) -> float:
    if 0 < rate < MIN_RATE_PER_SECOND:
        raise ValueError(f"must be 0 or at least {MIN_RATE_PER_SECOND:g}")
    return rate


HostRate = Annotated[float, Field(ge=0, le=MAX_RATE_PER_SECOND), AfterValidator(_not_too_slow)]

# Mail, SSH, X11 and the like: the "bad ports" of the Fetch Standard, which no browser connects to.
# fmt: off
BAD_PORTS = (
    1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103,
    104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513,
    514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719,
    1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679,
    6697, 10080,
)
# fmt: on
