"""What those look after who run the service: keys, secrets, limits, hosts, kinds and lanes."""

from collections.abc import Iterator, Iterable, Mapping
from typing import Any
from urllib.parse import quote

from retriever_client._sync.resources import Resource, list_of
from retriever_client._core import PAGE, document_of, id_of
from retriever_client.errors import NotFound
from retriever_client.models import (
    Host,
    Key,
    Kind,
    NewKey,
    NewSecret,
    ProjectLimits,
    Queue,
    Secret,
    read,
)


class Keys(Resource):
    """Keys: what opens the API, and how much of it."""

    def create(
        self,
        name: str,
        *,
        scopes: Iterable[str],
        project: str | None = None,
        expires_in_seconds: int | None = None,
        rate_per_second: int | None = None,
        idempotency_key: str | None = None,
    ) -> NewKey:
        """Make a key, and return it with its text, which is shown this once."""
        document = document_of(
            name=name,
            scopes=list(scopes),
            project=project,
            expires_in_seconds=expires_in_seconds,
            rate_per_second=rate_per_second,
        )
        return self._post(NewKey, "/keys", json=document, idempotency_key=idempotency_key)

    def get(self, key: Key | str) -> Key:
        """Return a key without its text."""
        return self._get(Key, f"/keys/{id_of(key)}")

    def list(self, *, page_size: int = PAGE) -> Iterator[Key]:
        """Return keys, newest first, read page by page as you go on."""
        return self.pages(Key, "/keys", page_size=page_size)

    def rotate(self, key: Key | str, *, overlap_seconds: int | None = None) -> NewKey:
        """Give a key another text, and return it; sent again when an answer is lost, it is another once more.

        Args:
            overlap_seconds: How long the text before opens the same; a day by default, 0 ends it at once.
        """
        document = document_of(overlap_seconds=overlap_seconds)
        return self._post(NewKey, f"/keys/{id_of(key)}/rotate", json=document or None)

    def revoke(self, key: Key | str) -> Key:
        """Let a key open nothing any more."""
        return self._post(Key, f"/keys/{id_of(key)}/revoke")


class Kinds(Resource):
    """Kinds and lanes: what jobs can do, and what of it is paused."""

    def list(self) -> list_of[Kind]:
        """Return all kinds, with the schemas of their arguments and results."""
        found = self._transport.document("GET", "/kinds")
        return [read(Kind, each) for each in found["items"]]

    def pause(self, kind: str, *, lane: str | None = None, note: str | None = None) -> list_of[Queue]:
        """Let no job of a kind begin until it is resumed."""
        return self._change(f"/kinds/{kind}/pause", lane=lane, note=note)

    def resume(self, kind: str, *, lane: str | None = None) -> list_of[Queue]:
        """Let jobs of a kind begin again."""
        return self._change(f"/kinds/{kind}/resume", lane=lane)

    def pause_lane(self, lane: str, *, note: str | None = None) -> list_of[Queue]:
        """Let no job of a lane begin until it is resumed."""
        return self._change(f"/lanes/{lane}/pause", note=note)

    def resume_lane(self, lane: str) -> list_of[Queue]:
        """Let jobs of a lane begin again."""
        return self._change(f"/lanes/{lane}/resume")

    def _change(self, path: str, **fields: Any) -> list_of[Queue]:
        found = self._transport.document("POST", path, json=document_of(**fields) or None)
        return [read(Queue, each) for each in found["items"]]


class Secrets(Resource):
    """Secrets: what jobs send along, and nobody sees again."""

    def create(
        self,
        name: str,
        *,
        origins: Iterable[str],
        value: str | None = None,
        use: str | None = None,
        project: str | None = None,
    ) -> NewSecret:
        """Keep a secret under a name by which jobs use it.

        Args:
            name: By which jobs of the project name it.
            origins: Where it may be sent, such as `https://api.example.com`.
            value: Without one, a `webhook` secret is made, and is in the answer this once.
            use: `request`, unless you say `webhook`.
            project: Another than yours, for operators.
        """
        document = document_of(name=name, origins=list(origins), value=value, use=use, project=project)
        return self._post(NewSecret, "/secrets", json=document)

    def get(self, secret: Secret | str) -> Secret:
        """Return a secret without its value."""
        return self._get(Secret, f"/secrets/{id_of(secret)}")

    def list(self, *, page_size: int = PAGE) -> Iterator[Secret]:
        """Return secrets, newest first, read page by page as you go on."""
        return self.pages(Secret, "/secrets", page_size=page_size)

    def replace(
        self,
        secret: Secret | str,
        *,
        value: str | None = None,
        origins: Iterable[str] | None = None,
        overlap_seconds: int | None = None,
    ) -> NewSecret:
        """Give a secret another value, and perhaps other places that it may be sent to.

        Args:
            secret: The secret.
            value: Without one, a `webhook` secret is made, and is in the answer this once.
            origins: None: as before.
            overlap_seconds: Of a `webhook` secret: how long the one before signs too; a day by default.
        """
        document = document_of(
            value=value, origins=None if origins is None else [*origins], overlap_seconds=overlap_seconds
        )
        path = f"/secrets/{id_of(secret)}"
        return read(NewSecret, self._transport.document("PUT", path, json=document))

    def delete(self, secret: Secret | str) -> None:
        """Delete a secret; jobs that name it fail from then on."""
        try:
            self._transport.request("DELETE", f"/secrets/{id_of(secret)}")
        except NotFound as error:
            if error.tries == 1:
                raise
            # The answer to an earlier try was lost.


class Limits(Resource):
    """Limits: what a project may have, and has."""

    def get(self, project: str | None = None) -> ProjectLimits:
        """Return the limits of a project; without a name, of yours. `*` is what holds for all others."""
        return self._get(ProjectLimits, "/limits" if project is None else _limits_path(project))

    def set(self, project: str, limits: Mapping[str, int | None]) -> ProjectLimits:
        """Set all limits of a project at once: one that is not named is none. Only operators may."""
        document = dict(limits)
        return read(
            ProjectLimits, self._transport.document("PUT", _limits_path(project), json=document)
        )


class Hosts(Resource):
    """Hosts: how hard each may be asked, and how it is. Only operators see them."""

    def list(self, *, page_size: int = PAGE) -> Iterator[Host]:
        """Return hosts that come near their limits or have one of their own, by name."""
        return self.pages(Host, "/hosts", page_size=page_size, place="after")

    def get(self, host: Host | str) -> Host:
        """Return a host as it is now.

        Raises:
            NotFound: it is nowhere near its limit, and none was set.
        """
        return self._get(Host, _host_path(host))

    def set_limit(
        self, host: Host | str, *, concurrency: int, rate_per_second: float | None = None
    ) -> Host:
        """Let a host be asked no harder, over all workers together.

        Args:
            host: The host.
            concurrency: Jobs at once.
            rate_per_second: Jobs a second; 0, the default, is no limit.
        """
        document = document_of(concurrency=concurrency, rate_per_second=rate_per_second)
        return read(Host, self._transport.document("PUT", f"{_host_path(host)}/limit", json=document))

    def clear_limit(self, host: Host | str) -> Host:
        """Let the settings say again how hard a host may be asked."""
        return read(Host, self._transport.document("DELETE", f"{_host_path(host)}/limit"))


def _limits_path(project: str) -> str:
    return f"/projects/{quote(project, safe='')}/limits"


def _host_path(host: Host | str) -> str:
    return f"/hosts/{quote(host if isinstance(host, str) else host.host, safe='')}"
