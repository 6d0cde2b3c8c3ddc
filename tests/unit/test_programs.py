"""Strangers' patterns and expressions: compiled in bounded time, and not kept."""

import random
import resource
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from shared.kinds.check import Assertions
from shared.programs import compile_expression, compile_pattern, pattern_size

# Each took 50 to 180 ms, and a job may have twenty.
DEAR = {
    "large classes": r"(\pL{30}){30}",
    "large repeat": r"\pL{1000}",
    "negated classes": "|".join([r"[^\pL]"] * 160),
    "classes": "|".join([r"\pL"] * 250),
    "nested repeats": "((((a{1,9}){1,9}){1,9})?)" * 40,
    "class repeat": "[" + r"\pL\pN" * 120 + "]{100}",
}


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize("pattern", DEAR.values(), ids=DEAR)
def test_a_pattern_that_is_too_large_is_refused_before_it_costs_anything(pattern: str) -> None:
    began = time.process_time()
    for number in range(20):
        with pytest.raises(ValidationError, match="regex"):
            Assertions.model_validate({"regex": [f"{pattern}{number}"[:1_000]]})

    # A tenth of what it was.
    assert time.process_time() - began < 0.5


def test_the_size_of_a_pattern_is_that_of_its_program() -> None:
    for pattern in ("a", "[ab]*a[ab]{400}c", r"\p{Greek}+", "(?i)hello.*world"):
        assert pattern_size(pattern) == compile_pattern(pattern).programsize


def test_an_escaped_backslash_before_a_p_is_no_class() -> None:
    assert pattern_size(r"\\p" * 20) > 0


def test_no_expression_stays_in_memory() -> None:
    compile_expression("a")
    before = resident_bytes()

    for number in range(600):
        compile_expression("||".join([f"a{number}"] * 140)[:1_000].rstrip("|"))

    # Each tree takes up to 200 KB, and the library keeps 512.
    assert resident_bytes() - before < 15_000_000


def test_no_pattern_keeps_what_it_matched() -> None:
    text = "".join(random.Random(1).choices("ab", k=5_000))
    before = resident_bytes()

    for number in range(40):
        compile_pattern(f"[ab]*a[ab]{{{100 + number}}}c").search(text)

    # Each takes up to 8 MB, and the library keeps 128.
    assert resident_bytes() - before < 40_000_000
