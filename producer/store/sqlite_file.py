"""Whether SQLite's file is where it was: what is written to a deleted file is gone when the process ends.

Another file of the same name is not the store. To go on with it would be worse than to stop: the log of the
old file (`-wal`) lies beside it, and SQLite would apply it (sqlite.org/howtocorrupt.html, section 2.4).
"""

from pathlib import Path
from typing import Final, Protocol

import sqlalchemy as sa

from producer.store.sql import SQLITE
from shared.errors import StoreUnavailable

MOVED: Final = (
    "The SQLite file was deleted or replaced under this process. Put it back, or end all processes of the"
    " store and restore a backup: docs/operations.md#backup-and-restore."
)
_OWN_FILES = Path("/proc/self/fd")
_DELETED = " (deleted)"


class Place(Protocol):
    """Where a database is."""

    def check(self) -> None:
        """Do nothing if what was opened is still there; call it while connected."""

    def search(self) -> None:
        """The same, at more depth and cost."""


def place_of(engine: sa.Engine) -> Place:
    """Return the place of an engine's database."""
    return SqliteFile(Path(engine.url.database or "")) if engine.dialect.name == SQLITE else Elsewhere()


class Elsewhere:
    """A server's files are its own business."""

    def check(self) -> None:
        """Do nothing."""

    def search(self) -> None:
        """Do nothing."""


class SqliteFile:
    """Knows the file that the first connection opened."""

    def __init__(self, path: Path) -> None:
        """Take the path of a file that need not be there yet."""
        self._path = path.absolute()
        self._known: tuple[int, int] | None = None
        self._lost_log = False

    def check(self) -> None:
        """Do nothing if the file at the path is the one that was opened.

        Raises:
            StoreUnavailable: it is not; when it is put back, all is well again.
        """
        try:
            found = self._path.stat()
        except OSError as error:
            if self._known is None:
                # Nothing has been opened yet.
                return
            raise StoreUnavailable(MOVED) from error
        identity = (found.st_dev, found.st_ino)
        if self._known is None:
            self._known = identity
        if identity != self._known or self._lost_log:
            raise StoreUnavailable(MOVED)

    def search(self) -> None:
        """The same, and that its log is still there (on Linux); once it is gone, all checks fail.

        Raises:
            StoreUnavailable: either is not.
        """
        log = f"{self._path}-wal"
        self._lost_log = self._lost_log or f"{log}{_DELETED}" in _own_files()
        self.check()


def _own_files() -> set[str]:
    """Return the names of the files that this process has open; none where /proc is not."""
    names = set()
    for link in _OWN_FILES.iterdir() if _OWN_FILES.is_dir() else ():
        try:
            names.add(str(link.readlink()))
        except OSError:
            # It was closed since.
            continue
    return names
