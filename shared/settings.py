"""Settings, read once at start from `RETRIEVER_*` variables or the files that `RETRIEVER_*_FILE` name."""

import os
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from shared.errors import SettingsInvalid

PREFIX = "RETRIEVER_"

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


class LogFormat(StrEnum):
    """`json` for machines, `console` for people."""

    JSON = "json"
    CONSOLE = "console"


class Settings(BaseSettings):
    """All settings of all processes; `.env.example` lists them with unit and default."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    amqp_url: str = "amqp://guest:guest@127.0.0.1:5672/"
    database_url: str = "sqlite:///.run/retriever.db"

    api_host: str = "127.0.0.1"
    api_port: Annotated[int, Field(ge=1, le=65_535)] = 8_080
    api_max_body_bytes: Annotated[int, Field(ge=1_024)] = 1_048_576
    api_max_batch_bytes: Annotated[int, Field(ge=1_024)] = 268_435_456
    api_body_idle_seconds: Annotated[float, Field(gt=0)] = 15.0

    health_host: str = "127.0.0.1"
    health_port: Annotated[int, Field(ge=0, le=65_535)] = 0

    publish_window: Annotated[int, Field(ge=1, le=2_000)] = 200
    publish_timeout_seconds: Annotated[float, Field(gt=0)] = 10.0

    relay_poll_seconds: Annotated[float, Field(gt=0)] = 0.1
    relay_lease_seconds: Annotated[float, Field(gt=0)] = 60.0
    relay_page_jobs: Annotated[int, Field(ge=1, le=10_000)] = 500
    recorder_prefetch: Annotated[int, Field(ge=1, le=2_000)] = 500
    parked_check_seconds: Annotated[float, Field(gt=0)] = 300.0
    retention_days: Annotated[int, Field(ge=0, le=36_500)] = 30

    worker_interactive_prefetch: Annotated[int, Field(ge=1, le=2_000)] = 20
    worker_bulk_prefetch: Annotated[int, Field(ge=1, le=2_000)] = 100
    worker_grace_seconds: Annotated[float, Field(ge=0)] = 30.0
    user_agent: str = "Retriever/0.1"
    secrets_dir: Path | None = None

    egress_allow: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = ()
    egress_deny_ports: Annotated[tuple[Annotated[int, Field(ge=0, le=65_535)], ...], NoDecode] = BAD_PORTS

    log_format: LogFormat = LogFormat.JSON
    log_level: str = "INFO"

    @field_validator("egress_allow", "egress_deny_ports", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return (
            [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        )

    @field_validator("secrets_dir", mode="before")
    @classmethod
    def _none_when_empty(cls, value: object) -> object:
        # Path("") would be the current folder.
        return value or None

    @field_validator("amqp_url")
    @classmethod
    def _amqp(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"amqp", "amqps"} or not parts.hostname:
            raise ValueError("must look like amqp://user:password@host:5672/vhost")
        return value

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        if value.upper() not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ValueError("must be DEBUG, INFO, WARNING or ERROR")
        return value.upper()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read variables first, then the files that `RETRIEVER_*_FILE` variables name."""
        return init_settings, env_settings, _NamedFiles(settings_cls)


def read_settings() -> Settings:
    """Return the settings of this process.

    Raises:
        SettingsInvalid: a value is wrong or a named file cannot be read; names the variable, not the value.
    """
    try:
        return Settings()
    except ValidationError as error:
        wrong = (f"{PREFIX}{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors(include_input=False))
        raise SettingsInvalid("; ".join(wrong)) from None


class _NamedFiles(PydanticBaseSettingsSource):
    """Values from files, for Docker secrets: `RETRIEVER_AMQP_URL_FILE=/run/secrets/amqp_url`."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        name = f"{PREFIX}{field_name.upper()}_FILE"
        path = os.environ.get(name)
        if path is None:
            return None, field_name, False
        try:
            return Path(path).read_text().strip(), field_name, False
        except OSError as error:
            raise SettingsInvalid(f"{name}: cannot read {path}: {error.strerror}") from error

    def __call__(self) -> dict[str, Any]:
        values = {
            name: self.get_field_value(field, name)[0]
            for name, field in self.settings_cls.model_fields.items()
        }
        return {name: value for name, value in values.items() if value is not None}
