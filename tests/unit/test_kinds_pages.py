"""The arguments of paged fetches, and the ids of their pages."""

from typing import Any
from uuid import UUID

import pytest

from producer.submission import new_job
from producer.submission_models import JobSubmission
from shared.clock import utc_now
from shared.errors import JobInvalid
from shared.identity import MAX_INDEX, derived_id, new_id


def refused(pages: Any, **args: Any) -> list[str]:
    """Return where a submission with these pages is at fault."""
    try:
        accepted(pages, **args)
    except JobInvalid as error:
        return [each.loc for each in error.errors]
    return []


def accepted(pages: Any, **args: Any) -> Any:
    document = {"kind": "fetch", "args": {"url": "https://a.example/", "pages": pages, **args}}
    submission = JobSubmission.model_validate(document)
    return new_job(submission, job_id=new_id(), now=utc_now(), project="default").args


def test_only_what_differs_from_the_defaults_is_stored() -> None:
    stored = accepted({"by": "page", "total": "total", "max_pages": 1_000})

    assert stored["pages"] == {"by": "page", "total": "total"}


@pytest.mark.parametrize(
    ("pages", "loc"),
    [
        ({}, "/args/pages"),
        ({"by": "pages"}, "/args/pages"),
        ({"by": "page", "limit": 7}, "/args/pages/page/limit"),
        ({"by": "page", "size": 7}, "/args/pages/page"),
        ({"by": "page", "size_parameter": "n"}, "/args/pages/page"),
        ({"by": "page", "first": -1}, "/args/pages/page/first"),
        ({"by": "page", "first": 10**30}, "/args/pages/page/first"),
        ({"by": "page", "first": "1"}, "/args/pages/page/first"),
        ({"by": "page", "parameter": "a b"}, "/args/pages/page/parameter"),
        ({"by": "page", "parameter": "a\0"}, "/args/pages/page/parameter"),
        ({"by": "page", "items": "["}, "/args/pages/page/items"),
        ({"by": "page", "total": "total", "total_header": "X-Total-Count"}, "/args/pages/page"),
        ({"by": "page", "total_header": "X Total"}, "/args/pages/page/total_header"),
        ({"by": "offset", "size": 0}, "/args/pages/offset/size"),
        ({"by": "offset", "max_pages": 10_001}, "/args/pages/offset/max_pages"),
        ({"by": "offset", "max_items": 0}, "/args/pages/offset/max_items"),
        ({"by": "cursor"}, "/args/pages/cursor/cursor"),
        ({"by": "cursor", "cursor": "next", "key": ""}, "/args/pages/cursor/key"),
        ({"by": "link", "other_origins": 1}, "/args/pages/link/other_origins"),
        ({"by": "next_url"}, "/args/pages/next_url/next_url"),
        ({"by": "next_url", "next_url": "a.\0"}, "/args/pages/next_url/next_url"),
        ([], "/args/pages"),
        ("page", "/args/pages"),
    ],
)
def test_what_makes_no_sense_is_refused_and_named(pages: Any, loc: str) -> None:
    where = refused(pages)

    assert where == [loc]


def test_items_pick_out_what_is_kept_so_extract_is_refused_beside_pages() -> None:
    assert refused({"by": "link"}, extract="@") == ["/args/pages"]


def test_a_stranger_cannot_hand_in_the_job_of_a_single_page() -> None:
    page = {"root": str(new_id()), "index": 3}

    assert refused({"by": "link"}, page=page) == ["/args/page"]


def test_derived_ids_are_fixed_and_sort_by_root_and_index() -> None:
    root = UUID("01a203f7-2316-7400-922d-0a315fe2b95f")
    ids = [derived_id(root, index) for index in range(MAX_INDEX + 1)]

    assert ids == sorted(ids) and len(set(ids)) == len(ids)
    assert ids[7] == derived_id(root, 7) == UUID("01a203f7-2316-7001-b7e3-4e272fe849d4")
    assert {(each.version, each.variant, each.int >> 80) for each in ids} == {
        (7, root.variant, root.int >> 80)
    }


def test_derived_ids_of_roots_of_one_millisecond_differ() -> None:
    roots = [new_id() for _ in range(1_000)]

    assert len({derived_id(root, 1) for root in roots}) == 1_000


@pytest.mark.parametrize("index", [-1, MAX_INDEX + 1])
def test_an_index_without_room_has_no_id(index: int) -> None:
    with pytest.raises(ValueError, match="not an index"):
        derived_id(new_id(), index)
