"""The AMQP libraries are patched when a process starts, never by an import, and not on the plain way."""

import subprocess
import sys

# In a process of its own: this one may have been patched by other tests.
_LOOK = """
import aio_pika.abc, aio_pika.channel, aiormq.channel, aiormq.connection

def libraries():
    classes = aiormq.connection.FrameReceiver, aio_pika.channel.UnderlayChannel
    inside = [dict(vars(each)) for each in (aiormq.channel.Channel, aiormq.connection.Connection, *installed)]
    return classes, inside

installed = aiormq.connection.FrameReceiver, aio_pika.channel.UnderlayChannel
before = libraries()

import importlib, pkgutil
import consumer, producer, shared
for package in (consumer, producer, shared):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if ".migrations" not in module.name:
            importlib.import_module(module.name)
from shared.process import prepare_process
from shared.settings import Settings

print("imported", libraries() == before)
prepare_process(Settings(amqp_plain=True), process="test")
print("plain", libraries() == before)
prepare_process(Settings(amqp_plain=False), process="test")
reader, channel = libraries()[0]
print("fast", reader is installed[0], channel is installed[1], libraries()[1] == before[1])
prepare_process(Settings(amqp_plain=True), process="test")
print("plain again", libraries() == before)
"""


def test_libraries_are_patched_when_a_process_is_prepared_and_by_nothing_else() -> None:
    looked = subprocess.run([sys.executable, "-c", _LOOK], capture_output=True, text=True, check=True)

    assert looked.stdout.splitlines() == [
        "imported True",
        "plain True",
        "fast False False True",
        "plain again True",
    ]
