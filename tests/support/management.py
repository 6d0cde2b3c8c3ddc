"""A tiny client of RabbitMQ's management API: what tests look at, and the virtual hosts that they work in."""

import uuid
from collections import Counter
from typing import Any
from urllib.parse import quote, urlsplit

import httpx


class Management:
    """Reads queues and makes virtual hosts through the management API."""

    def __init__(self, url: str) -> None:
        """Take the API's address with user and password, `http://guest:guest@127.0.0.1:15672`."""
        self._user = urlsplit(url).username or "guest"
        self._http = httpx.Client(base_url=f"{url.rstrip('/')}/api", timeout=10.0)

    def version(self) -> str:
        """Return the version of RabbitMQ."""
        return str(self._call("GET", "/overview").json()["rabbitmq_version"])

    def queues(self, vhost: str) -> list[dict[str, Any]]:
        """Return every queue of a virtual host; lengths are about a second old."""
        return list(self._call("GET", f"/queues/{quote(vhost, safe='')}").json())

    def queue(self, vhost: str, name: str) -> dict[str, Any]:
        """Return one queue with its length, arguments and state.

        Raises:
            httpx.HTTPStatusError: There is no such queue (404).
        """
        return dict(self._call("GET", f"/queues/{quote(vhost, safe='')}/{quote(name, safe='')}").json())

    def messages(self, vhost: str, name: str, *, count: int = 1000) -> list[dict[str, Any]]:
        """Return the messages at the head of a queue and put them back; it counts as a delivery of each."""
        body = {"count": count, "ackmode": "ack_requeue_true", "encoding": "auto"}
        path = f"/queues/{quote(vhost, safe='')}/{quote(name, safe='')}/get"
        return list(self._call("POST", path, body).json())

    def publish(
        self, vhost: str, exchange: str, routing_key: str, payload: str, **properties: object
    ) -> None:
        """Publish a message as a stranger would."""
        body = {
            "routing_key": routing_key,
            "payload": payload,
            "payload_encoding": "string",
            "properties": properties,
        }
        path = f"/exchanges/{quote(vhost, safe='')}/{quote(exchange, safe='')}/publish"
        assert self._call("POST", path, body).json() == {"routed": True}

    def bind_queue(self, vhost: str, exchange: str, key: str) -> str:
        """Bind a queue of its own to an exchange, as a listener does; return its name."""
        name = f"listener-{uuid.uuid4().hex[:12]}"
        place = quote(vhost, safe="")
        self._call("PUT", f"/queues/{place}/{name}", {"durable": True})
        self._call("POST", f"/bindings/{place}/e/{exchange}/q/{name}", {"routing_key": key})
        return name

    async def close_connections(self, vhost: str, *, name: str) -> bool:
        """Close the connections of that name by force; return whether there were any yet."""
        connections = self._call("GET", f"/vhosts/{quote(vhost, safe='')}/connections").json()
        chosen = [each for each in connections if each.get("user_provided_name") == name]
        for each in chosen:
            self._call("DELETE", f"/connections/{quote(each['name'], safe='')}")
        return bool(chosen)

    def create_user(self, name: str) -> None:
        """Make a user without rights anywhere, whose password is the name."""
        self._call("PUT", f"/users/{name}", {"password": name, "tags": ""})

    def permit(self, vhost: str, user: str, rights: dict[str, str]) -> None:
        """Say what a user may do in a virtual host: patterns for configure, write and read."""
        self._call("PUT", f"/permissions/{quote(vhost, safe='')}/{quote(user, safe='')}", rights)

    def permit_keys(self, vhost: str, user: str, exchange: str, keys: str) -> None:
        """Say which routing keys a user may publish to a topic exchange of a virtual host, as a pattern."""
        rights = {"exchange": exchange, "write": keys, "read": "^$"}
        self._call("PUT", f"/topic-permissions/{quote(vhost, safe='')}/{quote(user, safe='')}", rights)

    def rights(self) -> dict[str, list[dict[str, Any]]]:
        """Return all users, permissions and topic permissions, by what they are called in definitions."""
        names = ("users", "permissions", "topic_permissions")
        return {name: list(self._call("GET", f"/{name.replace('_', '-')}").json()) for name in names}

    def delete_user(self, name: str) -> None:
        """Delete a user."""
        self._call("DELETE", f"/users/{name}")

    def delete_queue(self, vhost: str, name: str) -> None:
        """Delete a queue with all that is in it, under its consumers."""
        self._call("DELETE", f"/queues/{quote(vhost, safe='')}/{quote(name, safe='')}")

    def unbind(self, vhost: str, exchange: str, queue: str) -> None:
        """Take all bindings of a queue to an exchange away."""
        path = f"/bindings/{quote(vhost, safe='')}/e/{quote(exchange, safe='')}/q/{quote(queue, safe='')}"
        for binding in self._call("GET", path).json():
            self._call("DELETE", f"{path}/{quote(binding['properties_key'], safe='')}")

    def is_bound(self, vhost: str, exchange: str, queue: str) -> bool:
        """Return whether a queue is bound to an exchange."""
        path = f"/bindings/{quote(vhost, safe='')}/e/{quote(exchange, safe='')}/q/{quote(queue, safe='')}"
        return bool(self._call("GET", path).json())

    def definitions(self, vhost: str) -> dict[str, Any]:
        """Return a virtual host's exchanges, queues, bindings, policies and parameters, by these names."""
        return dict(self._call("GET", f"/definitions/{quote(vhost, safe='')}").json())

    def connections_by_node(self, vhost: str) -> Counter[str]:
        """Return how many connections each node of a cluster has, by its name; about a second old."""
        connections = self._call("GET", f"/vhosts/{quote(vhost, safe='')}/connections").json()
        return Counter(each["node"] for each in connections if "node" in each)

    def connection_names(self, vhost: str) -> Counter[str]:
        """Return how many connections of each name there are; about a second old."""
        connections = self._call("GET", f"/vhosts/{quote(vhost, safe='')}/connections").json()
        return Counter(each.get("user_provided_name", "") for each in connections)

    def create_vhost(self, vhost: str) -> None:
        """Make a virtual host that our user may do everything in."""
        self._call("PUT", f"/vhosts/{quote(vhost, safe='')}", {})
        rights = {"configure": ".*", "write": ".*", "read": ".*"}
        self._call("PUT", f"/permissions/{quote(vhost, safe='')}/{quote(self._user, safe='')}", rights)

    def delete_vhost(self, vhost: str) -> None:
        """Delete a virtual host with all that is in it; its connections are closed."""
        self._call("DELETE", f"/vhosts/{quote(vhost, safe='')}")

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        response = self._http.request(method, path, json=body)
        response.raise_for_status()
        return response
