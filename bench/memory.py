"""Resident memory of processes, watched while something happens. Linux only: it reads /proc."""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_EVERY_SECONDS = 0.1
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MEBIBYTE = 1_048_576


class MemoryWatch:
    """The peaks of processes by phase; they are sampled, so a peak of some milliseconds goes unseen."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        """Watch processes by their names; nothing is sampled yet."""
        self._pids = pids
        self._start = {name: resident_bytes(pid) for name, pid in pids.items()}
        self._peaks: dict[str, dict[str, int]] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Sample in a thread while inside, for the peaks of this phase."""
        peaks = self._peaks[name] = {process: resident_bytes(pid) for process, pid in self._pids.items()}
        over = threading.Event()

        def sample() -> None:
            while not over.wait(_EVERY_SECONDS):
                for process, pid in self._pids.items():
                    peaks[process] = max(peaks[process], resident_bytes(pid))

        thread = threading.Thread(target=sample, name=f"memory-{name}")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def report(self) -> dict[str, dict[str, float]]:
        """Return MiB by process: at the start, the peak of each phase, and the growth over all of them."""
        return {
            process: {
                "start": _mebibytes(start),
                **{f"peak_{phase}": _mebibytes(peaks[process]) for phase, peaks in self._peaks.items()},
                "growth": _mebibytes(max(peaks[process] for peaks in self._peaks.values()) - start),
            }
            for process, start in self._start.items()
        }


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process, 0 when it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def _mebibytes(number: int) -> float:
    return round(number / _MEBIBYTE, 1)
