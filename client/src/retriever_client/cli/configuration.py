r"""What the command line is told by files: `retriever.toml`, or `[tool.retriever]` in `pyproject.toml`.

    url = "https://retriever.example.com"

    [check]
    fail-on = "broken"
    exclude = ["^https://example\\.com/"]

    [hosts."www.example.com"]
    statuses = [403]

The nearest file from here upwards counts, and it alone. A name that is not known is an error: a typing error
must not be a setting that does nothing. Keys of the API are never in it.
"""

import difflib
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from retriever_client.errors import RetrieverError


class ConfigurationInvalid(RetrieverError):
    """A file says what cannot be."""


@dataclass(frozen=True, slots=True)
class HostSettings:
    """How links to one host are checked.

    Attributes:
        statuses: Good ones, each a number, or a range such as `200-299`.
        headers: What is sent along; a value may be `{secret = "name"}`.
        skip: Whether its links are not asked about.
    """

    statuses: tuple[int | str, ...] = ()
    headers: Mapping[str, Any] = field(default_factory=dict)
    skip: bool = False

    @property
    def shown(self) -> str:
        """What is told of it, without the values of headers."""
        parts = {"statuses": list(self.statuses), "headers": [*self.headers], "skip": self.skip}
        return " ".join(f"{name}={value}" for name, value in parts.items() if value)

    @property
    def args(self) -> dict[str, Any]:
        """What a check of one of its URLs has beside the URL."""
        given = {"statuses": list(self.statuses), "headers": dict(self.headers)}
        return {name: value for name, value in given.items() if value}


_UNSAID: Final = HostSettings()
_PORTS: Final = {"http": ":80", "https": ":443"}


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a file says; `path` is None when there is none.

    Attributes:
        check: Options of `retriever check`, by their names without the dashes before them.
        hosts: Of hosts, by their names in lower case, with the port where that is not the scheme's own.
    """

    path: Path | None = None
    url: str | None = None
    timeout_seconds: float | None = None
    check: Mapping[str, Any] = field(default_factory=dict)
    hosts: Mapping[str, HostSettings] = field(default_factory=dict)

    def host_of(self, url: str) -> HostSettings:
        """Return what is said of the host of a URL."""
        if not self.hosts:
            return _UNSAID
        parts = urlsplit(url)
        name = parts.netloc.rpartition("@")[2].lower()
        return self.hosts.get(name.removesuffix(_PORTS.get(parts.scheme.lower(), "")), _UNSAID)


_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "url": (str,),
    "timeout_seconds": (int, float),
    "check": (dict,),
    "hosts": (dict,),
}
_OF_HOSTS: Final[dict[str, tuple[type, ...]]] = {"statuses": (list,), "headers": (dict,), "skip": (bool,)}


def find_configuration(start: Path) -> Configuration:
    """Return what the nearest file says, from a folder upwards.

    Raises:
        ConfigurationInvalid: it cannot be read, or has a name or a value that it may not have.
    """
    for folder in (start, *start.parents):
        own, shared = folder / "retriever.toml", folder / "pyproject.toml"
        if own.is_file():
            return _checked(own, _read(own))
        if shared.is_file() and (table := _read(shared).get("tool", {}).get("retriever")) is not None:
            return _checked(shared, table)
    return Configuration()


def check_names(path: Path | None, where: str, given: Collection[str], known: Collection[str]) -> None:
    """Return when all names are known.

    Raises:
        ConfigurationInvalid: one is not; what was perhaps meant is in its words.
    """
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
            raise ConfigurationInvalid(f"{path}: there is no setting {where}{name!r}; {hint}")


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationInvalid(f"{path}: {error}") from error


def _checked(path: Path, table: Any) -> Configuration:
    if not isinstance(table, dict):
        raise ConfigurationInvalid(f"{path}: tool.retriever is no table")
    _check_types(path, "", table, _TYPES)
    hosts = {}
    for host, said in table.get("hosts", {}).items():
        where = f'hosts."{host}".'
        if not isinstance(said, dict):
            raise ConfigurationInvalid(f"{path}: {where.rstrip('.')} is no table")
        _check_types(path, where, said, _OF_HOSTS)
        hosts[host.lower()] = HostSettings(
            tuple(said.get("statuses", ())), said.get("headers", {}), said.get("skip", False)
        )
    return Configuration(**{**table, "path": path, "hosts": hosts})


def _check_types(path: Path, where: str, table: dict[str, Any], types: dict[str, tuple[type, ...]]) -> None:
    check_names(path, where, table, types)
    for name, value in table.items():
        if not isinstance(value, types[name]) or (isinstance(value, bool) and bool not in types[name]):
            raise ConfigurationInvalid(f"{path}: {where}{name} cannot be {value!r}")
