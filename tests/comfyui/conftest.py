"""A ComfyUI with the pack, with the V3 schema and from before it, and a gateway to speak to."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from PIL import Image

from batchflux.comfyui.install import install
from tests.comfyui.comfy import ComfyUI

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

Answer = Callable[[dict[str, Any]], web.Response | None]


def picture(size: tuple[int, int] = (8, 6), colour: str = "red", mode: str = "RGB", kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, kind)
    return out.getvalue()


def refusal(status: int, code: str, message: str = "It is so.", **headers: str) -> web.Response:
    text = json.dumps({"error": {"message": message, "type": "invalid_request_error", "code": code}})
    return web.Response(status=status, text=text, headers=headers)


@dataclass
class Stand:
    """Answers as the gateway does: by keys, each once; `answer` may say something else, `held` keeps answers back."""

    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    paid: dict[str, dict[str, Any]] = field(default_factory=dict)
    answer: Answer = lambda _: None
    held: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    sizes: list[tuple[int, int]] = field(default_factory=lambda: [(8, 6)])
    jobs: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    async def image(self, request: web.Request) -> web.Response:
        asked: dict[str, Any] = {"path": request.path, "key": request.headers["Idempotency-Key"], "pictures": []}
        asked["bearer"] = request.headers.get("Authorization")
        if request.content_type == "multipart/form-data":
            for name, value in (await request.post()).items():
                if isinstance(value, web.FileField):
                    assert name in {"image[]", "mask"}
                    asked["pictures"].append(value.file.read())
                else:
                    asked[name] = value
        else:
            asked |= await request.json()
        self.asked.append(asked)
        self.arrived.set()
        said = self.answer(asked)
        if said is not None:
            return said
        joined = asked["key"] in self.paid
        self.paid.setdefault(asked["key"], asked)
        try:
            await self.held.wait()
        except asyncio.CancelledError:
            self.gone.set()
            raise
        number = [*self.paid].index(asked["key"])
        data = base64.b64encode(picture(self.sizes[number % len(self.sizes)])).decode()
        headers = {"x-batchflux-jobs": f"job-{number}", "x-batchflux-cost": "0.04", "x-batchflux-currency": "USD"}
        headers |= {"x-batchflux-joined": "true"} if joined else {}
        return web.json_response({"created": 1, "data": [{"b64_json": data}]}, headers=headers)

    async def expand(self, request: web.Request) -> web.Response:
        self.asked.append(await request.json())
        said = self.answer(self.asked[-1])
        return said or web.json_response({"jobs": self.jobs, "cost": "0.08", "currency": "USD"})

    async def results(self, request: web.Request) -> web.Response:
        first, limit = int(request.query.get("after", "0")), 2  # pages smaller than asked for are allowed
        rows, more = self.rows[first : first + limit], first + limit < len(self.rows)
        return web.json_response({"data": rows, "next": str(first + limit) if more else None})

    async def file(self, request: web.Request) -> web.Response:
        return web.Response(body=picture(colour=request.match_info["name"].partition(".")[0]))


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    made = Stand()
    made.held.set()
    app = web.Application(client_max_size=1 << 26)
    app.add_routes(
        [
            web.post("/v1/images/generations", made.image),
            web.post("/v1/images/edits", made.image),
            web.post("/v1/batchflux/expand", made.expand),
            web.get("/v1/batchflux/results", made.results),
            web.get("/images/{name}", made.file),
        ]
    )
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    made.held.set()
    await runner.cleanup()


@pytest.fixture(params=["v3", "v1"])
def comfy(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ComfyUI]:
    made = ComfyUI(modern=request.param == "v3")
    for name, module in made.modules():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    place = tmp_path / "ComfyUI" / "custom_nodes"
    place.mkdir(parents=True)
    pack = install(place.parent)
    made.load(pack)
    yield made
    for name in [name for name in sys.modules if name.startswith(str(pack))]:
        del sys.modules[name]
