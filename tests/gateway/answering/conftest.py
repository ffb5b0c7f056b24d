"""Pictures on disk as they were made, and a small server that answers with them as the gateway does."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from openai import AsyncOpenAI

from batchflux.gateway.answering.chat import ChatAnswer
from batchflux.gateway.answering.images import ImagesAnswer
from batchflux.gateway.answering.links import link_of
from batchflux.gateway.answering.send import refused, send_document, send_picture, send_stream
from batchflux.gateway.orders import RefusalError, Shot
from batchflux.testing.bank import picture_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NOW = 1_795_000_000


def link(shot: Shot) -> str:
    return link_of("http://pictures.test", shot.name)


@dataclass
class Stand:
    """Answers every call with `shots`, or `refuses`; both only after `ready` is set, as far as it streams."""

    shots: list[Shot]
    client: Any = None
    url: str = ""
    inline: bool = True
    refuses: RefusalError | None = None
    doing: str = "making 1 picture"
    every: float = 0.01
    finished: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/images/{kind}", self.images)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_get("/picture", self.picture)
        return app

    async def made(self) -> list[Shot]:
        await self.ready.wait()
        if self.refuses is not None:
            raise self.refuses
        self.finished += 1
        return self.shots

    async def images(self, request: web.Request) -> web.StreamResponse:
        edit = request.match_info["kind"] == "edits"
        wants = {} if edit else await request.json()
        answer = ImagesAnswer(created=NOW, link=link, inline=self.inline, edit=edit)
        if (edit and "true" in (await request.post()).values()) or wants.get("stream"):
            return await send_stream(request, answer.stream(asyncio.ensure_future(self.made()), self.every), {})
        return await self.whole(request, answer)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        answer = ChatAnswer(model="flux", created=NOW, link=link, inline=self.inline)
        if (await request.json()).get("stream"):
            frames = answer.stream(asyncio.ensure_future(self.made()), lambda: self.doing, self.every)
            return await send_stream(request, frames, {"x-batchflux-jobs": "a"})
        return await self.whole(request, answer)

    async def picture(self, request: web.Request) -> web.StreamResponse:
        try:
            return await send_picture(request, self.shots[0].path, "image/png", {"Cache-Control": "private"})
        except FileNotFoundError:
            raise web.HTTPNotFound from None

    async def whole(self, request: web.Request, answer: ImagesAnswer | ChatAnswer) -> web.StreamResponse:
        self.ready.set()
        try:
            return await send_document(request, answer.document(await self.made()), {"x-batchflux-jobs": "a"})
        except RefusalError as error:
            return refused(error)


def shot_of(folder: Path, name: str = "mug", side: int = 48) -> Shot:
    data = picture_of(name, side)
    path = folder / f"{name}.png"
    path.write_bytes(data)
    return Shot(
        job=name, name=f"{name}.png", path=str(path), media_type="image/png", width=side, height=side, bytes=len(data)
    )


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    one = Stand([replace(shot_of(tmp_path), seed=7, revised_prompt='a "mug"\n杯子')])
    runner = web.AppRunner(one.app(), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with AsyncOpenAI(api_key="sk-any", base_url=f"{one.url}/v1", max_retries=0) as one.client:
        yield one
    await runner.cleanup()
