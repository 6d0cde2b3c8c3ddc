"""`make run` says where everything is."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.local.broker import Broker
from deploy.local.run import announcement
from deploy.local.stack import Stack


class RunningServer:
    """Stands for a broker that we started."""

    node_name = "retriever@localhost"


def make_stack(
    *, server: Any = None, database_url: str = "sqlite:////data/retriever.db", has_contact: bool = True
) -> Stack:
    broker = Broker(
        kind="private node",
        amqp_url="amqp://guest:secret@127.0.0.1:23446/",
        management_url="http://guest:secret@127.0.0.1:23447",
        server=server,
    )
    return Stack("http://127.0.0.1:8080", database_url, broker, has_contact, ())


def said(stack: Stack) -> str:
    return "\n".join(announcement(stack, Path(".run")))


def test_the_broker_that_we_started_is_named_with_its_user_and_password() -> None:
    text = said(make_stack(server=RunningServer()))

    assert "amqp://guest:secret@127.0.0.1:23446/" in text
    assert "http://127.0.0.1:23447   user guest, password secret" in text
    assert "sqlite:////data/retriever.db" in text


def test_passwords_of_given_servers_are_not_printed() -> None:
    text = said(make_stack(database_url="postgresql://retriever:secret@db/retriever"))

    assert "http://127.0.0.1:23447" in text
    assert "secret" not in text


@pytest.mark.parametrize("has_contact", [True, False])
def test_a_missing_contact_is_pointed_out(has_contact: bool) -> None:
    assert ("RETRIEVER_CONTACT_URL" in said(make_stack(has_contact=has_contact))) is not has_contact


def test_the_end_of_any_group_of_processes_ends_the_service() -> None:
    with (
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as lasting,
        subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as ending,
    ):
        try:
            broker = Broker(kind="given", amqp_url="amqp://127.0.0.1/", management_url=None)
            stack = Stack("http://127.0.0.1:8080", "sqlite://", broker, True, (lasting, ending))

            assert stack.wait() == 3
        finally:
            lasting.kill()
