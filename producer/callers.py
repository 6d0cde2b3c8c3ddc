"""Who asks something of the API, and what they may do. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from producer.parking import ANONYMOUS
from shared import messages
from shared.kinds.command import COMMAND
from shared.kinds.task import TASK

DEFAULT_PROJECT: Final = messages.DEFAULT_PROJECT
"""Where work belongs that nobody gave another project."""

PROJECT_PATTERN: Final = messages.PROJECT_PATTERN


class Scope(StrEnum):
    """What a caller may do; a scope token of RFC 6749 section 3.3."""

    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    JOBS_OPERATE = "jobs:operate"
    TASKS_PICK = "tasks:pick"
    COMMANDS_RUN = "commands:run"
    KEYS_ADMIN = "keys:admin"
    SECRETS_ADMIN = "secrets:admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """One caller, known by a key, a token, or not at all.

    Attributes:
        actor: Who it is, as the audit log keeps it.
        project: What it may see belongs to this project; None for an operator, who sees all projects.
        scopes: What it may do.
        rate_per_second: How many requests it may send; None for the rate of all keys.
    """

    actor: str
    project: str | None
    scopes: frozenset[Scope]
    rate_per_second: int | None = None

    @property
    def home(self) -> str:
        """The project of what it hands in."""
        return self.project or DEFAULT_PROJECT


def runs_program(kind: str, arguments: Iterable[object]) -> bool:
    """Return whether a job of a kind runs a program with any of these arguments: a command, in a task too."""
    if kind == TASK:
        return any(isinstance(each, Mapping) and each.get("command") is not None for each in arguments)
    return kind == COMMAND


NOBODY: Final = Caller(ANONYMOUS, None, frozenset(Scope))
"""Whoever reaches a service that asks for no key yet."""


def scoped(name: str, project: str) -> str:
    """Return a name as it is kept where each project has names of its own.

    Those of the default project are kept as they are, as all were before there were projects.
    """
    return name if project == DEFAULT_PROJECT else f"{name}@{project}"


def unscoped(name: str) -> tuple[str, str]:
    """Return the project and the name that `scoped` put together; the name has no `@`."""
    own, _, project = name.partition("@")
    return project or DEFAULT_PROJECT, own


def wire_project(project: str) -> str | None:
    """Return a project as messages say it: None for the default one."""
    return None if project == DEFAULT_PROJECT else project
