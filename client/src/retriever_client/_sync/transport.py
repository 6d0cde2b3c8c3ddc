"""Requests of the client: each with a time limit, sent again when that may help, never done twice."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx2

from retriever_client._core import (
    LONGEST_RETRY_AFTER_SECONDS,
    RETRIED,
    STREAM_SECONDS,
    LineSpool,
    Query,
    find_key,
    find_url,
    new_key,
    pause_seconds,
    read_retry_after,
)
from retriever_client._waiting import sleep
from retriever_client.errors import ConnectionFailed, error_of


class Transport:
    """Sends requests to one service."""

    def __init__(
        self,
        url: str | None,
        key: str | None,
        *,
        timeout_seconds: float,
        retries: int,
        actor: str | None,
        http_client: httpx2.Client | None,
    ) -> None:
        self.url = find_url(url)
        self._key = find_key(key)
        self._timeout_seconds = timeout_seconds
        self.retries = retries
        self._actor = actor
        self._is_ours = http_client is None
        self._http = http_client or httpx2.Client()

    def close(self) -> None:
        """Close all connections, unless the HTTP client was given."""
        if self._is_ours:
            self._http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Query | None = None,
        json: Any = None,
        spool: LineSpool | None = None,
        headers: Mapping[str, str] | None = None,
        wait_seconds: float = 0.0,
        idempotency_key: str | None = None,
    ) -> httpx2.Response:
        """Return the answer to a request.

        Args:
            wait_seconds: For how long the service is asked to wait, on top of the time limit.
            idempotency_key: In place of one of our own.

        Raises:
            ApiError: the service refused it.
            ConnectionFailed: no answer came, however often it was sent.
        """
        sent = self._headers(method, headers, idempotency_key)
        timeout = httpx2.Timeout(self._timeout_seconds + wait_seconds, connect=self._timeout_seconds)
        tries = 0
        while True:
            tries += 1
            body = {"content": spool.chunks()} if spool is not None else {"json": json}
            try:
                response = self._http.request(
                    method, self.url + path, params=params, headers=sent, timeout=timeout, **body
                )
            except httpx2.TransportError as error:
                if tries > self.retries:
                    raise self._failure(error, tries) from error
                sleep(pause_seconds(tries, None))
                continue
            if not response.is_error:
                return response
            again_in = self._again_in(response, tries)
            if again_in is None:
                raise error_of(response.status_code, _document(response), tries=tries)
            sleep(again_in)

    def document(self, method: str, path: str, **request: Any) -> Any:
        """Return the JSON document that answers a request; the arguments are those of `request`."""
        response = self.request(method, path, **request)
        return response.json() if response.content else None

    @contextmanager
    def stream(
        self, path: str, *, params: Query | None = None, headers: Mapping[str, str] | None = None
    ) -> Iterator[httpx2.Response]:
        """Yield the answer to a GET whose body is read bit by bit; it is sent again only until it begins.

        Raises:
            ApiError: the service refused it.
            ConnectionFailed: no answer came, or it broke off while it was read.
        """
        sent = self._headers("GET", headers, None)
        timeout = httpx2.Timeout(self._timeout_seconds, read=max(STREAM_SECONDS, self._timeout_seconds))
        tries = 0
        while True:
            tries += 1
            again_in: float | None = None
            try:
                with self._http.stream(
                    "GET", self.url + path, params=params, headers=sent, timeout=timeout
                ) as response:
                    if not response.is_error:
                        tries = self.retries + 1
                        yield response
                        return
                    response.read()
                    again_in = self._again_in(response, tries)
                    if again_in is None:
                        raise error_of(response.status_code, _document(response), tries=tries)
            except httpx2.TransportError as error:
                if tries > self.retries:
                    raise self._failure(error, tries) from error
            sleep(pause_seconds(tries, None) if again_in is None else again_in)

    def _headers(
        self, method: str, headers: Mapping[str, str] | None, idempotency_key: str | None
    ) -> dict[str, str]:
        sent = dict(headers or {})
        if self._key is not None:
            sent["Authorization"] = f"Bearer {self._key}"
        if method != "GET" and self._actor is not None:
            sent["Retriever-Actor"] = self._actor
        if method == "POST":
            sent["Idempotency-Key"] = idempotency_key or new_key()
        return sent

    def _again_in(self, response: httpx2.Response, tries: int) -> float | None:
        """Return after how many seconds to send the request again; None when that is no use."""
        if response.status_code not in RETRIED or tries > self.retries:
            return None
        retry_after = read_retry_after(response.headers.get("Retry-After"))
        if retry_after is not None and retry_after > LONGEST_RETRY_AFTER_SECONDS:
            return None
        return pause_seconds(tries, retry_after)

    def _failure(self, error: httpx2.TransportError, tries: int) -> ConnectionFailed:
        said = str(error) or type(error).__name__
        return ConnectionFailed(f"No answer from {self.url} in {tries} tries: {said}")


def _document(response: httpx2.Response) -> object:
    try:
        return response.json()
    except ValueError:
        return None
