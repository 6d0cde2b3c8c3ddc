"""Which fields a document may have, at any depth, as the answer to an unknown one lists them."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from producer.api.bulk_actions import OperationRequest
from producer.submission import field_errors
from producer.submission_models import BatchSubmission, JobSubmission, ScheduleSubmission
from shared.kinds.registry import KINDS

FETCH, CHECK = KINDS["fetch"].args_model, KINDS["check"].args_model
URL = "http://a.example/"


@pytest.mark.parametrize(
    ("model", "document", "loc", "there", "not_there"),
    [
        (JobSubmission, {"kind": "check", "args": {}, "x": 1}, "/x", "unique_for_seconds", "items"),
        (BatchSubmission, {"kind": "check", "items": [1], "x": 1}, "/x", "items", "unique_for_seconds"),
        (JobSubmission, {"kind": "check", "args": {}, "retry": {"x": 1}}, "/retry/x", "max_attempts", "kind"),
        (
            ScheduleSubmission,
            {"job": {"kind": "check", "args": {}, "retry": {"x": 1}}},
            "/job/retry/x",
            "factor",
            "job",
        ),
        (OperationRequest, {"filter": {"kind": "check", "x": 1}}, "/filter/x", "parked_after", "dry_run"),
        (CHECK, {"url": URL, "assertions": {"x": 1}}, "/assertions/x", "json", "url"),
        (
            CHECK,
            {"url": URL, "assertions": {"header": [{"name": "a", "x": 1}]}},
            "/assertions/header/0/x",
            "equals",
            "json",
        ),
        # A single page is the service's own business.
        (FETCH, {"url": URL, "x": 1}, "/x", "pages", "page"),
        # The tag of a union chooses among its members.
        (FETCH, {"url": URL, "pages": {"by": "link", "x": 1}}, "/pages/link/x", "other_origins", "cursor"),
        (
            FETCH,
            {"url": URL, "pages": {"by": "cursor", "cursor": "next", "x": 1}},
            "/pages/cursor/x",
            "cursor",
            "offset",
        ),
    ],
)
def test_an_unknown_field_is_answered_with_those_of_its_place(
    model: type[BaseModel], document: dict[str, Any], loc: str, there: str, not_there: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(document)

    (fault,) = [error for error in field_errors(caught.value, model) if error.loc.endswith("/x")]
    said, _, listed = fault.msg.partition("; there are: ")
    names = listed.split(", ")
    assert (fault.loc, said) == (loc, "There is no such field")
    assert there in names and not_there not in names


def test_a_document_without_fields_says_so() -> None:
    class Empty(BaseModel):
        model_config = {"extra": "forbid"}

    with pytest.raises(ValidationError) as caught:
        Empty.model_validate({"x": 1})

    (fault,) = field_errors(caught.value, Empty)
    assert fault.msg == "There is no such field; there are none"
