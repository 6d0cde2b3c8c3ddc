"""The system calls of Linux that Python has no function for: prctl, Landlock, seccomp.

Nothing but the standard library is imported: the supervisor runs without site-packages.
"""

import ctypes
import errno
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

# AUDIT_ARCH of include/uapi/linux/audit.h, and the numbers of `socket` and `prlimit64`.
_FILTERED = {
    "x86_64": (0xC000003E, 41, 302),
    "aarch64": (0xC00000B7, 198, 261),
    "riscv64": (0xC00000F3, 198, 261),
}
_IO_URING_SETUP = 425
_NO_CALL = 0xFFFFFFFF
# In struct seccomp_data. Of the first argument, the lower half: what is asked about is an int.
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENT_AT = 0, 4, 16
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


def can_filter_calls() -> bool:
    """Return whether `filter_calls` knows this machine's system calls."""
    return os.uname().machine in _FILTERED


def filter_calls(*, has_network: bool) -> None:
    """Deny some system calls to this process and all that it will start; it must not gain privileges.

    Without network no socket can be opened, of any family; a pair of connected ones is no way out. The limits
    of other processes cannot be changed: with those of its worker a program could end it.
    """
    architecture, socket, prlimit = _FILTERED[os.uname().machine]
    # io_uring opens sockets without `socket`.
    denied = (_NO_CALL, _NO_CALL) if has_network else (socket, _IO_URING_SETUP)
    # Jumps count from the next line.
    program = b"".join(
        struct.pack("=HBBI", code, if_true, if_false, value)
        for code, if_true, if_false, value in (
            (_LOAD, 0, 0, _ARCHITECTURE_AT),
            (_IF_EQUAL, 0, 7, architecture),
            (_LOAD, 0, 0, _NUMBER_AT),
            (_IF_AT_LEAST, 5, 0, _X32),
            (_IF_EQUAL, 4, 0, denied[0]),
            (_IF_EQUAL, 3, 0, denied[1]),
            (_IF_EQUAL, 0, 3, prlimit),
            (_LOAD, 0, 0, _ARGUMENT_AT),
            (_IF_EQUAL, 1, 0, 0),
            (_RETURN, 0, 0, _FAIL | errno.EACCES),
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
