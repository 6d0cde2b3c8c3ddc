"""A run's token shows that a message is of the ledger's job; nobody else can make it."""

from uuid import UUID

import pytest

from producer.run_tokens import RunTokens
from shared.settings import RunTokenPolicy

JOB, OTHER = UUID(int=7), UUID(int=8)
TOKENS = RunTokens(b"k" * 32)


def test_a_run_has_one_token_and_no_other_run_or_store_has_it() -> None:
    tokens = [
        TOKENS.of(JOB, 1),
        TOKENS.of(JOB, 2),
        TOKENS.of(OTHER, 1),
        RunTokens(b"l" * 32).of(JOB, 1),
    ]

    assert len(set(tokens)) == 4 and TOKENS.of(JOB, 1) == RunTokens(b"k" * 32).of(JOB, 1)


@pytest.mark.parametrize("token", ["", "?", "0" * 32, TOKENS.of(JOB, 2), TOKENS.of(OTHER, 1), "ü\ud800"])
@pytest.mark.parametrize("policy", RunTokenPolicy)
def test_a_wrong_token_proves_nothing_whatever_the_policy_is(token: str, policy: RunTokenPolicy) -> None:
    assert not RunTokens(b"k" * 32, policy=policy).prove(token, JOB, 1)


def test_a_missing_token_proves_a_run_only_while_tokens_are_optional() -> None:
    optional = RunTokens(b"k" * 32, policy=RunTokenPolicy.OPTIONAL)

    assert optional.prove(None, JOB, 1) and not TOKENS.prove(None, JOB, 1)
    assert not optional.is_token_of(None, JOB, 1)
    assert all(each.prove(TOKENS.of(JOB, 3), JOB, 3) for each in (TOKENS, optional))
