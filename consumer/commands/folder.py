"""The working folder of an attempt: made, measured and removed, whatever the program did to it.

Nothing but the standard library is imported: the supervisor runs without site-packages.
"""

import fcntl
import itertools
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_OWNER_ONLY = 0o700
# What is younger may be about to be locked by the supervisor that made it.
_STALE_SECONDS = 10.0
_BLOCK_BYTES = 512
_PAGE_ENTRIES = 1_000


@contextmanager
def working_folder(path: str, owner: tuple[int, int] | None) -> Iterator[None]:
    """Make a folder for its owner alone; remove it at the end.

    What cannot be removed is left to `remove_stale_folders`.
    """
    os.mkdir(path, _OWNER_ONLY)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            # Says that it is in use, for as long as this process lives.
            fcntl.flock(handle, fcntl.LOCK_EX)
            if owner is not None:
                os.fchown(handle, *owner)
            yield
        finally:
            os.close(handle)
    finally:
        with suppress(OSError):
            remove_folder(path)


def measure_folder(path: str, *, most_entries: int) -> tuple[int, int]:
    """Return how many bytes and entries a folder has on disk; counting ends above `most_entries`."""
    size = entries = 0
    # By paths, which have an end: what lies deeper than a path can say is counted as too many.
    left = [path]
    while left and entries <= most_entries:
        folder = left.pop()
        try:
            # One more than can still be counted, however many there are.
            listed = _scan(folder, most=most_entries + 1 - entries)
        except (FileNotFoundError, NotADirectoryError):
            # Gone since it was listed.
            continue
        except OSError:
            return size, most_entries + 1
        for entry in listed:
            entries += 1
            with suppress(OSError):
                size += entry.stat(follow_symlinks=False).st_blocks * _BLOCK_BYTES
                if entry.is_dir(follow_symlinks=False):
                    left.append(entry.path)
    return size, entries


def removed_bytes(path: str, holders: Iterable[int]) -> int:
    """Return how many bytes files have on the disk of a folder that are in no folder, and open in a process.

    Args:
        path: The folder.
        holders: The numbers of the processes that may hold them.
    """
    device = os.stat(path).st_dev
    sizes: dict[int, int] = {}
    for pid in holders:
        # Of one that has died, or does not let itself be looked at, nothing is known.
        with suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    file = os.stat(f"/proc/{pid}/fd/{name}")
                    if file.st_nlink == 0 and file.st_dev == device and stat.S_ISREG(file.st_mode):
                        sizes[file.st_ino] = file.st_blocks * _BLOCK_BYTES
    return sum(sizes.values())


def remove_folder(path: str) -> None:
    """Remove a folder with all that is in it, however deep or unreadable. No process may work in it any more.

    Folders within are moved up and emptied there, so that neither recursion nor the length of a path has a
    limit to reach. A second removal does nothing.
    """
    with suppress(FileNotFoundError):
        _open_up(path)
        top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            names = (f".{number}.removed" for number in itertools.count())
            while listed := _listing(top):
                for name, is_folder in listed:
                    if is_folder:
                        _dissolve(name, top, names)
                    else:
                        os.unlink(name, dir_fd=top)
        finally:
            os.close(top)
        os.rmdir(path)


def remove_stale_folders(root: Path) -> int:
    """Remove the folders of attempts whose supervisors are gone; return how many those were."""
    removed = 0
    for entry in os.scandir(root):
        with suppress(OSError):
            if time.time() - entry.stat(follow_symlinks=False).st_mtime < _STALE_SECONDS:
                continue
            handle = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            finally:
                os.close(handle)
            remove_folder(entry.path)
            removed += 1
    return removed


def _scan(folder: str, *, most: int) -> list[os.DirEntry[str]]:
    try:
        entries = os.scandir(folder)
    except PermissionError:
        # A program may not hide what it wrote.
        _open_up(folder)
        entries = os.scandir(folder)
    with entries:
        return list(itertools.islice(entries, most))


def _open_up(folder: str, *, within: int | None = None) -> None:
    """Make a folder readable and writable for us, its owner.

    By its name, in whose place a program may have put a link by now: our own user gains nothing there that
    the program had not. Root, who could be led anywhere, needs no permission and leaves it as it is.
    """
    if os.geteuid() != 0:
        os.chmod(folder, _OWNER_ONLY, dir_fd=within)


def _listing(folder: int) -> list[tuple[str, bool]]:
    with os.scandir(folder) as entries:
        return [
            (entry.name, entry.is_dir(follow_symlinks=False))
            for entry in itertools.islice(entries, _PAGE_ENTRIES)
        ]


def _dissolve(name: str, top: int, names: Iterator[str]) -> None:
    """Remove a folder; those in it become folders of `top`."""
    _open_up(name, within=top)
    folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
    try:
        while listed := _listing(folder):
            for inner, is_folder in listed:
                if is_folder:
                    # A folder that moves must be writable itself.
                    _open_up(inner, within=folder)
                    os.rename(inner, _free_name(top, names), src_dir_fd=folder, dst_dir_fd=top)
                else:
                    os.unlink(inner, dir_fd=folder)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=top)


def _free_name(top: int, names: Iterator[str]) -> str:
    for name in names:
        try:
            os.stat(name, dir_fd=top, follow_symlinks=False)
        except FileNotFoundError:
            return name
    raise AssertionError("there is no last number")
