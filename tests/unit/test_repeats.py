"""Which jobs of a batch repeat others, and what an answer says of a repeat."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from producer import repeats
from producer.records import NewJob
from producer.repeats import RepeatFinder, answer_of, successor_args
from producer.submission import JobTemplate
from producer.submission_models import BatchSubmission
from shared.identity import new_id
from shared.kinds.check import MAX_FRAGMENTS, CheckArgs, CheckResult
from shared.states import JobState
from tests.support.factories import NOON

SEARCHED = {"assertions": {"fragment": True}}
HOP = {"method": "GET", "status": 200, "seconds": 0.1}


def jobs_of(
    items: Sequence[Mapping[str, Any]], *, dedupe: bool = True, kind: str = "check", **more: Any
) -> list[NewJob]:
    submission = BatchSubmission.model_validate({"kind": kind, "items": items, **more})
    template = JobTemplate.of(submission, now=NOON, project="default")
    finder = RepeatFinder(template, dedupe=dedupe)
    found = [(args, finder.find(args.document)) for args in map(template.validate, items)]
    jobs = list(finder.jobs(template, found, batch_id=new_id()))
    assert finder.repeats == sum(job.same_as not in {None, job.id} for job in jobs)
    return jobs


def groups(jobs: Sequence[NewJob]) -> list[int | None]:
    """Return of each job the number of the one that asks for it."""
    numbers = {job.id: number for number, job in enumerate(jobs)}
    return [None if job.same_as is None else numbers[job.same_as] for job in jobs]


def urls(*paths: str, **more: Any) -> list[dict[str, Any]]:
    return [{"url": f"http://a.example/{path}", **more} for path in paths]


def leads(name: str, passed: bool | None, explanation: str | None = None) -> dict[str, Any]:
    said = {"observed": None} | ({"explanation": explanation} if explanation else {})
    return {name: {"assertion": "fragment", "expected": f"#{name}", "passed": passed, **said}}


def result(**more: Any) -> dict[str, Any]:
    found = {
        "verdict": "ok",
        "reason": "ok",
        "explanation": "The host answered as it should.",
        "status": 200,
        "final_url": "http://a.example/x#a",
        "hops": [{**HOP, "url": "http://a.example/x#a", "location": None}],
        "total_seconds": 0.1,
        "assertions": [{"assertion": "fragment", "expected": "#a", "passed": True, "observed": None}],
        **more,
    }
    CheckResult.model_validate(found)
    return found


def answer(found: Mapping[str, Any], *, before: str, after: str, **more: Any) -> dict[str, Any]:
    original, repeat = urls(before, after, **{**SEARCHED, **more})
    answered = answer_of(found, original=original, repeat=repeat)
    CheckResult.model_validate(answered)
    return answered


def test_the_first_of_those_that_ask_the_same_asks_for_all() -> None:
    jobs = jobs_of(urls("x", "y", "x", "x", "z", "y"))

    assert groups(jobs) == [0, 1, 0, 0, None, 1]
    assert [job.state for job in jobs[:3]] == [JobState.ACCEPTED, JobState.ACCEPTED, JobState.SCHEDULED]
    assert [job.due_at for job in jobs[:3]] == [None, None, NOON + timedelta(hours=1)]


def test_urls_that_differ_in_their_spelling_or_fragment_alone_ask_the_same() -> None:
    assert groups(jobs_of(urls("x", "x#a", "./x", "y/../x#b"))) == [0, 0, 0, 0]


def test_what_differs_in_any_other_argument_is_asked_by_itself() -> None:
    items = [*urls("x"), *urls("x", title=True), *urls("x", headers={"A": "1"}), *urls("x", method="GET")]

    assert groups(jobs_of(items)) == [None] * 4


def test_the_order_of_arguments_makes_no_difference() -> None:
    items = [*urls("x", headers={"A": "1", "B": "2"}), *urls("x", headers={"B": "2", "A": "1"})]

    assert groups(jobs_of(items)) == [0, 0]


def test_without_dedupe_and_for_other_kinds_every_job_asks_by_itself() -> None:
    assert groups(jobs_of(urls("x", "x"), dedupe=False)) == [None, None]
    assert groups(jobs_of(urls("x", "x"), kind="fetch")) == [None, None]


def test_an_original_looks_for_the_fragments_of_its_repeats_where_a_page_is_searched() -> None:
    searched = jobs_of(urls("x#a", "x#b", "x", "x#a", "x#b", **SEARCHED))
    plain = jobs_of(urls("x#a", "x#b"))

    assert searched[0].args["fragments"] == ["b", ""]
    assert [job.args.get("fragments") for job in searched[1:]] == [None] * 4
    assert "fragments" not in plain[0].args
    CheckArgs.model_validate(dict(searched[0].args))


def test_identical_jobs_look_for_nothing_more() -> None:
    assert "fragments" not in jobs_of(urls("x#a", "x#a", **SEARCHED))[0].args


def test_what_an_original_looks_for_is_bounded_and_the_next_one_takes_the_rest() -> None:
    jobs = jobs_of(urls(*(f"x#{n}" for n in range(MAX_FRAGMENTS + 2)), "x#501", "x#0", **SEARCHED))

    found = groups(jobs)
    assert found[: MAX_FRAGMENTS + 1] == [0] * MAX_FRAGMENTS + [MAX_FRAGMENTS]
    assert found[MAX_FRAGMENTS + 1 :] == [MAX_FRAGMENTS] * 3
    for job in jobs:
        CheckArgs.model_validate(dict(job.args))


def test_fragments_too_long_to_be_handed_on_are_asked_for_by_themselves() -> None:
    long = "a" * 2_001

    assert groups(jobs_of(urls("x", f"x#{long}", f"x#{long}", "x#b", **SEARCHED))) == [0, None, None, 0]
    # Where nothing is searched for, they make no difference.
    assert groups(jobs_of(urls("x", f"x#{long}"))) == [0, 0]


def test_what_is_remembered_of_a_batch_is_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(repeats, "_MAX_REQUESTS", 2)

    assert groups(jobs_of(urls("x", "y", "z", "z", "x", "y"))) == [0, 1, None, None, 0, 1]


def test_a_batch_that_waits_for_its_time_lets_repeats_wait_as_well() -> None:
    jobs = jobs_of(urls("x", "x"), run_at="2026-01-02T13:00:00Z")

    assert [job.due_at and job.due_at.hour for job in jobs] == [13, 14]


def test_an_answer_is_that_of_the_original_with_the_url_of_the_repeat() -> None:
    answered = answer(result(fragments=leads("b", True)), before="x#a", after="x#b")

    assert answered["final_url"] == "http://a.example/x#b"
    assert answered["hops"][0]["url"] == "http://a.example/x#b"
    assert answered["assertions"][0] == {
        "assertion": "fragment",
        "expected": "#b",
        "passed": True,
        "observed": None,
    }
    assert (answered["verdict"], answered["reason"]) == ("ok", "ok")
    assert "fragments" not in answered


def test_a_fragment_that_is_missing_breaks_its_repeat_alone() -> None:
    original = result(fragments=leads("b", False))

    answered = answer(original, before="x#a", after="x#b")

    assert (answered["verdict"], answered["reason"]) == ("broken", "assertion_failed")
    assert answered["explanation"] == "An assertion does not hold: fragment #b."
    assert answer(original, before="x#a", after="x#a")["verdict"] == "ok"


def test_a_repeat_may_be_well_where_its_original_is_broken_by_its_fragment() -> None:
    missing = {"assertion": "fragment", "expected": "#a", "passed": False, "observed": None}
    other = {"assertion": "contains", "expected": "x", "passed": False, "observed": None}
    broken = {"verdict": "broken", "reason": "assertion_failed", "fragments": leads("b", True)}

    well = answer(result(**broken, assertions=[missing]), before="x#a", after="x#b")
    still_broken = answer(result(**broken, assertions=[other, missing]), before="x#a", after="x#b")

    assert (well["verdict"], well["explanation"]) == ("ok", "The host answered as it should.")
    assert still_broken["explanation"] == "An assertion does not hold: contains x."


def test_a_page_that_was_not_read_answers_all_alike() -> None:
    gone = result(verdict="broken", reason="http_404", status=404, explanation="Gone.", assertions=[])

    answered = answer(gone, before="x#a", after="x#b")

    assert answered == {**gone, "final_url": "http://a.example/x#b", "hops": answered["hops"]}


def test_a_fragment_that_a_redirect_brings_is_that_of_all() -> None:
    hops = [
        {**HOP, "status": 302, "url": "http://a.example/x#a", "location": "http://a.example/y#own"},
        {**HOP, "url": "http://a.example/y#own", "location": None},
    ]
    moved = result(hops=hops, final_url="http://a.example/y#own", fragments=leads("b", True))

    answered = answer(moved, before="x#a", after="x#b")

    assert answered["final_url"] == "http://a.example/y#own"
    assert [hop["url"] for hop in answered["hops"]] == ["http://a.example/x#b", "http://a.example/y#own"]


def test_fragments_that_a_repeat_asks_for_itself_are_in_its_answer() -> None:
    own = leads("own", False)
    found = result(fragments={**own, **leads("b", True)})

    assert answer(found, before="x#a", after="x#b", fragments=["own"])["fragments"] == own


def test_a_successor_looks_for_what_its_original_looked_for() -> None:
    first, second = urls("x#a", "x#b", **SEARCHED)

    assert successor_args({**first, "fragments": ["b", "c"]}, second)["fragments"] == ["a", "c"]
    assert successor_args(*urls("x#a", "x#b")) == {"url": "http://a.example/x#b"}


def test_an_answer_says_of_a_fragment_why_it_was_not_judged() -> None:
    unjudged = leads("b", None, "the answer is no HTML")

    answered = answer(result(fragments=unjudged), before="x#a", after="x#b")

    assert answered["verdict"] == "ok"
    assert answered["explanation"] == (
        "The host answered as it should. Whether fragment #b holds was not judged: the answer is no HTML."
    )


def test_an_empty_fragment_stays_one() -> None:
    assert answer(result(), before="x#a", after="x#")["final_url"] == "http://a.example/x#"
