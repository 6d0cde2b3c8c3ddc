"""Settings, read once at start from `RETRIEVER_*` variables or the files that `RETRIEVER_*_FILE` name."""

import os
from collections.abc import Mapping
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from shared.broker.addresses import split_hosts
from shared.errors import SettingsInvalid
from shared.hosts import MAX_CONCURRENCY, HostLimit, NamedLimit, NetworkLimit, parse_limit
from shared.kinds.command import VariableName
from shared.kinds.task import DEFAULT_QUEUE, PickOrder, QueueName
from shared.messages import ProjectName
from shared.setting_values import (
    BAD_PORTS,
    AbsolutePath,
    ApiUrl,
    ContactUrl,
    HostPattern,
    HostRate,
    ManagementUrl,
    NameServer,
    ProviderUrl,
    RandomKey,
    RandomKeys,
    SigningAlgorithm,
    UserAgent,
    WebhookSecrets,
    WebOrigin,
)
from shared.tls import tls_context

PREFIX = "RETRIEVER_"
MAX_BUNDLE_JOBS = 100
"""No ledger puts more jobs into one message, so a message with more is nobody's of ours."""


class LogFormat(StrEnum):
    """`json` for machines, `console` for people."""

    JSON = "json"
    CONSOLE = "console"


class AuthMode(StrEnum):
    """Who needs a key: `auto` asks nobody on loopback until the first key is made, `required` everybody."""

    AUTO = "auto"
    REQUIRED = "required"


class RunTokenPolicy(StrEnum):
    """Whether reports of stored jobs must bring the token that the job travelled with."""

    REQUIRED = "required"
    OPTIONAL = "optional"


