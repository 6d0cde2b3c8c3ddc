"""What the command line is told by files: `retriever.toml`, or `[tool.retriever]` in `pyproject.toml`.

The nearest file from here upwards counts, and it alone. A name that is not known is an error: a typing error
must not be a setting that does nothing. Keys of the API are never in it.
"""

import difflib
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from retriever_client.errors import RetrieverError


class ConfigurationInvalid(RetrieverError):
    """A file says what cannot be."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a file says; `path` is None when there is none."""

    path: Path | None = None
    url: str | None = None
    timeout_seconds: float | None = None


_TYPES: dict[str, tuple[type, ...]] = {"url": (str,), "timeout_seconds": (int, float)}


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


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationInvalid(f"{path}: {error}") from error


def _checked(path: Path, table: dict[str, Any]) -> Configuration:
    known = [each.name for each in fields(Configuration) if each.name != "path"]
    for name, value in table.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
            raise ConfigurationInvalid(f"{path}: there is no setting {name!r}; {hint}")
        if not isinstance(value, _TYPES[name]) or isinstance(value, bool):
            raise ConfigurationInvalid(f"{path}: {name} cannot be {value!r}")
    return Configuration(path, **table)
