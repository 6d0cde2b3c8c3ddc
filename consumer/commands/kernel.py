"""The system calls of Linux that Python has no function for: prctl, Landlock, seccomp.

Nothing but the standard library is imported: the supervisor runs without site-packages.
"""

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP = 22
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

# The same on every architecture (include/uapi/asm-generic/unistd.h).
_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_ADD_RULE = 445
_LANDLOCK_RESTRICT_SELF = 446
_GET_VERSION = 1
_PATH_BENEATH = 1

# include/uapi/linux/landlock.h
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_FIRST_RIGHTS = (1 << 13) - 1
# The kernel's version of Landlock that added a right.
_LATER_RIGHTS = {2: 1 << 13, 3: _TRUNCATE, 5: _IOCTL_DEV}
_RIGHTS_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_SCOPES_SINCE = 6
# No abstract Unix socket and no signal leaves the sandbox.
_SCOPES = 0b11

READ = _READ_FILE | _READ_DIR
RUN = READ | _EXECUTE
USE = _READ_FILE | _WRITE_FILE | _IOCTL_DEV
ALL = ~0

# AUDIT_ARCH of include/uapi/linux/audit.h, and the number of `socket`.
_SOCKET_CALLS = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198), "riscv64": (0xC00000F3, 198)}
_IO_URING_SETUP = 425
# The numbers of the x32 ABI begin here, and would be a way around.
_X32 = 0x40000000
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_SECCOMP_MODE_FILTER = 2

_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Adopt the descendants of this process whose parents die."""
    _call(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def hide_process() -> None:
    """Let no process of the same user read this one's environment and memory, and write no core."""
    _call(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))


def signal_when_orphaned(number: int) -> None:
    """Send this process a signal when the thread that made it ends. A change of the user takes that back."""
    _call(_libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0))


def gain_no_privileges() -> None:
    """Let no program that this process executes give it more rights: setuid programs do not."""
    _call(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def landlock_version() -> int:
    """Return which version of Landlock the kernel has, 0 for none."""
    found: int = _libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _GET_VERSION)
    return max(0, found)


def make_ruleset(allowed: Iterable[tuple[str, int]]) -> int | None:
    """Return the descriptor of a ruleset that allows nothing but this; None where there is no Landlock.

    Args:
        allowed: Paths, each with what may be done there and below: `READ`, `RUN`, `USE` or `ALL`. What is
            missing is left out.
    """
    version = landlock_version()
    if version == 0:
        return None
    rights = _FIRST_RIGHTS | sum(right for since, right in _LATER_RIGHTS.items() if since <= version)
    has_scopes = version >= _SCOPES_SINCE
    attributes = struct.pack("=QQQ", rights, 0, _SCOPES) if has_scopes else struct.pack("=Q", rights)
    ruleset = _call(_libc.syscall(_LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0))
    for path, asked in allowed:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            of_path = rights if Path(path).is_dir() else rights & _RIGHTS_OF_FILES
            rule = struct.pack("=Qi", asked & of_path, place)
            _call(_libc.syscall(_LANDLOCK_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0))
        finally:
            os.close(place)
    return ruleset


def enforce_ruleset(ruleset: int) -> None:
    """Hold this process, and all that it will start, to a ruleset; it must not gain privileges."""
    _call(_libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0))


def can_deny_sockets() -> bool:
    """Return whether `deny_sockets` knows this machine's system calls."""
    return os.uname().machine in _SOCKET_CALLS


def deny_sockets() -> None:
    """Let this process, and all that it will start, open no socket of any family: `socket` fails.

    A pair of connected ones (`socketpair`) is no way out. It must not gain privileges.
    """
    architecture, number = _SOCKET_CALLS[os.uname().machine]
    # Offsets in struct seccomp_data: the number at 0, the architecture at 4. Jumps count from the next line.
    program = b"".join(
        struct.pack("=HBBI", code, if_true, if_false, value)
        for code, if_true, if_false, value in (
            (_LOAD, 0, 0, 4),
            (_IF_EQUAL, 0, 4, architecture),
            (_LOAD, 0, 0, 0),
            (_IF_AT_LEAST, 2, 0, _X32),
            (_IF_EQUAL, 1, 0, number),
            (_IF_EQUAL, 0, 1, _IO_URING_SETUP),
            (_RETURN, 0, 0, _FAIL | 13),
            (_RETURN, 0, 0, _ALLOW),
        )
    )
    filtering = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(filtering))
    _call(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0))


def _call(returned: int) -> int:
    if returned < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return returned