class Settings(BaseSettings):
    """All settings of all processes; `.env.example` lists them with unit and default."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    amqp_url: str = "amqp://guest:guest@127.0.0.1:5672/"
    amqp_plain: bool = False
    http_plain: bool = False
    database_url: str = "sqlite:///.run/retriever.db"

    management_url: ManagementUrl | None = None
    no_tls_hosts: Annotated[tuple[str, ...], NoDecode] = ()

    api_host: str = "127.0.0.1"
    api_port: Annotated[int, Field(ge=1, le=65_535)] = 8_080
    api_max_body_bytes: Annotated[int, Field(ge=1_024)] = 1_048_576
    api_max_batch_bytes: Annotated[int, Field(ge=1_024)] = 268_435_456
    api_body_idle_seconds: Annotated[float, Field(gt=0)] = 15.0
    api_body_seconds: Annotated[float, Field(gt=0)] = 30.0
    api_unread_seconds: Annotated[float, Field(gt=0)] = 30.0
    api_header_seconds: Annotated[float, Field(gt=0)] = 15.0
    api_max_connections: Annotated[int, Field(ge=10, le=1_000_000)] = 10_000

    api_allowed_hosts: Annotated[tuple[HostPattern, ...], NoDecode] = ()
    api_allowed_origins: Annotated[tuple[WebOrigin, ...], NoDecode] = ()

    # The newest first; it seals. A key never shows its value when it is printed or logged.
    encryption_keys: Annotated[RandomKeys, NoDecode] = ()
    mask_key: RandomKey | None = None

    auth: AuthMode = AuthMode.AUTO
    oidc_issuer: ProviderUrl | None = None
    oidc_audience: Annotated[str, Field(max_length=500, validate_default=True)] = ""
    oidc_algorithms: Annotated[tuple[SigningAlgorithm, ...], NoDecode, Field(min_length=1)] = (
        SigningAlgorithm.RS256,
    )
    oidc_jwks_url: ProviderUrl | None = None
    oidc_project_claim: Annotated[str, Field(min_length=1, max_length=100)] = "project"

    # Half of the single jobs that one API process stores a second; a batch is one request.
    key_rate_per_second: Annotated[int, Field(ge=0, le=1_000_000)] = 1_000
    address_rate_per_second: Annotated[int, Field(ge=0, le=1_000_000)] = 0

    max_batches_at_once: Annotated[int, Field(ge=1, le=1_000)] = 16
    max_batch_jobs: Annotated[int, Field(ge=1, le=100_000_000)] = 1_000_000
    max_rejected_lines: Annotated[int, Field(ge=20, le=10_000_000)] = 10_000
    max_schedules: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000
    min_schedule_seconds: Annotated[int, Field(ge=1, le=86_400)] = 1
    schedule_jobs_per_second: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    max_operations: Annotated[int, Field(ge=1, le=10_000)] = 20

    agent_host: str = "127.0.0.1"
    agent_port: Annotated[int, Field(ge=0, le=65_535)] = 0

    health_host: str = "127.0.0.1"
    health_port: Annotated[int, Field(ge=0, le=65_535)] = 0
    health_allowed_hosts: Annotated[tuple[HostPattern, ...], NoDecode] = ()

    watchdog_seconds: Annotated[int, Field(ge=0, le=86_400)] = 120

    publish_window: Annotated[int, Field(ge=1, le=2_000)] = 1_000
    publish_timeout_seconds: Annotated[float, Field(gt=0)] = 10.0

    relay_poll_seconds: Annotated[float, Field(gt=0)] = 0.1
    relay_lease_seconds: Annotated[float, Field(gt=0)] = 60.0
    bundle_jobs: Annotated[int, Field(ge=1, le=MAX_BUNDLE_JOBS)] = 10
    publisher_projects: Annotated[Mapping[str, ProjectName], NoDecode] = {}
    run_tokens: RunTokenPolicy = RunTokenPolicy.REQUIRED
    released_jobs: Annotated[int, Field(ge=0, le=10_000_000)] = 20_000
    relay_page_jobs: Annotated[int, Field(ge=1, le=10_000)] = 1_000
    recorder_prefetch: Annotated[int, Field(ge=1, le=2_000)] = 500
    parked_check_seconds: Annotated[float, Field(gt=0)] = 300.0
    lost_after_seconds: Annotated[float, Field(gt=0)] = 120.0
    retention_days: Annotated[int, Field(ge=0, le=36_500)] = 30

    worker_interactive_prefetch: Annotated[int, Field(ge=1, le=2_000)] = 20
    worker_bulk_prefetch: Annotated[int, Field(ge=1, le=2_000)] = 100
    command_concurrency: Annotated[int, Field(ge=1, le=2_000)] = 1
    worker_grace_seconds: Annotated[float, Field(ge=0)] = 30.0
    compute_processes: Annotated[int, Field(ge=1, le=64)] = 2
    compute_cpu_seconds: Annotated[int, Field(ge=1, le=20)] = 5
    compute_memory_bytes: Annotated[int, Field(ge=134_217_728, le=17_179_869_184)] = 268_435_456
    inline_body_bytes: Annotated[int, Field(ge=0, le=1_048_576)] = 65_536
    user_agent: UserAgent = "Retriever/0.1"
    contact_url: ContactUrl = ""
    host_concurrency: Annotated[int, Field(ge=1, le=MAX_CONCURRENCY)] = 8
    host_rate_per_second: HostRate = 20.0
    host_limits: Annotated[tuple[NamedLimit | NetworkLimit, ...], NoDecode] = ()
    host_failures: Annotated[int, Field(ge=0, le=1_000_000)] = 10
    secrets_dir: Path | None = None

    # Every program, but no line for the shell, no variable and no path, until the operator names some.
    command_programs: Annotated[tuple[str, ...], NoDecode] = ("*",)
    command_shell: bool = False
    command_env: Annotated[tuple[VariableName, ...], NoDecode] = ()
    command_read: Annotated[tuple[AbsolutePath, ...], NoDecode] = ()
    command_network: bool = False
    command_user: str = ""
    command_folder: AbsolutePath | None = None
    command_max_cpu_seconds: Annotated[int, Field(ge=1, le=86_400)] = 3_600
    command_max_memory_bytes: Annotated[int, Field(ge=16_777_216, le=1_099_511_627_776)] = 4_294_967_296
    command_max_file_bytes: Annotated[int, Field(ge=0, le=1_099_511_627_776)] = 1_073_741_824
    command_max_processes: Annotated[int, Field(ge=1, le=10_000)] = 256
    command_max_open_files: Annotated[int, Field(ge=8, le=1_048_576)] = 1_024

    egress_allow: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = ()
    # The newest first. A secret never shows its value when it is printed or logged.
    webhook_secrets: Annotated[WebhookSecrets, NoDecode] = ()
    dns_timeout_seconds: Annotated[float, Field(ge=0.1, le=60)] = 5.0
    dns_servers: Annotated[tuple[NameServer, ...], NoDecode] = ()
    egress_deny_ports: Annotated[tuple[Annotated[int, Field(ge=0, le=65_535)], ...], NoDecode] = BAD_PORTS

    agent_api_url: ApiUrl = "http://127.0.0.1:8080"
    # What opens the API; never shown when it is printed or logged.
    agent_key: SecretStr | None = None
    agent_name: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._:@/-]*)?$", max_length=100)] = ""
    agent_queue: QueueName = DEFAULT_QUEUE
    agent_order: PickOrder = PickOrder.OLDEST
    agent_max_tasks: Annotated[int, Field(ge=1, le=100)] = 1
    agent_lease_seconds: Annotated[float, Field(ge=1, le=86_400)] = 60.0
    agent_wait_seconds: Annotated[float, Field(ge=0, le=60)] = 20.0
    agent_poll_seconds: Annotated[float, Field(ge=0.1, le=86_400)] = 5.0
    agent_handler: str = ""

    log_format: LogFormat = LogFormat.JSON
    log_level: str = "INFO"

    @property
    def full_user_agent(self) -> str:
        """What a worker calls itself: its name, and where to complain of it."""
        return f"{self.user_agent} (+{self.contact_url})" if self.contact_url else self.user_agent

    @property
    def default_host_limit(self) -> HostLimit:
        """The limit of hosts and addresses that `host_limits` does not name."""
        return HostLimit(self.host_concurrency, self.host_rate_per_second)

    @property
    def named_limits(self) -> list[NamedLimit]:
        """The limits of hosts by name."""
        return [limit for limit in self.host_limits if isinstance(limit, NamedLimit)]

    @property
    def network_limits(self) -> list[NetworkLimit]:
        """The limits of each address in a network."""
        return [limit for limit in self.host_limits if isinstance(limit, NetworkLimit)]

    @field_validator(
        "no_tls_hosts",
        "api_allowed_hosts",
        "api_allowed_origins",
        "health_allowed_hosts",
        "oidc_algorithms",
        "command_programs",
        "command_env",
        "command_read",
        "egress_allow",
        "egress_deny_ports",
        "dns_servers",
        "encryption_keys",
        "webhook_secrets",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        # Commas in a variable, lines in a file.
        return value.replace(",", " ").split() if isinstance(value, str) else value

    @field_validator("host_limits", mode="before")
    @classmethod
    def _parse_limits(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(parse_limit(entry) for entry in value.split(",") if entry.strip())

    @field_validator("publisher_projects", mode="before")
    @classmethod
    def _parse_pairs(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [pair.partition("=") for pair in value.replace(",", " ").split()]
        if not all(user and project for user, _, project in pairs):
            raise ValueError("must be pairs of a user and a project, such as crawler=web")
        projects = {user: project for user, _, project in pairs}
        if len(projects) < len(pairs):
            raise ValueError("must name each user once")
        return projects

    @field_validator(
        "agent_key",
        "mask_key",
        "command_folder",
        "secrets_dir",
        "management_url",
        "oidc_issuer",
        "oidc_jwks_url",
        mode="before",
    )
    @classmethod
    def _none_when_empty(cls, value: object) -> object:
        # Path("") would be the current folder.
        return value or None

    @field_validator("amqp_url")
    @classmethod
    def _amqp(cls, value: str) -> str:
        split_hosts(value)
        tls_context(value)
        return value

    @field_validator("oidc_audience")
    @classmethod
    def _audience_of_issuer(cls, value: str, info: ValidationInfo) -> str:
        if info.data.get("oidc_issuer") and not value:
            # Or tokens that were issued for other services would do here.
            raise ValueError("must be set where RETRIEVER_OIDC_ISSUER is")
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


def read_settings(**given: object) -> Settings:
    """Return the settings of this process; what was `given` on its command line goes before its variables.

    Raises:
        SettingsInvalid: a value is wrong or a named file cannot be read; names the variable, not the value.
    """
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        wrong = (f"{PREFIX}{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors(include_input=False))
        raise SettingsInvalid("; ".join(wrong)) from None


# Keys that open what others have stored. A group may read them, as containers' secret stores have it.
_FOR_THE_OWNER = frozenset({"encryption_keys", "mask_key"})
_OPEN_TO_OTHERS = 0o027
_KEY_IS_MISSING = " Make one, unless there was one: (umask 077; head -c 32 /dev/urandom | base64 > {path})"


class _NamedFiles(PydanticBaseSettingsSource):
    """Values from files, for Docker secrets: `RETRIEVER_AMQP_URL_FILE=/run/secrets/amqp_url`."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        name = f"{PREFIX}{field_name.upper()}_FILE"
        path = os.environ.get(name)
        if path is None:
            return None, field_name, False
        try:
            text = Path(path).read_text().strip()
            if field_name in _FOR_THE_OWNER and Path(path).stat().st_mode & _OPEN_TO_OTHERS:
                raise SettingsInvalid(f"{name}: {path} is open to others on this machine: chmod 600 {path}")
            if field_name in _FOR_THE_OWNER and not text:
                raise SettingsInvalid(f"{name}: {path} is empty; there was, or ought to be, a key in it")
        except OSError as error:
            made = _KEY_IS_MISSING.format(name=name, path=path) if field_name in _FOR_THE_OWNER else ""
            raise SettingsInvalid(
                f"{name}: cannot read {path}: {error.strerror}.{made}".rstrip(".")
            ) from error
        return text, field_name, False

    def __call__(self) -> dict[str, Any]:
        values = {
            name: self.get_field_value(field, name)[0]
            for name, field in self.settings_cls.model_fields.items()
        }
        return {name: value for name, value in values.items() if value is not None}
