"""What is seen of the arguments of parked jobs, and how they come back."""

import dataclasses
import json
from typing import Any

import pytest

from consumer.executor import Executor
from producer.adoption import adopt_jobs, is_adoptable
from shared.encryption import EncryptionKeys
from shared.errors import SecretUnreadable
from shared.identity import new_id
from shared.messages import JobMessage
from shared.outcomes import Failed
from shared.veiled_args import unveiled, veiled
from tests.support.factories import NOON
from tests.support.secrets import KEYS

VALUE = "s3cr3t-marked"
SECRET: list[dict[str, Any]] = [
    {"url": f"https://user:{VALUE}@a.example/"},
    {"url": "https://a.example/", "headers": {"X-Api-Key": VALUE, "Accept": "text/html"}},
    {"url": "https://a.example/", "method": "POST", "json": {"password": VALUE, "n": 10**30, "x": "\ud800"}},
]
PLAIN: list[dict[str, Any]] = [
    {"url": "https://a.example/"},
    {"url": "https://a.example/", "auth": {"type": "bearer", "token": {"secret": "crm"}}},
]


def make(args: dict[str, Any], **more: Any) -> JobMessage:
    return JobMessage(**{"id": new_id(), "kind": "fetch", "args": args, "token": "t", **more})


@pytest.mark.parametrize("args", SECRET)
def test_what_is_secret_is_not_seen_and_comes_back_whole(args: dict[str, Any]) -> None:
    job = make(args, project="docs")

    hidden = veiled(job, KEYS)

    assert VALUE not in json.dumps(hidden.model_dump(mode="json")) and "***" in json.dumps(hidden.args)
    assert unveiled(hidden, KEYS) == job
    assert unveiled(job, KEYS) is job


def test_it_comes_back_after_its_way_over_the_broker() -> None:
    job = make(SECRET[1])

    assert unveiled(JobMessage.decode(veiled(job, KEYS).encode()), KEYS) == job


@pytest.mark.parametrize("args", PLAIN)
def test_arguments_without_secrets_stay_as_they_are(args: dict[str, Any]) -> None:
    job = make(args)

    assert veiled(job, KEYS) is job


def test_a_third_partys_job_stays_as_it_came_and_so_does_one_without_keys() -> None:
    strangers, ours = make(SECRET[0], token=None), make(SECRET[0])

    assert veiled(strangers, KEYS) is strangers
    assert veiled(ours, EncryptionKeys()) is ours


def test_what_is_too_large_to_be_sealed_beside_is_left_as_it_is() -> None:
    job = make({**SECRET[0], "headers": {"X": "x" * 1_600_000}})

    assert veiled(job, KEYS) is job


@pytest.mark.parametrize("change", [{"project": "web"}, {"run": 2}, {"id": new_id()}, {"sealed_args": "%"}])
def test_arguments_of_one_job_are_not_those_of_another(change: dict[str, Any]) -> None:
    hidden = veiled(make(SECRET[0]), KEYS)

    with pytest.raises(SecretUnreadable):
        unveiled(hidden.model_copy(update=change), KEYS)
    with pytest.raises(SecretUnreadable):
        unveiled(hidden, EncryptionKeys())


def test_no_masked_arguments_get_into_a_store_that_lacks_the_job() -> None:
    job = make(SECRET[0])
    hidden = veiled(job, KEYS)

    assert (is_adoptable(job), is_adoptable(hidden)) == (True, False)
    before = hidden.model_copy(update={"attempt": 1})
    assert adopt_jobs([before], whose=lambda _: "default", now=NOON) == []
    (adopted,) = adopt_jobs([unveiled(hidden, KEYS)], whose=lambda _: "default", now=NOON)
    assert dataclasses.asdict(adopted)["job"]["args"] == job.args


@pytest.mark.parametrize(
    ("args", "place"),
    [
        ({"url": "https://***7d1f0e@a.example/"}, "/args/url"),
        ({"url": "https://a.example/", "headers": {"X-Api-Key": "***"}}, "/args/headers/X-Api-Key"),
        ({"url": "https://a.example/", "json": {"password": "***7d1f0e"}}, "/args/json/password"),
    ],
)
async def test_a_worker_sends_no_mask(args: dict[str, Any], place: str) -> None:
    attempt = await Executor({}).execute(make(args))
    named = await Executor({"fetch": _never}).execute(make(args))

    assert isinstance(attempt.outcome, Failed)
    assert isinstance(named.outcome, Failed)
    assert (named.outcome.reason, named.outcome.transient) == ("arguments_masked", False)
    assert named.outcome.explanation.startswith(f"{place}: what was hidden is lost")


async def _never(*_: Any) -> Any:
    raise AssertionError("nothing may be sent")
