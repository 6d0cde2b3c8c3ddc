"""What tests have compute processes do: nothing, too much, and worse."""

import os
import signal
import socket
import time
from pathlib import Path


def pid() -> int:
    """Return the number of the process."""
    return os.getpid()


def shout(text: str, *, mark: str = "!") -> tuple[str, str]:
    """Return a text in capitals, and the mark."""
    return text.upper() + mark, mark


def spin(seconds: float) -> float:
    """Use the processor for so long."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
    return seconds


def rest(folder: str) -> int:
    """Do nothing until somebody ends this process; a file in the folder says which one it is."""
    (Path(folder) / str(os.getpid())).touch()
    while True:
        time.sleep(60)


def hog(size: int) -> int:
    """Take memory."""
    return len(bytearray(size))


def keep(size: int) -> int:
    """Take memory, and keep it."""
    _KEPT.append(bytearray(size))
    _KEPT[-1][::4_096] = b"x" * len(range(0, size, 4_096))
    return os.getpid()


_KEPT: list[bytearray] = []


def die(folder: str, times: int) -> int:
    """Be killed; after so many times, which the folder remembers, return how often that was."""
    deaths = len(list(Path(folder).iterdir()))
    if deaths < times:
        (Path(folder) / str(deaths)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return deaths


def fail() -> None:
    """Be a bug."""
    raise KeyError("a bug")


def connect(port: int) -> str:
    """Try to open a connection, and return what came of it."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError as error:
        return type(error).__name__
    return "connected"


def surroundings() -> tuple[list[str], dict[str, str], int]:
    """Return which descriptors are open, the environment, and the niceness."""
    found = Path("/proc/self/fd").iterdir()
    # That of the folder itself is closed by now.
    return [str(fd.readlink()) for fd in found if fd.is_symlink()], dict(os.environ), os.nice(0)


def smuggle() -> object:
    """Return what a parent must not take."""
    return Path("/")
