"""Tests of `deploy.local.ports`."""

import socket

from deploy.local.ports import LOOPBACK, free_ports


def test_free_ports_are_different_and_below_the_ephemeral_range() -> None:
    ports = free_ports(20)

    assert len(set(ports)) == 20
    assert all(port < 32_768 for port in ports)


def test_a_free_port_can_be_listened_on() -> None:
    (port,) = free_ports(1)

    with socket.create_server((LOOPBACK, port)) as listener:
        assert listener.getsockname()[1] == port
