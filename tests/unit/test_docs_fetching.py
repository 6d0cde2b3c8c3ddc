"""The examples of docs/fetching.md do what the page says."""

import json
import re

import pytest

from consumer.compute.extract import extract
from shared.kinds.fetch import FetchArgs
from tests.support.documents import blocks, read

EXAMPLES = [block.text for block in blocks("docs/fetching.md") if block.language == "json"]
# The first is the head of the table.
ROWS = re.findall(r"^\| [\w ]+ \| `(.*)` \| `(.*)` \|$", read("docs/fetching.md"), re.MULTILINE)[1:]


def test_there_are_examples() -> None:
    assert (len(EXAMPLES), len(ROWS)) == (3, 9)


def test_the_job_of_the_page_is_valid() -> None:
    args = FetchArgs.model_validate_json(json.dumps(json.loads(EXAMPLES[0])["args"]), strict=True)

    assert args.if_changed


@pytest.mark.parametrize(("expression", "data"), ROWS)
def test_an_expression_makes_what_the_page_says(expression: str, data: str) -> None:
    assert extract(json.loads(EXAMPLES[2]), expression) == json.loads(data)
