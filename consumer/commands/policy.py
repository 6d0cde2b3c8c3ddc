"""What the operator of this process lets commands do: programs, shell, variables, limits, user, folders."""

import os
import pwd
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from shared.errors import SettingsInvalid
from shared.kinds.command import CommandArgs, CommandLimits
from shared.settings import Settings

EVERY_PROGRAM = "*"
SHELL = "/bin/sh"
SEARCH_PATH = "/usr/local/bin:/usr/bin:/bin"
_ORDINARY_USER = "nobody"
_SHOWN_LENGTH = 100
# CHOWN, KILL, SETGID and SETUID (capabilities(7)).
_CAPABILITIES_TO_CHANGE_USER = 1 << 0 | 1 << 5 | 1 << 6 | 1 << 7


@dataclass(frozen=True, slots=True)
class CommandPolicy:
    """What commands may do here. Nothing of it can be widened by a job.

    Attributes:
        programs: The names and absolute paths of programs that jobs may run; `*` is every program.
        allows_shell: Whether jobs may send a line for the shell, and so run every program.
        variables: The names of the environment variables that jobs may set.
        ceilings: The most that a job may ask for.
        readable: Paths beside the system's that commands may read and execute.
        has_network: Whether commands may open sockets.
        user: The numbers of user and group that commands run as; None for those of this process.
        folder: Where working folders are made.
    """

    programs: frozenset[str]
    allows_shell: bool
    variables: frozenset[str]
    ceilings: CommandLimits
    readable: tuple[str, ...]
    has_network: bool
    user: tuple[int, int] | None
    folder: Path

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the policy of this process.

        Raises:
            SettingsInvalid: no program is allowed, or commands cannot run as the user that is named.
        """
        programs = frozenset(settings.command_programs)
        if not programs and not settings.command_shell:
            raise SettingsInvalid(
                "RETRIEVER_COMMAND_PROGRAMS: name the programs that commands may run, by name or absolute "
                "path, or * for all"
            )
        return cls(
            programs=programs,
            allows_shell=settings.command_shell,
            variables=frozenset(settings.command_env),
            ceilings=CommandLimits(
                cpu_seconds=settings.command_max_cpu_seconds,
                memory_bytes=settings.command_max_memory_bytes,
                file_bytes=settings.command_max_file_bytes,
                processes=settings.command_max_processes,
                open_files=settings.command_max_open_files,
            ),
            readable=tuple(str(path) for path in settings.command_read),
            has_network=settings.command_network,
            user=_user(settings.command_user),
            folder=settings.command_folder
            or Path(tempfile.gettempdir()) / f"retriever-commands-{os.geteuid()}",
        )

    def refusal(self, args: CommandArgs) -> str | None:
        """Return why the operator does not allow it, as a sentence; None when it is allowed."""
        if args.shell is not None and not self.allows_shell:
            return "Lines for the shell are not allowed here: send argv (RETRIEVER_COMMAND_SHELL)."
        if args.argv is not None and not self._allows_program(args.argv[0]):
            shown = _shown(args.argv[0])
            return f"{shown} is not a program that jobs may run here (RETRIEVER_COMMAND_PROGRAMS)."
        for name in args.env:
            if name not in self.variables:
                return f"Jobs may not set the variable {name} here (RETRIEVER_COMMAND_ENV)."
        for name in args.limits.model_fields_set:
            asked, most = getattr(args.limits, name), getattr(self.ceilings, name)
            if asked > most:
                setting = f"RETRIEVER_COMMAND_MAX_{name.upper()}"
                return (
                    f"The job asks for {asked:,} {name}, and at most {most:,} are allowed here ({setting})."
                )
        return None

    def program(self, args: CommandArgs) -> str | None:
        """Return the path of the program to execute, None when there is none."""
        return SHELL if args.argv is None else _found(args.argv[0])

    def limits(self, asked: CommandLimits) -> CommandLimits:
        """Return the limits of a job: what it asks for, or the defaults where they are allowed."""
        return CommandLimits(
            **{name: min(value, getattr(self.ceilings, name)) for name, value in asked.model_dump().items()}
        )

    def environment(self, args: CommandArgs, folder: str) -> Mapping[str, str]:
        """Return all variables of a command. None is taken from this process, whose own hold secrets."""
        own = {"PATH": SEARCH_PATH, "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8", "TZ": "UTC"}
        return {**own, **args.env}

    def _allows_program(self, name: str) -> bool:
        if self.allows_shell or EVERY_PROGRAM in self.programs or name in self.programs:
            return True
        # Listed by its path and asked for by its name, or the other way round.
        path = _found(name)
        return path is not None and path in self.programs | {_found(listed) for listed in self.programs}


def _found(name: str) -> str | None:
    # What is named by a path from the working folder is not there: the folder is empty.
    if "/" in name and not name.startswith("/"):
        return None
    return shutil.which(name, path=SEARCH_PATH)


def _shown(name: str) -> str:
    return repr(name if len(name) <= _SHOWN_LENGTH else f"{name[:_SHOWN_LENGTH]}…")


def _user(name: str) -> tuple[int, int] | None:
    """Return whom commands run as, None for the user of this process.

    Raises:
        SettingsInvalid: there is no such user, it is root, or this process cannot become it.
    """
    if os.geteuid() != 0:
        own = _entry(str(os.geteuid()))
        if name and (own is None or name not in {own.pw_name, str(own.pw_uid)}):
            raise SettingsInvalid("RETRIEVER_COMMAND_USER: only root can run commands as another user")
        return None
    entry = _entry(name or _ORDINARY_USER)
    if entry is None:
        raise SettingsInvalid(f"RETRIEVER_COMMAND_USER: there is no user {name or _ORDINARY_USER!r}")
    if entry.pw_uid == 0:
        raise SettingsInvalid("RETRIEVER_COMMAND_USER: commands never run as root; name another user")
    if not _can_change_user():
        raise SettingsInvalid(
            "RETRIEVER_COMMAND_USER: this process is root and may not become another user; "
            "start it as an ordinary user"
        )
    return entry.pw_uid, entry.pw_gid


def _entry(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError:
        return None


def _can_change_user() -> bool:
    lines = Path("/proc/self/status").read_text().splitlines()
    effective = next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)
    return effective & _CAPABILITIES_TO_CHANGE_USER == _CAPABILITIES_TO_CHANGE_USER
