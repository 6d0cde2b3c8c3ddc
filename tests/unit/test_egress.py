"""Which addresses the egress guard denies, and which it lets through."""

import socket
from ipaddress import ip_network

import pytest

from consumer.egress import AddressClass, EgressDenied, denied_class, guarded_socket_factory
from shared.setting_values import BAD_PORTS

DENIED = [
    # Metadata services of clouds.
    ("169.254.169.254", AddressClass.METADATA),
    ("169.254.170.2", AddressClass.METADATA),
    ("169.254.170.23", AddressClass.METADATA),
    ("100.100.100.200", AddressClass.METADATA),
    ("192.0.0.192", AddressClass.METADATA),
    ("168.63.129.16", AddressClass.METADATA),
    ("fd00:ec2::254", AddressClass.METADATA),
    ("fd00:ec2::23", AddressClass.METADATA),
    ("fd20:ce::254", AddressClass.METADATA),
    ("::ffff:169.254.169.254", AddressClass.METADATA),
    # IPv4: both ends of each block.
    ("0.0.0.0", AddressClass.THIS_NETWORK),
    ("0.255.255.255", AddressClass.THIS_NETWORK),
    ("10.0.0.0", AddressClass.PRIVATE),
    ("10.255.255.255", AddressClass.PRIVATE),
    ("100.64.0.0", AddressClass.SHARED),
    ("100.127.255.255", AddressClass.SHARED),
    ("127.0.0.1", AddressClass.LOOPBACK),
    ("127.255.255.254", AddressClass.LOOPBACK),
    ("169.254.0.0", AddressClass.LINK_LOCAL),
    ("169.254.255.255", AddressClass.LINK_LOCAL),
    ("172.16.0.0", AddressClass.PRIVATE),
    ("172.31.255.255", AddressClass.PRIVATE),
    ("192.0.0.1", AddressClass.PROTOCOL),
    ("192.0.2.1", AddressClass.DOCUMENTATION),
    ("192.88.99.1", AddressClass.EMBEDDED),
    ("192.168.0.0", AddressClass.PRIVATE),
    ("192.168.255.255", AddressClass.PRIVATE),
    ("198.18.0.0", AddressClass.BENCHMARK),
    ("198.19.255.255", AddressClass.BENCHMARK),
    ("198.51.100.1", AddressClass.DOCUMENTATION),
    ("203.0.113.1", AddressClass.DOCUMENTATION),
    ("224.0.0.1", AddressClass.MULTICAST),
    ("239.255.255.255", AddressClass.MULTICAST),
    ("240.0.0.0", AddressClass.RESERVED),
    ("255.255.255.255", AddressClass.RESERVED),
    # IPv6.
    ("::", AddressClass.THIS_NETWORK),
    ("::1", AddressClass.LOOPBACK),
    ("0:0:0:0:0:0:0:1", AddressClass.LOOPBACK),
    ("fc00::1", AddressClass.PRIVATE),
    ("fdff:ffff::1", AddressClass.PRIVATE),
    ("fe80::1", AddressClass.LINK_LOCAL),
    ("febf::1", AddressClass.LINK_LOCAL),
    ("fec0::1", AddressClass.SITE_LOCAL),
    ("ff00::1", AddressClass.MULTICAST),
    ("ff02::1", AddressClass.MULTICAST),
    ("2001:db8::1", AddressClass.DOCUMENTATION),
    ("3fff::1", AddressClass.DOCUMENTATION),
    ("2001:20::1", AddressClass.PROTOCOL),
    ("2001:1::1", AddressClass.PROTOCOL),
    ("100::1", AddressClass.RESERVED),
    ("1fff:ffff::1", AddressClass.RESERVED),
    ("4000::1", AddressClass.RESERVED),
    ("5f00::1", AddressClass.RESERVED),
    ("fbff::1", AddressClass.RESERVED),
    # IPv4 inside IPv6: mapped is judged as IPv4, every other form is denied whatever it holds.
    ("::ffff:127.0.0.1", AddressClass.LOOPBACK),
    ("::ffff:7f00:1", AddressClass.LOOPBACK),
    ("::ffff:10.0.0.1", AddressClass.PRIVATE),
    ("::ffff:0.0.0.0", AddressClass.THIS_NETWORK),
    ("::127.0.0.1", AddressClass.EMBEDDED),
    ("::8.8.8.8", AddressClass.EMBEDDED),
    ("::ffff:0:7f00:1", AddressClass.EMBEDDED),
    ("64:ff9b::7f00:1", AddressClass.EMBEDDED),
    ("64:ff9b::808:808", AddressClass.EMBEDDED),
    ("64:ff9b:1::a00:1", AddressClass.EMBEDDED),
    ("2002:7f00:1::", AddressClass.EMBEDDED),
    ("2002:808:808::1", AddressClass.EMBEDDED),
    ("2001:0:808:808::1", AddressClass.EMBEDDED),
    # Whatever is not a plain address is resolved by the event loop, after us.
    ("localhost", AddressClass.NOT_AN_ADDRESS),
    ("example.org", AddressClass.NOT_AN_ADDRESS),
    ("", AddressClass.NOT_AN_ADDRESS),
    ("x:y", AddressClass.NOT_AN_ADDRESS),
    ("::1%lo", AddressClass.NOT_AN_ADDRESS),
    ("::1%25lo", AddressClass.NOT_AN_ADDRESS),
    ("fe80::1%eth0", AddressClass.NOT_AN_ADDRESS),
    ("2606:4700::1%1", AddressClass.NOT_AN_ADDRESS),
    ("[::1]", AddressClass.NOT_AN_ADDRESS),
    ("0x7f000001", AddressClass.NOT_AN_ADDRESS),
    ("2130706433", AddressClass.NOT_AN_ADDRESS),
    ("0177.0.0.1", AddressClass.NOT_AN_ADDRESS),
    ("127.1", AddressClass.NOT_AN_ADDRESS),
    ("127.0.0.1.", AddressClass.NOT_AN_ADDRESS),
    (" 8.8.8.8", AddressClass.NOT_AN_ADDRESS),
    ("8.8.8.8\0", AddressClass.NOT_AN_ADDRESS),
    ("8.8.8.8/32", AddressClass.NOT_AN_ADDRESS),
]

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.1",
    "168.63.129.15",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.1",
    "192.0.3.1",
    "192.88.98.1",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "203.0.112.1",
    "223.255.255.255",
    "::ffff:8.8.8.8",
    "2000::1",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2003::1",
    "2606:4700:4700::1111",
    "2a00:1450:4001::1",
    "3ffe:ffff::1",
]


