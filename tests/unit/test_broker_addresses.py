"""Several hosts in one URL of RabbitMQ: each becomes a URL of its own, and what is wrong is named."""

import pytest

from shared.broker.addresses import split_hosts
from shared.errors import SettingsInvalid
from shared.settings import read_settings


def test_one_host_is_left_as_it_is() -> None:
    assert split_hosts("amqps://user:pw@rabbit:5671/v?heartbeat=20") == (
        "amqps://user:pw@rabbit:5671/v?heartbeat=20",
    )


def test_hosts_share_user_virtual_host_and_query_and_keep_their_own_ports() -> None:
    assert split_hosts("amqp://user:pw@one:5672,two:5673,three/a%2Fb?x=y") == (
        "amqp://user:pw@one:5672/a%2Fb?x=y",
        "amqp://user:pw@two:5673/a%2Fb?x=y",
        "amqp://user:pw@three/a%2Fb?x=y",
    )


def test_commas_and_at_signs_in_a_password_divide_nothing() -> None:
    assert split_hosts("amqp://user:a,b@c:d,e@one,two") == (
        "amqp://user:a,b@c:d,e@one",
        "amqp://user:a,b@c:d,e@two",
    )


def test_addresses_of_both_families_are_hosts() -> None:
    assert split_hosts("amqp://[::1]:5672,127.0.0.1:5673,[fe80::1]/") == (
        "amqp://[::1]:5672/",
        "amqp://127.0.0.1:5673/",
        "amqp://[fe80::1]/",
    )


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://one", "must look like amqp://"),
        ("one:5672", "must look like amqp://"),
        ("amqp://", "host 1 of 1 is empty"),
        ("amqp://user@/vhost", "host 1 of 1 is empty"),
        ("amqp://one,,three", "host 2 of 3 is empty"),
        ("amqp://one,two,", "host 3 of 3 is empty"),
        ("amqp://one, two", "host 2 of 2 is not a name or address"),
        ("amqp://one,two:http", "host 2 of 2 is not a name or address"),
        ("amqp://one,two:", "host 2 of 2 is not a name or address"),
        ("amqp://::1", "host 1 of 1 is not a name or address"),
        ("amqp://[1::2::3]:5672", "host 1 of 1 is not an IPv6 address"),
        ("amqp://[one]", "host 1 of 1 is not an IPv6 address"),
        ("amqp://one:0", "the port of host 1 of 1 is not one of 1 to 65535"),
        ("amqp://one:1,two:65536", "the port of host 2 of 2 is not one of 1 to 65535"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        split_hosts(url)


def test_a_wrong_setting_is_named_and_its_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    # The raw slash ends the authority, so that half of the password stands where the host should.
    monkeypatch.setenv("RETRIEVER_AMQP_URL", "amqp://user:secret/secret@one,two")

    with pytest.raises(SettingsInvalid) as raised:
        read_settings()

    assert str(raised.value).startswith("RETRIEVER_AMQP_URL: ")
    assert "secret" not in str(raised.value)


def test_a_setting_may_name_several_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRIEVER_AMQP_URL", "amqp://user:pw@one,two:5673/v")

    assert read_settings().amqp_url == "amqp://user:pw@one,two:5673/v"
