"""Which jobs of third parties are kept, and as what."""

from dataclasses import replace

import pytest

from producer.adoption import adopt_jobs, project_of
from producer.submission import new_job
from producer.submission_models import JobSubmission
from shared.clock import utc_now
from shared.errors import SettingsInvalid
from shared.identity import new_id
from shared.kinds.registry import KINDS
from shared.messages import Job
from shared.settings import read_settings
from tests.support.factories import TOKENS


def make(**fields: object) -> Job:
    job = {"id": new_id(), "kind": "check", "args": {"url": "https://a.example"}}
    return Job.model_validate({**job, **fields})


def test_a_job_is_the_same_as_one_that_was_submitted() -> None:
    args, now = {"url": "https://A.example#top", "timeout_seconds": 7.0}, utc_now()
    submitted = new_job(
        JobSubmission.model_validate({"kind": "check", "args": args, "ref": "a.md:7"}),
        job_id=new_id(),
        now=now,
        project="default",
    )

    (adopted,) = adopt_jobs([make(args=args, ref="a.md:7")], whose=lambda _: "default", now=now)

    assert replace(adopted.job, id=submitted.id, retry=submitted.retry) == submitted


def test_a_job_with_a_long_number_is_kept_as_it_came() -> None:
    args = {"url": "https://a.example/", "assertions": {"json": [{"path": "id", "equals": 2**64 + 1}]}}

    (adopted,) = adopt_jobs([make(args=args)], whose=lambda _: "default", now=utc_now())

    assert (adopted.job.args, adopted.job.host) == (args, "a.example")


def test_of_one_id_the_earliest_copy_counts() -> None:
    job = make(run=2, attempt=3)
    copies = [job.model_copy(update={"run": run, "attempt": attempt}) for run, attempt in ((3, 1), (2, 4))]

    (adopted,) = adopt_jobs([copies[0], job, copies[1]], whose=lambda _: "default", now=utc_now())

    # The attempt that it asks for has not been made.
    assert (adopted.run, adopted.attempt) == (2, 2)


def test_a_kind_that_nobody_knows_is_left_out() -> None:
    assert adopt_jobs([make(kind="brew")], whose=lambda _: "default", now=utc_now()) == []


def test_no_message_makes_a_task_that_agents_would_pick_but_a_parked_one_comes_back_from_its_message() -> (
    None
):
    task = make(kind="task", args={"payload": 1, "queue": "films"})

    assert adopt_jobs([task], whose=lambda _: "default", now=utc_now()) == []
    (adopted,) = adopt_jobs([task], whose=lambda _: "default", now=utc_now(), kinds=KINDS)
    assert adopted.job.queue == "films"


@pytest.mark.parametrize(
    ("fields", "is_proven", "project"),
    [
        ({}, False, "default"),
        ({"publisher": "crawler"}, False, "web"),
        ({"publisher": "crawler", "project": "acme"}, False, "web"),
        ({"publisher": "nobody", "project": "acme"}, False, "default"),
        ({"project": "acme"}, True, "acme"),
        ({"project": "acme", "publisher": "crawler"}, True, "acme"),
        ({}, True, "default"),
        ({"project": "acme", "publisher": "crawler", "token": "0" * 32}, False, "default"),
    ],
    ids=str,
)
def test_the_project_of_a_job_is_what_can_be_proven(
    fields: dict[str, str], is_proven: bool, project: str
) -> None:
    job = make(**fields)
    if is_proven:
        job = job.model_copy(update={"token": TOKENS.of(job.id, job.run)})

    assert project_of(job, tokens=TOKENS, publishers={"crawler": "web"}) == project


def test_users_are_mapped_to_projects() -> None:
    for text, projects in (("a=web, b=web", {"a": "web", "b": "web"}), ("", {})):
        assert read_settings(publisher_projects=text).publisher_projects == projects


@pytest.mark.parametrize("text", ["a", "a=", "=web", "a=Web", "a=web,a=docs", "a=web b"])
def test_a_map_of_users_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(SettingsInvalid, match="RETRIEVER_PUBLISHER_PROJECTS"):
        read_settings(publisher_projects=text)
