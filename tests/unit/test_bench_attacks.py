"""What is attacked, and how it is judged; pure parts alone."""

import os

import pytest

from bench.attack_lines import LINES, Found
from bench.attacked import Harm, Memory
from bench.attacks import row
from bench.hostile import Soak, turns
from bench.hostile_kinds import HOSTILE, LEFT_SECONDS, Hostile, Then, kind_named
from bench.hostile_site import HostileSite, address_of, addresses_of
from bench.prober import Answers, waited_seconds
from bench.summary import Percentiles
from shared.kinds.registry import KINDS

SITE = HostileSite(8_000, "127.0.0.1:53")


def test_lag_is_the_slowest_answer_over_the_usual_one() -> None:
    quiet = Answers({"api": [2.0, 3.0, 4.0]})
    answers = Answers({"api": [50.0, 60.0, 253.0]})

    assert answers.lag_ms("api", usual=quiet) == 250.0
    assert answers.lag_ms("api") == 193.0
    assert Answers().lag_ms("api") == 0.0


@pytest.mark.parametrize(
    ("harm", "is_bounded"),
    [
        (Harm(), True),
        (Harm({"api": 99.0}, memory={"api": Memory(peak=99.0, kept=99.0, children=99.0)}), True),
        (Harm({"api": 100.0}), False),
        (Harm({"api": 150.0}, machine_lag_ms=60.0), True),
        (Harm(memory={"api": Memory(peak=100.0)}), False),
        (Harm(memory={"api": Memory(children=100.0)}), False),
        (Harm(unanswered=1), False),
        (Harm(ended=["api"]), False),
    ],
)
def test_an_attack_is_bounded_when_nobody_is_deaf_grows_or_ends(harm: Harm, is_bounded: bool) -> None:
    assert Found(True, "served", harm=harm).is_bounded is is_bounded
    assert not Found(False, "not served", harm=harm).is_bounded


def test_a_row_says_what_an_attack_came_to() -> None:
    harm = Harm({"api": 12.3}, 1.0, {"api": Memory(peak=3.0, children=4.0)}, unanswered=2)

    assert row(LINES[0], Found(True, "all", harm=harm)) == (
        f"| 4 | {LINES[0].attack} | api 12, machine 1 | api 3 (4) | all; 2 probes unanswered | **no** |"
    )


def test_a_soak_tells_what_is_not_as_it_must_be() -> None:
    quiet = Percentiles(1.0, 10.0, 11.0)
    good = Soak(quiet_ms=quiet, among_hostile_ms=Percentiles(1.0, 20.0, 21.0), innocent_ends={"ok": 3})
    bad = Soak(
        quiet_ms=quiet,
        among_hostile_ms=Percentiles(1.0, 21.0, 21.0),
        innocent_ends={"ok": 3, "timeout": 1},
        untrue={"bomb: ok": 2},
        memory={"api": {"before": 100.0, "after": 200.0}},
        ended=["ledger"],
        logged=["api.log: Traceback"],
    )

    assert good.faults == []
    assert bad.faults == [
        "2 untrue ends: bomb: ok",
        "the innocent ended {'ok': 3, 'timeout': 1}",
        "p99 of the innocent was 2.1 times",
        "api kept 100 MiB",
        "ledger ended",
        "logged: api.log: Traceback",
    ]


def test_a_soak_meets_every_kind_in_every_turn() -> None:
    planned = turns(20 * len(HOSTILE))

    assert [turn.hostile for turn in planned[: len(HOSTILE)]] == list(HOSTILE)
    assert sum(len(turn.numbers) for turn in planned) == 20 * len(HOSTILE)


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_the_job_that_meets_a_hostile_target_is_valid(hostile: Hostile) -> None:
    job = hostile.job_at(SITE.place(hostile), 7)

    KINDS[job["kind"]].args_model.model_validate(job["args"])


def test_whatever_nothing_else_ends_has_a_short_time() -> None:
    silence = kind_named("silence")

    assert silence.answer.then is Then.SILENT
    assert silence.job_at(SITE.place(silence), 1)["args"]["timeout_seconds"] == LEFT_SECONDS


def test_names_lead_to_where_they_are_served() -> None:
    many = kind_named("DNS with 200 addresses")
    inside = kind_named("DNS that also leads inside")

    assert addresses_of("n7.one.hostile.example") == ["127.0.0.1"]
    assert addresses_of("nobody.example") == []
    assert addresses_of("silent.hostile.example") is None
    assert len(addresses_of(str(many.host)) or ()) == 200
    assert addresses_of(str(inside.host)) == [address_of(inside), "169.254.169.254"]


def test_the_time_for_which_a_thread_waited_is_known_of_what_runs_alone() -> None:
    assert waited_seconds(os.getpid(), os.getpid()) >= 0
    assert waited_seconds(2**22 + 1, 1) == 0
