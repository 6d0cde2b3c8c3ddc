"""Lists of job ids, however their bytes arrive."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.api.id_lines import IdSpool
from producer.api.problems import HttpProblem
from shared.errors import JobInvalid
from shared.identity import new_id

AN_ID = "0199aa3e-7b5c-7d4e-9f00-3b1f6c2a9d10"


@given(
    count=st.integers(1, 30),
    cut=st.integers(1, 200),
    ending=st.sampled_from(["\n", "\r\n", "\r", " \n\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_a_list_is_the_same_however_it_is_cut(count: int, cut: int, ending: str, encoding: str) -> None:
    ids = [new_id() for _ in range(count)]
    body = ending.join(map(str, ids)).encode(encoding)

    with IdSpool() as spool:
        for start in range(0, len(body), cut):
            spool.feed(body[start : start + cut])
        spool.finish()

        assert (spool.count, list(spool.ids()), list(spool.ids())) == (count, ids, ids)


@pytest.mark.parametrize(
    "line",
    [
        "0199aa3e7b5c7d4e9f003b1f6c2a-9d10---",
        "x",
        "1",
        f"{{{AN_ID}}}",
        f"{AN_ID}x",
        f"urn:uuid:{AN_ID}",
        "é" * 18,
    ],
)
def test_a_line_that_is_no_id_refuses_the_list_by_its_number(line: str) -> None:
    with IdSpool() as spool:
        spool.feed(f"{new_id()}\n\n{line}\n{new_id()}\n".encode())

        with pytest.raises(JobInvalid) as caught:
            spool.finish()

    assert [error.loc for error in caught.value.errors] == ["/lines/3"]


def test_an_answer_names_the_first_twenty_faults() -> None:
    with IdSpool() as spool:
        spool.feed(b"no id\n" * 100)

        with pytest.raises(JobInvalid) as caught:
            spool.finish()

    assert [error.loc for error in caught.value.errors] == [f"/lines/{number}" for number in range(1, 21)]


@pytest.mark.parametrize("body", [b"", b"\n\n  \n"])
def test_a_list_of_nothing_is_refused(body: bytes) -> None:
    with IdSpool() as spool:
        spool.feed(body)

        with pytest.raises(JobInvalid) as caught:
            spool.finish()

    assert [error.loc for error in caught.value.errors] == ["/lines"]


def test_a_list_has_so_many_ids_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.api.id_lines.MAX_LISTED_IDS", 3)
    with IdSpool() as spool:
        spool.feed(f"{new_id()}\n".encode() * 3)

        with pytest.raises(HttpProblem) as caught:
            spool.feed(f"{new_id()}\n".encode())

    assert (caught.value.status, caught.value.errors[0].loc) == (413, "/lines")


def test_nobody_reads_on_behind_the_faults_that_are_named() -> None:
    with IdSpool() as spool:
        spool.feed(b"no id\n" * 100)

        with pytest.raises(JobInvalid):
            spool.feed(f"{new_id()}\n".encode())
