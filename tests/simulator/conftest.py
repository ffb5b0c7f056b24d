from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from PIL import Image, ImageDraw

from batchflux.simulator import Simulator, parse_options
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

IMAGES = "/v1/images/generations"
CHAT = "/v1/chat/completions"


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """What a chat stream says, all its deltas together."""
        said = []
        for line in self.body.decode().splitlines():
            if line.startswith("data: {"):
                choices = json.loads(line[6:]).get("choices", [])
                said += [choice["delta"].get("content", "") for choice in choices]
        return "".join(said)

    @property
    def url(self) -> str:
        """The link to the picture, of either style."""
        if self.headers["Content-Type"].startswith("application/json"):
            return str(self.json["data"][0]["url"])
        return self.text.split("![image](")[-1].split(")")[0]


class Client:
    """Asks one simulator, over real HTTP."""

    def __init__(self, base: str, session: aiohttp.ClientSession, simulator: Simulator) -> None:
        self.base = base
        self.session = session
        self.simulator = simulator

    async def post(self, path: str, body: Any, **options: Any) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.session.post(f"{self.base}{path}", data=data, **options) as response:
            return Answer(status=response.status, headers=dict(response.headers), body=await response.read())

    async def standard(self, prompt: str = "A red mug", **fields: Any) -> Answer:
        return await self.post(IMAGES, {"model": "flux-kontext-pro", "prompt": prompt, **fields})

    async def chat(self, prompt: str = "A red mug", *pictures: bytes, **fields: Any) -> Answer:
        return await self.post(CHAT, chat_body(prompt, *pictures, **fields))

    async def ask(self, style: str, prompt: str = "A red mug", *pictures: bytes) -> Answer:
        return await (self.standard(prompt) if style == "standard" else self.chat(prompt, *pictures))

    async def get(self, url: str, **options: Any) -> Answer:
        target = url if url.startswith("http") else f"{self.base}{url}"
        async with self.session.get(target, **options) as response:
            return Answer(status=response.status, headers=dict(response.headers), body=await response.read())


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def chat_body(prompt: str, *pictures: bytes, **fields: Any) -> dict[str, Any]:
    content: Any = prompt
    if pictures:
        parts = [{"type": "image_url", "image_url": {"url": data_url(picture)}} for picture in pictures]
        content = [{"type": "text", "text": prompt}, *parts]
    body = {"model": "flux-kontext-pro", "stream": True, "messages": [{"role": "user", "content": content}]}
    return {**body, **fields}


def photo(width: int = 120, height: int = 80, colour: str = "teal") -> bytes:
    picture = Image.new("RGB", (width, height), colour)
    ImageDraw.Draw(picture).ellipse((10, 10, width // 2, height - 10), fill="orange")
    out = BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def opened(data: bytes) -> Image.Image:
    picture = Image.open(BytesIO(data))
    picture.load()
    return picture


Serve = Callable[..., Awaitable[Client]]


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened_session:
        yield opened_session


@pytest.fixture
async def serve(tmp_path: Path, session: aiohttp.ClientSession) -> AsyncIterator[Serve]:
    """Starts simulators that answer at once with small pictures, unless told otherwise; stops them all."""
    started: list[Simulator] = []

    async def start(*, api: str | None = None, **options: Any) -> Client:
        told = {"latency": 0, "size": 64, "cache_dir": str(tmp_path / "uploads"), **options}
        simulator = Simulator(parse_options(told), api)
        started.append(simulator)
        return Client(await simulator.start(), session, simulator)

    yield start
    for simulator in started:
        await simulator.stop()


@pytest.fixture(scope="session")
def tools() -> type[Tools]:
    return Tools


class Tools:
    """Helpers for test files, which cannot import one another."""

    photo = staticmethod(photo)
    opened = staticmethod(opened)
    data_url = staticmethod(data_url)
    chat_body = staticmethod(chat_body)
    until = staticmethod(until)
