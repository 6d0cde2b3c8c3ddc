"""Ports that a process of ours shall listen on: one that it cannot have is named before anything starts."""

import socket
from functools import lru_cache
from ipaddress import ip_address

from shared.errors import SettingsInvalid


@lru_cache(1_000)
def is_loopback(host: str) -> bool:
    """Return whether a name or an address is this machine to itself; other names are not looked up."""
    if host == "localhost" or host.endswith(".localhost"):
        # RFC 6761 section 6.3.
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_port(host: str, port: int, *, variable: str) -> None:
    """Do nothing if this process may listen there now; port 0 is always free.

    Args:
        host: A name or an address.
        port: A TCP port.
        variable: What sets it, for the message.

    Raises:
        SettingsInvalid: somebody listens there, or the host is not of this machine, or it is forbidden.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # As the servers do: what an earlier process left behind in TIME_WAIT is no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        raise SettingsInvalid(
            f"{variable}: cannot listen on {host}:{port}: {error.strerror or error}"
        ) from error
