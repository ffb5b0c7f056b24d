"""Takes jobs through a batch, step by step, as the engine does: over real HTTP, with nothing of the engine in it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from batchflux.engine.executors.local import addressed
from batchflux.errors import JobError
from batchflux.models import Closed, Missing, Pending, Submitted, Then, Uploaded
from batchflux.providers import providers
from batchflux.transport import Transport, TransportOptions
from batchflux.transport.lines import write_lines

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import aiohttp

    from batchflux.models import HttpRequest, Job, Reply
    from batchflux.providers.batches import BatchAnswer, BatchApi

KEY = "sk-batch"


class Batching:
    """One provider and one server; `asked` are the requests that left."""

    def __init__(self, api: str, base: str, session: aiohttp.ClientSession, folder: Path) -> None:
        self.provider = providers()[api, api]
        assert self.provider.batches is not None
        self.api: BatchApi = self.provider.batches
        self.base, self._session, self._folder = base, session, folder
        self.asked: list[HttpRequest] = []

    async def step(self, request: HttpRequest) -> Reply:
        """Do a step and what follows it."""
        options = TransportOptions(
            base_url=self.base, timeout=20, connections=4, max_bytes=4 << 20, spool_dir=str(self._folder)
        )
        async with AsyncExitStack() as stack:
            transport = await stack.enter_async_context(Transport(options))
            while True:
                self.asked.append(request)
                headers = {} if request.keyless else self.provider.authorize(KEY)
                told = request if request.keyless else addressed(request, self.provider, self.base)
                reply = (await transport.exchange(told, headers=headers, secrets=[KEY])).reply
                if not isinstance(reply, Then):
                    return reply
                request = reply.request

    async def upload(self, jobs: Sequence[Job]) -> str:
        lines = [(job.key, self.api.line(job, job.key)) for job in jobs]
        written = await write_lines(self._folder / "lines.jsonl", lines)
        assert written.left_out == {}
        uploaded = await self.step(self.api.upload(written.file))
        assert isinstance(uploaded, Uploaded)
        return uploaded.url

    async def create(self, jobs: Sequence[Job], name: str = "one") -> str:
        submitted = await self.step(self.api.create(self.api.kind(jobs[0]), await self.upload(jobs), name))
        assert isinstance(submitted, Submitted)
        return submitted.handle

    async def find(self, name: str) -> str | None:
        found = await self.step(self.api.find(name))
        if isinstance(found, Submitted):
            return found.handle
        assert isinstance(found, Missing)
        return None

    async def closed(self, handle: str) -> Closed:
        while True:
            reply = await self.step(self.api.poll(handle))
            if isinstance(reply, Closed):
                return reply
            assert isinstance(reply, Pending)
            await asyncio.sleep(0.01)

    async def lines(self, file: str) -> list[bytes]:
        """Return the lines of a file, as far as they come."""
        request = self.api.answers(file)
        lines = list[bytes]()
        async with self._session.get(f"{self.base}{request.url}", headers=self.provider.authorize(KEY)) as response:
            assert response.status == 200
            try:
                async for line in response.content:
                    lines.append(line)
            except Exception as error:  # noqa: BLE001  looked at by the test
                lines.append(repr(error).encode())
        return lines

    async def answers(self, closed: Closed) -> list[BatchAnswer | None]:
        """Return what all lines say; None for a job that was not made."""
        return [self.api.read(line) for file in closed.files for line in await self.lines(file)]

    def pictures(self, jobs: Sequence[Job], answers: Sequence[BatchAnswer | None]) -> dict[str, Any]:
        """Return by its key what each answer comes to: the picture's bytes, or the code of the error."""
        by_key, found = {job.key: job for job in jobs}, dict[str, Any]()
        for one in filter(None, answers):
            reader = self.provider.answers(by_key[one.key], one.status, {})
            reader.feed(one.body)
            try:
                reply: Any = reader.finish(complete=True)
                found[one.key] = reply.asset.data
            except JobError as error:
                found[one.key] = error.code
        return found


def jobs_of(job: Job, count: int, **fields: Any) -> list[Job]:
    """Return jobs that differ in their prompts."""
    return [
        replace(job, id=f"j{number}", key=f"{number:064x}", prompt=f"picture {number}", position=number, **fields)
        for number in range(count)
    ]
