"""How much the recorder writes in one transaction."""

from types import SimpleNamespace
from typing import cast
from unittest.mock import sentinel

import pytest

from producer.ledger.metrics import LedgerMetrics
from producer.ledger.recorder import Recorder
from shared.broker.bundle import bundled
from shared.broker.delivery import Delivery
from shared.settings import Settings
from tests.support.factories import TOKENS


def waiting_recorder(*bodies: bytes, reports: int) -> Recorder:
    """Return a recorder in whose hand messages are, and that writes so many reports at once."""
    recorder = Recorder(
        tokens=TOKENS,
        store=sentinel.store,
        metrics=LedgerMetrics(),
        settings=Settings(recorder_prefetch=reports),
    )
    for body in bodies:
        recorder._waiting.put_nowait(cast("Delivery", SimpleNamespace(body=body)))
    return recorder


@pytest.mark.parametrize(
    ("bodies", "sizes"),
    [
        ([b"{}"] * 7, [5, 2]),
        ([bundled([b"{}"] * 3)] * 3, [2, 1]),
        ([bundled([b"{}"] * 9), b"{}"], [1, 1]),
        ([b"x" * 9_000_000] * 3, [2, 1]),
    ],
)
async def test_a_transaction_is_bounded_by_its_reports_and_bytes_however_they_travel(
    bodies: list[bytes], sizes: list[int]
) -> None:
    recorder = waiting_recorder(*bodies, reports=5)

    assert [len(await recorder._take_batch()) for _ in sizes] == sizes