@pytest.mark.parametrize(("address", "address_class"), DENIED)
def test_an_address_that_is_not_public_is_denied_by_its_class(
    address: str, address_class: AddressClass
) -> None:
    assert denied_class(address, ()) is address_class


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_beside_a_denied_block_is_let_through(address: str) -> None:
    assert denied_class(address, ()) is None


def test_a_denied_address_gets_no_socket() -> None:
    make_socket = guarded_socket_factory(())

    with pytest.raises(EgressDenied, match="loopback") as denied:
        make_socket(_address_info("127.0.0.1"))

    assert isinstance(denied.value, OSError)
    assert denied.value.address_class is AddressClass.LOOPBACK


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111"])
def test_a_public_address_gets_a_socket_of_its_family(address: str) -> None:
    with guarded_socket_factory(())(_address_info(address)) as made:
        assert made.family == _address_info(address)[0]


@pytest.mark.parametrize(
    ("network", "address"),
    [
        ("127.0.0.0/8", "127.0.0.1"),
        ("127.0.0.0/8", "::ffff:127.0.0.1"),
        ("::1/128", "::1"),
        ("10.1.0.0/16", "10.1.2.3"),
    ],
)
def test_an_allowed_network_is_open(network: str, address: str) -> None:
    make_socket = guarded_socket_factory([ip_network(network)])

    make_socket(_address_info(address)).close()


@pytest.mark.parametrize(
    ("network", "address"),
    [
        ("127.0.0.0/8", "10.0.0.1"),
        ("127.0.0.0/8", "::1"),
        ("10.1.0.0/16", "10.2.0.1"),
        ("0.0.0.0/0", "localhost"),
    ],
)
def test_an_allowed_network_opens_nothing_beside_itself(network: str, address: str) -> None:
    make_socket = guarded_socket_factory([ip_network(network)])

    with pytest.raises(EgressDenied):
        make_socket(_address_info(address))


@pytest.mark.parametrize(
    "info",
    [
        (socket.AF_INET6, socket.SOCK_STREAM, 0, "", ("2606:4700::1", 80, 0, 1)),
        (socket.AF_INET6, socket.SOCK_STREAM, 0, "", ("::1", 80, 0, 2)),
        (socket.AF_UNIX, socket.SOCK_STREAM, 0, "", "/run/docker.sock"),
        (socket.AF_INET, socket.SOCK_STREAM, 0, "", ()),
        (socket.AF_INET, socket.SOCK_STREAM, 0, "", (b"8.8.8.8", 80)),
        (socket.AF_INET, socket.SOCK_STREAM, 0, "", (134_744_072, 80)),
    ],
)
def test_what_is_not_a_plain_address_is_denied_even_when_everything_is_allowed(
    info: tuple[object, ...],
) -> None:
    make_socket = guarded_socket_factory([ip_network("0.0.0.0/0"), ip_network("::/0")])

    with pytest.raises(EgressDenied, match="not a plain IP address"):
        make_socket(info)


@pytest.mark.parametrize("port", [22, 25, 465, 587, 993, 6_000, 6_667, 10_080])
@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "127.0.0.1"])
def test_a_port_of_another_protocol_is_denied_even_in_an_allowed_network(address: str, port: int) -> None:
    make_socket = guarded_socket_factory([ip_network("127.0.0.0/8")], BAD_PORTS)

    with pytest.raises(EgressDenied, match="port of another protocol"):
        make_socket(_address_info(address, port))


@pytest.mark.parametrize("port", [80, 443, 1_024, 3_000, 5_000, 8_000, 8_080, 8_443, 9_200, 65_535])
def test_a_port_that_serves_http_is_open(port: int) -> None:
    guarded_socket_factory((), BAD_PORTS)(_address_info("8.8.8.8", port)).close()


def _address_info(address: str, port: int = 80) -> tuple[object, ...]:
    if ":" in address:
        return (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
