"""When dead letters count as stuck, and the address of the management API as a setting."""

import pytest

from producer.ledger.dead_letters import QueueCounts, StuckDeadLetters
from shared.errors import SettingsInvalid
from shared.settings import Settings, read_settings


def test_only_dead_letters_that_stay_for_a_minute_are_stuck() -> None:
    stuck = StuckDeadLetters()

    seen = [
        stuck.note({"jobs.delay.00005s": 3, "jobs.delay.00006s": 0}, now=now) for now in (0, 30, 59, 60, 75)
    ]

    assert seen == [{}, {}, {}, {"jobs.delay.00005s": 3}, {"jobs.delay.00005s": 3}]


def test_a_queue_that_was_seen_without_dead_letters_begins_anew() -> None:
    stuck = StuckDeadLetters()

    seen = [
        stuck.note({"jobs.delay.00005s": count}, now=now)
        for now, count in ((0, 3), (30, 0), (60, 3), (120, 4))
    ]

    assert seen == [{}, {}, {}, {"jobs.delay.00005s": 4}]


def test_what_is_neither_ready_nor_in_hand_is_on_its_way() -> None:
    assert QueueCounts(name="q", messages=9, messages_ready=4, messages_unacknowledged=3).dead_lettering == 2
    assert QueueCounts(name="q", messages=1, messages_ready=2).dead_lettering == 0
    assert QueueCounts.model_validate_json('{"name":"q"}').dead_lettering == 0


def test_the_address_of_the_management_api_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRIEVER_MANAGEMENT_URL", "http://retriever:hunter2@rabbitmq:15672")

    settings = read_settings()

    assert "hunter2" not in repr(settings)
    assert settings.management_url is not None


def test_an_address_that_is_none_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRIEVER_MANAGEMENT_URL", "rabbitmq:hunter2@15672")

    with pytest.raises(SettingsInvalid, match="RETRIEVER_MANAGEMENT_URL") as caught:
        read_settings()

    assert "hunter2" not in str(caught.value)


def test_an_empty_address_is_none() -> None:
    assert Settings(management_url="").management_url is None  # type: ignore[arg-type]
