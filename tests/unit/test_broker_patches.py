"""The AMQP libraries are patched when a process starts, never by an import, and not on the plain way."""

import subprocess
import sys

import pytest

# In a process of its own: this one may have been patched by other tests.
_LOOK = """
import aio_pika.abc, aio_pika.channel, aiormq.channel, aiormq.connection
originals = aiormq.connection.FrameReceiver, aio_pika.channel.UnderlayChannel
attributes = [dict(vars(each)) for each in (aiormq.channel.Channel, aiormq.connection.Connection, *originals)]

import importlib, pkgutil
import consumer, producer, shared
for package in (consumer, producer, shared):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if ".migrations" not in module.name:
            importlib.import_module(module.name)
import consumer.__main__, producer.__main__
from shared.process import prepare_process
from shared.settings import Settings

{prepare}
now = aiormq.connection.FrameReceiver, aio_pika.channel.UnderlayChannel
same = [before is after for before, after in zip(originals, now)]
kept = attributes == [
    dict(vars(each)) for each in (aiormq.channel.Channel, aiormq.connection.Connection, *originals)
]
print(*same, kept)
"""
_FAST = "prepare_process(Settings(), process='test')"
_PLAIN = "prepare_process(Settings(amqp_plain=True), process='test')"


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        pytest.param("", "True True True", id="imports patch nothing"),
        pytest.param(_FAST, "False False True", id="fast replaces the reader and the channel"),
        pytest.param(_PLAIN, "True True True", id="plain patches nothing"),
        pytest.param(f"{_FAST}\n{_PLAIN}", "True True True", id="plain undoes both patches"),
    ],
)
def test_libraries_are_patched_when_a_process_is_prepared_and_by_nothing_else(
    prepare: str, expected: str
) -> None:
    looked = subprocess.run(
        [sys.executable, "-c", _LOOK.format(prepare=prepare)], capture_output=True, text=True, check=True
    )

    assert looked.stdout.strip() == expected
