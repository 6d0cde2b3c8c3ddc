"""What the end-to-end tests say to the API and to the flaky site."""

from collections import Counter
from typing import Any

import httpx

from shared.broker.topology import PARKED_QUEUE
from tests.support.management import Management
from tests.support.system import System
from tests.support.waiting import eventually

Json = dict[str, Any]
QUICK_RETRY = {"first_delay_seconds": 1, "factor": 1, "max_delay_seconds": 1, "jitter": False}


class Client:
    """A person at the API, with a hand on the flaky site."""

    def __init__(self, system: System, http: httpx.AsyncClient) -> None:
        """Talk to a system through one HTTP client."""
        self.system = system
        self.http = http
        self.management = Management(system.management_url)

    def site(self, path: str) -> str:
        """Return the URL of a page of the flaky site, as a job is given it."""
        return f"{self.system.site_url}{path}"

    async def submit(self, kind: str, path: str, **fields: Any) -> Json:
        """Hand in a job for a page of the flaky site; return the answer's document."""
        answer = await self.http.post(
            "/jobs", json={"kind": kind, "args": {"url": self.site(path)}, **fields}
        )
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    async def submit_batch(self, paths: list[str], *, kind: str = "fetch") -> Json:
        """Hand in pages as one plain-text batch on the bulk lane."""
        lines = "\n".join(self.site(path) for path in paths)
        headers = {"Content-Type": "text/plain"}
        answer = await self.http.post(f"/batches?kind={kind}&lane=bulk", content=lines, headers=headers)
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    async def job(self, job_id: str) -> Json:
        """Return a job's document."""
        answer = await self.http.get(f"/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def job_in(self, job_id: str, *states: str, deadline_seconds: float = 30.0) -> Json:
        """Return the job once it is in one of the states."""

        async def look() -> Json | None:
            job = await self.job(job_id)
            return job if job["state"] in states else None

        return await eventually(look, deadline_seconds=deadline_seconds)

    async def finished_batch(self, batch_id: str, *, deadline_seconds: float) -> Json:
        """Return the batch once all its jobs have ended."""

        async def look() -> Json | None:
            batch = (await self.http.get(f"/batches/{batch_id}")).json()
            return batch if batch["finished_at"] else None

        return await eventually(look, deadline_seconds=deadline_seconds)

    async def first_events(self) -> str:
        """Return what the stream of ends begins with: those that there are, as far as they come together."""
        seen = ""
        async with self.http.stream("GET", "/events", params={"after": "0"}) as answer:
            assert answer.status_code == 200
            async for part in answer.aiter_text():
                seen += part
                if "data:" in seen:
                    break
        return seen

    async def hits(self) -> Counter[str]:
        """Return how often each page of the flaky site was asked for."""
        return Counter((await self._control("GET", "/control/hits")).json())

    async def webhook_calls(self, key: str) -> list[Json]:
        """Return the calls that webhooks have made to a receiver of the flaky site."""
        return list((await self._control("GET", f"/control/hooks/{key}")).json())

    async def wait_at_gate(self, gate: str, *, at_least: int) -> None:
        """Return once so many requests wait at a gate."""
        await self._control("GET", f"/control/waiting/{gate}?at_least={at_least}")

    async def open_gate(self, gate: str) -> None:
        """Let everybody through a gate."""
        await self._control("POST", f"/control/open/{gate}")

    async def mend(self, page: str) -> None:
        """Mend a page that always fails."""
        await self._control("POST", f"/control/mend/{page}")

    async def parked_job_ids(self) -> set[str]:
        """Return the ids of the jobs whose messages are in the parking queue."""
        messages = self.management.messages(self.system.vhost, PARKED_QUEUE)
        return {message["properties"].get("correlation_id", "") for message in messages}

    async def queue_length(self, queue: str) -> int:
        """Return how many messages a queue holds, as the management API last saw."""
        return int(self.management.queue(self.system.vhost, queue).get("messages", 0))

    async def _control(self, method: str, path: str) -> httpx.Response:
        answer = await self.http.request(method, f"{self.system.control_url}{path}")
        assert answer.is_success, answer.text
        return answer
