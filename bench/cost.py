"""What processes cost: CPU seconds and peak memory. Linux only: it reads /proc."""

import os
from collections.abc import Iterable
from pathlib import Path

from deploy.local.processes import children

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_MEBIBYTE_OF_KIBIBYTES = 1_024


def family(pid: int) -> tuple[int, ...]:
    """Return a process and all that descend from it. Reads all of /proc, so not for every sample."""
    return (pid, *(member for child in children(pid) for member in family(child)))


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time of processes so far, user and system together; 0 of one that has ended."""
    return sum(_ticks(pid) for pid in pids) / _TICKS_A_SECOND


def peak_mebibytes(pids: Iterable[int]) -> float:
    """Return the peak of the largest process, as the kernel kept it.

    Not of all together: a supervisor and what it forked share most of their pages.
    """
    return round(max((_peak_kibibytes(pid) for pid in pids), default=0) / _MEBIBYTE_OF_KIBIBYTES, 1)


def _ticks(pid: int) -> int:
    try:
        # "pid (name) state ...": the name may hold blanks and brackets, so read from its end.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def _peak_kibibytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)
