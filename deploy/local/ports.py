"""Free TCP ports on the loopback address, below the ephemeral range."""

import random
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"

# Linux hands out source ports from 32768 up. A client that reconnects to a stopped server on such a port can
# be given that very port as its source, and so connects to itself; below the range that cannot happen.
LOWEST_PORT = 20_000
HIGHEST_PORT = 32_767
ATTEMPTS_PER_PORT = 200
CONNECT_SECONDS = 2.0
# A state in /proc/net/tcp: TCP_LISTEN of the kernel's tcp_states.h.
LISTENING = "0A"


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on now."""
    return free_ports(1)[0]


def free_ports(count: int) -> tuple[int, ...]:
    """Return different free TCP ports of 127.0.0.1, all in [LOWEST_PORT, HIGHEST_PORT].

    Raises:
        OSError: no free port was found in a fair number of tries.
    """
    held: list[socket.socket] = []
    try:
        held.extend(_bind_any() for _ in range(count))
        return tuple(listener.getsockname()[1] for listener in held)
    finally:
        for listener in held:
            listener.close()


def is_taken(port: int, *, host: str = LOOPBACK) -> bool:
    """Tell whether somebody listens on a TCP port."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def listeners(port: int) -> set[int]:
    """Return the ids of our user's processes that listen on a TCP port (none without /proc: macOS)."""
    sockets = {f"socket:[{number}]" for number in _listening_sockets(port)}
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*") if sockets else ():
        try:
            if str(link.readlink()) in sockets:
                found.add(int(link.parts[2]))
        except OSError:
            continue
    return found


def _listening_sockets(port: int) -> set[str]:
    """Return the numbers (inodes) of the sockets that listen on a port, as /proc/net/tcp has them."""
    numbers = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            fields = line.split()
            if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                numbers.add(fields[9])
    return numbers


def _bind_any() -> socket.socket:
    for _ in range(ATTEMPTS_PER_PORT):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.bind((LOOPBACK, random.randint(LOWEST_PORT, HIGHEST_PORT)))
        except OSError:
            listener.close()
        else:
            return listener
    raise OSError(f"No free TCP port on {LOOPBACK} in {LOWEST_PORT}-{HIGHEST_PORT}; end some servers.")
