"""What a RabbitMQ answers on its two ports: is it there, and what does its management API say."""

import http.client
import json
import socket
from base64 import b64encode
from typing import Any
from urllib.parse import urlsplit

from deploy.local.ports import LOOPBACK

PROBE_SECONDS = 2.0


def amqp_answers(amqp_url: str) -> bool:
    """Tell whether something speaks AMQP there: Docker's proxy accepts connections before the broker does."""
    parts = urlsplit(amqp_url)
    place = (parts.hostname or LOOPBACK, parts.port or 5672)
    try:
        with socket.create_connection(place, timeout=PROBE_SECONDS) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            # A method frame (type 1): connection.start.
            return connection.recv(1) == b"\x01"
    except OSError:
        return False


def management_answers(management_url: str) -> bool:
    """Tell whether the management API answers."""
    try:
        return ask_management(management_url, "overview") is not None
    except OSError:
        return False


def ask_management(management_url: str, path: str, *, timeout_seconds: float = PROBE_SECONDS) -> Any | None:
    """Return what GET /api/`path` answers, or None if that is not a 200.

    Raises:
        OSError: Nothing answers there in time.
    """
    parts = urlsplit(management_url)
    password = b64encode(f"{parts.username}:{parts.password}".encode()).decode()
    connection = http.client.HTTPConnection(
        parts.hostname or LOOPBACK, parts.port or 15672, timeout=timeout_seconds
    )
    try:
        connection.request("GET", f"/api/{path}", headers={"Authorization": f"Basic {password}"})
        response = connection.getresponse()
        return json.load(response) if response.status == http.client.OK else None
    except http.client.HTTPException as error:
        raise ConnectionError(f"GET /api/{path} was answered by {error!r}.") from error
    finally:
        connection.close()
