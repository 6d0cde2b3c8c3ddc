"""How batches of the bulk lane share what is released."""

from datetime import timedelta

from producer.flows import Flow, Flows
from shared.identity import new_id
from tests.support.factories import NOON


def make_flow(kind: str = "check") -> Flow:
    return Flow(kind, new_id())


def serve(flows: Flows, jobs: dict[Flow, int], *, room: int) -> dict[Flow, int]:
    """Take a page of flows that have so many jobs; return what was taken of each."""
    flows.found([flow for flow, left in jobs.items() if left], NOON)
    taken: dict[Flow, int] = {}
    while shares := flows.shares(room - sum(taken.values()), {}):
        for flow, share in shares:
            got = min(share, jobs[flow])
            jobs[flow] -= got
            taken[flow] = taken.get(flow, 0) + got
            flows.took(flow, got, share=share)
    return taken


def test_a_lone_batch_has_the_whole_page() -> None:
    flow = make_flow()

    assert serve(Flows(), {flow: 5_000}, room=1_000) == {flow: 1_000}


def test_a_small_batch_passes_a_large_one_that_was_served_before() -> None:
    flows, large, small = Flows(), make_flow(), make_flow()
    jobs = {large: 100_000}
    for _ in range(10):
        serve(flows, jobs, room=1_000)

    jobs[small] = 1_000
    pages = [serve(flows, jobs, room=1_000) for _ in range(2)]

    assert pages[0] == {small: 750, large: 250}
    assert pages[1] == {small: 250, large: 750}


def test_no_batch_stands_still_while_small_ones_keep_coming() -> None:
    flows, large = Flows(), make_flow()
    jobs = {large: 10_000}
    for _ in range(10):
        jobs[make_flow()] = 1_000
        serve(flows, jobs, room=1_000)

    assert jobs[large] <= 9_000


def test_batches_of_one_size_that_were_handed_in_together_advance_together() -> None:
    flows, batches = Flows(), [make_flow() for _ in range(4)]
    jobs = dict.fromkeys(batches, 10_000)
    for _ in range(20):
        serve(flows, jobs, room=1_000)

    assert max(jobs.values()) - min(jobs.values()) <= 1_000


def test_a_page_has_some_of_every_flow_however_many_there_are() -> None:
    batches = [make_flow() for _ in range(50)]

    taken = serve(Flows(), dict.fromkeys(batches, 1_000), room=1_000)

    assert len(taken) == 50 and sum(taken.values()) == 1_000


def test_a_kind_that_has_no_room_leaves_it_to_the_others() -> None:
    flows, full, other = Flows(), make_flow("check"), make_flow("fetch")
    flows.found([full, other], NOON)

    assert flows.shares(1_000, {"check": 0}) == [(other, 1_000)]
    assert flows.shares(1_000, {"check": 10, "fetch": 20}) == [(full, 10), (other, 20)]


def test_flows_are_looked_for_again_soon_after_news_and_at_once_when_none_is_left() -> None:
    flows, flow = Flows(), make_flow()
    assert flows.is_old(NOON)

    flows.found([flow], NOON)
    assert not flows.is_old(NOON + timedelta(seconds=0.9))
    assert flows.is_old(NOON + timedelta(seconds=1.1))
    flows.look_again()
    assert not flows.is_old(NOON + timedelta(seconds=0.1))
    assert flows.is_old(NOON + timedelta(seconds=0.3))
    flows.took(flow, 3, share=10)
    assert flows.is_old(NOON)
