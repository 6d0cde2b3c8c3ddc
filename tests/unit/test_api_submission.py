"""From submissions to jobs: defaults, overrides and pointers to what is wrong."""

from datetime import UTC, datetime

import pytest

from producer.batch_validation import BatchInvalid, batch_args
from producer.submission import JobTemplate, json_pointer, new_job
from producer.submission_models import BatchSubmission, JobSubmission
from shared.errors import JobInvalid
from shared.identity import new_id
from shared.kinds.registry import KINDS, Lane
from shared.retry import RetryPolicy

NOW = datetime(2025, 1, 1, tzinfo=UTC)
URL = "http://example.com/"


def make_submission(**fields: object) -> JobSubmission:
    return JobSubmission.model_validate({"kind": "check", "args": {"url": URL}} | fields)


def make_batch(**fields: object) -> BatchSubmission:
    return BatchSubmission.model_validate({"kind": "check", "items": [{"url": URL}]} | fields)


def test_a_job_keeps_only_arguments_that_differ_from_the_defaults() -> None:
    submission = make_submission(
        args={"url": "HTTP://EXAMPLE.com", "timeout_seconds": 30, "max_redirects": 2}
    )

    job = new_job(submission, job_id=new_id(), now=NOW, project="default")

    assert job.args == {"url": URL, "max_redirects": 2}
    assert (job.host, job.lane, job.created_at) == ("example.com", Lane.INTERACTIVE, NOW)


@pytest.mark.parametrize(
    ("url", "host"),
    [("http://[2001:DB8::1]:8080/", "2001:db8::1"), ("http://user:pw@a.example:81/", "a.example")],
)
def test_the_host_has_neither_port_nor_brackets_nor_credentials(url: str, host: str) -> None:
    job = new_job(make_submission(args={"url": url}), job_id=new_id(), now=NOW, project="default")

    assert job.host == host


def test_a_retry_override_is_laid_over_the_policy_of_the_kind() -> None:
    job = new_job(
        make_submission(retry={"max_attempts": 7, "jitter": False}),
        job_id=new_id(),
        now=NOW,
        project="default",
    )

    assert job.retry == KINDS["check"].retry.model_copy(update={"max_attempts": 7, "jitter": False})
    assert (
        new_job(make_submission(), job_id=new_id(), now=NOW, project="default").retry == KINDS["check"].retry
    )


def test_an_override_that_repeats_a_default_still_counts() -> None:
    default = RetryPolicy().max_attempts
    submission = make_submission(retry={"max_attempts": default})

    assert submission.retry.model_dump(exclude_unset=True) == {"max_attempts": default}


@pytest.mark.parametrize("args", [{"url": URL, "max_redirects": 10**30}, {"url": URL, "x": {"y": object()}}])
def test_arguments_that_are_no_json_are_invalid(args: dict[str, object]) -> None:
    with pytest.raises(JobInvalid) as caught:
        new_job(make_submission(args=args), job_id=new_id(), now=NOW, project="default")

    assert caught.value.errors[0].loc.startswith("/args")


def test_items_of_a_batch_win_over_its_defaults() -> None:
    batch = make_batch(defaults={"max_redirects": 1, "url": URL}, items=[{}, {"max_redirects": 2}])

    args, rejected, _ = batch_args(batch, JobTemplate.of(batch, now=NOW, project="default"))

    assert rejected == []
    assert [each.document["max_redirects"] for each in args] == [1, 2]


def test_every_wrong_item_is_counted_and_the_first_are_named() -> None:
    batch = make_batch(items=[{"url": URL}, *[{"url": "nonsense"}] * 30], strict=True)

    with pytest.raises(BatchInvalid) as caught:
        batch_args(batch, JobTemplate.of(batch, now=NOW, project="default"))

    assert caught.value.summary.startswith("30 of 31 items")
    assert len(caught.value.errors) == 20
    assert caught.value.errors[0].loc == "/items/1/url"


def test_wrong_items_do_not_sink_the_rest_unless_all_are_wrong() -> None:
    batch = make_batch(items=[{"url": "nonsense"}, 5, {"url": URL}])

    args, rejected, _ = batch_args(batch, JobTemplate.of(batch, now=NOW, project="default"))

    assert [each.document["url"] for each in args] == [URL]
    assert [(each.number, each.loc) for each in rejected] == [(1, "/items/0/url"), (2, "/items/1")]
    with pytest.raises(BatchInvalid, match="not an object"):
        batch_args(make_batch(items=[5]), JobTemplate.of(batch, now=NOW, project="default"))


def test_pointers_escape_and_bound_what_a_client_named() -> None:
    assert json_pointer(["a/b~c", 0, "[key]"]) == "/a~1b~0c/0"
    assert len(json_pointer(["x" * 10_000])) == 61
    assert json_pointer([]) == ""
