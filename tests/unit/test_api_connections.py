"""Which connections stay when there are too many, and which readers are too slow."""

import math
from dataclasses import dataclass

import pytest

from producer.api.connections import ConnectionLimits, Connections, address_of
from producer.api.refusals import Refusals
from shared.patience import MIN_BYTES_PER_SECOND, Patience

LIMITS = ConnectionLimits(max_connections=32, unread_seconds=30, max_unsent_bytes=1_000)


@dataclass(eq=False, slots=True)
class FakeConnection:
    """A connection that says what it is told to."""

    address: str = "a"
    waits_since: float | None = None
    deadline: float = math.inf
    is_surplus: bool = False
    unread_left_seconds: float = 30.0
    unsent_bytes: int = 0
    is_ended: bool = False
    is_late: bool = False

    def on_deadline(self) -> None:
        self.is_late = True

    def watch_answer(self, _seconds: float) -> int:
        return self.unsent_bytes

    def abort(self) -> None:
        self.is_ended = True


@pytest.fixture
def connections() -> Connections:
    return Connections(LIMITS, Refusals())


def admit(
    connections: Connections, count: int, address: str, waits_since: float | None
) -> list[FakeConnection]:
    made = [FakeConnection(address, waits_since) for _ in range(count)]
    for each in made:
        connections.admit(each)
    return made


def test_no_address_may_have_all_connections(connections: Connections) -> None:
    mine = admit(connections, LIMITS.max_connections, "a", None)

    assert [each.is_surplus for each in mine] == [False] * LIMITS.max_of_one_address + [True] * 2


def test_what_one_address_may_not_have_is_for_others(connections: Connections) -> None:
    admit(connections, LIMITS.max_of_one_address, "a", None)

    assert not any(each.is_surplus for each in admit(connections, 2, "b", None))


def test_the_address_with_the_most_loses_those_that_have_waited_longest(connections: Connections) -> None:
    (early,) = admit(connections, 1, "b", 0.0)
    old, new = admit(connections, 10, "a", 1.0), admit(connections, 19, "a", 2.0)
    (busy,) = admit(connections, 1, "a", None)
    admit(connections, 3, "c", 3.0)

    assert [early.is_ended, busy.is_ended] == [False, False]
    assert sum(each.is_ended for each in old) == 2
    assert not any(each.is_ended for each in new)


def test_where_none_waits_a_few_may_ask_how_the_service_is(connections: Connections) -> None:
    for number in range(LIMITS.max_connections):
        admit(connections, 1, f"a{number}", None)
    more = [FakeConnection(f"b{number}") for number in range(LIMITS.max_surplus + 1)]

    assert [connections.admit(each) for each in more] == [True] * LIMITS.max_surplus + [False]
    assert all(each.is_surplus for each in more)


def test_places_of_those_that_wait_are_not_given_away_twice(connections: Connections) -> None:
    admit(connections, LIMITS.max_of_one_address, "a", None)

    # Refused, it lingers; the next one takes its place, which is none to work in.
    for number in range(10 * LIMITS.max_surplus):
        (refused,) = admit(connections, 1, "a", None)
        assert refused.is_surplus
        refused.waits_since = float(number)
    (probe,) = admit(connections, 1, "a", 1_000.0)

    assert probe.is_surplus
    assert len(connections) <= LIMITS.max_connections + LIMITS.max_surplus


def test_what_came_at_the_same_moment_is_not_closed_for_another(connections: Connections) -> None:
    admit(connections, LIMITS.max_of_one_address, "a", None)
    together = admit(connections, LIMITS.max_surplus, "a", 1.0)

    assert not any(each.is_ended for each in together)


def test_a_connection_that_is_gone_leaves_its_place(connections: Connections) -> None:
    gone = admit(connections, LIMITS.max_of_one_address, "a", None)
    for each in gone:
        connections.forget(each)
        connections.forget(each)

    assert len(connections) == 0
    assert not any(each.is_surplus for each in admit(connections, LIMITS.max_of_one_address, "a", None))


def test_heads_that_come_in_part_have_a_limit_together() -> None:
    connections = Connections(ConnectionLimits(max_heads_bytes=1_000), Refusals())

    assert [connections.keep_heads(more) for more in (600, 400, 1, -1)] == [True, True, False, True]


def test_deadlines_are_kept(connections: Connections) -> None:
    late, early = FakeConnection(deadline=1.0), FakeConnection(deadline=3.0)
    for each in (late, early):
        connections.admit(each)

    connections.look(2.0)

    assert [late.is_late, early.is_late] == [True, False]


def test_a_reader_without_patience_left_is_cut_off(connections: Connections) -> None:
    late = FakeConnection(unsent_bytes=1, unread_left_seconds=0.0)
    slow = FakeConnection(unsent_bytes=1, unread_left_seconds=0.1)
    for each in (late, slow):
        connections.admit(each)

    connections.look(1.0)

    assert [late.is_ended, slow.is_ended] == [True, False]


def test_the_slowest_readers_make_room_where_too_much_is_unread(connections: Connections) -> None:
    slowest = FakeConnection(unsent_bytes=400, unread_left_seconds=5.0)
    slower = FakeConnection(unsent_bytes=400, unread_left_seconds=20.0)
    fresh = FakeConnection(unsent_bytes=2_000, unread_left_seconds=30.0)
    for each in (fresh, slower, slowest):
        connections.admit(each)

    connections.look(1.0)
    assert [slowest.is_ended, slower.is_ended, fresh.is_ended] == [True, True, False]


@pytest.mark.parametrize(
    ("client", "address"),
    [
        (("192.0.2.7", 1), "192.0.2.7"),
        (("::ffff:192.0.2.7", 1), "192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 1), "2001:db8:1:2::"),
        (("2001:db8:1:2::9", 1), "2001:db8:1:2::"),
        (("fe80::1%eth0", 1), "fe80::"),
        (None, ""),
    ],
)
def test_connections_are_counted_by_network(client: tuple[str, int] | None, address: str) -> None:
    assert address_of(client) == address


def test_a_peer_that_is_slow_but_steady_is_waited_for_for_ever() -> None:
    patience = Patience(10)

    assert all(patience.spend(5, moved_bytes=5 * MIN_BYTES_PER_SECOND) for _ in range(10_000))


def test_what_was_fast_buys_no_time_for_later() -> None:
    patience = Patience(10)
    patience.spend(0, moved_bytes=1_000_000_000)

    assert [patience.spend(4, moved_bytes=1) for _ in range(3)] == [True, True, False]
