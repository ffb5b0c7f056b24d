"""A model of tests/engine/limit_scenes.py behind HTTP: `python .bench/limit_server.py --scene NAME`.

POST /v1/... is admitted or refused by the model on this process's clock, GET /picture.png gives the picture, GET /stats
tells what happened.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from random import Random
from typing import Any

from aiohttp import web

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from batchflux.errors import Code
from tests.engine.limit_scenes import BY_NAME, Scene


class Api:
    """The API of one scene."""

    def __init__(self, scene: Scene, picture: Path, port: int) -> None:
        self._model, self._random = scene.model(), Random(1)
        self._picture = picture.read_bytes()
        self._link = f"http://127.0.0.1:{port}/picture.png"
        self._began: float | None = None
        self._stats = {"requests": 0, "refused": 0, "accepted": 0, "seconds": 0.0}

    async def submit(self, _: web.Request) -> web.Response:
        """Answer a request, or refuse it."""
        clock = asyncio.get_running_loop().time
        if self._began is None:
            self._began = clock()
        self._stats["requests"] += 1
        no = self._model.admit(clock() - self._began, self._random)
        if no is not None:
            self._stats["refused"] += 1
            await asyncio.sleep(self._model.quick)
            status = 503 if no.code is Code.SERVER else 429
            headers = {} if no.wait is None else {"Retry-After": f"{no.wait:g}"}
            return web.json_response({"error": {"message": no.words}}, status=status, headers=headers)
        self._model.active += 1
        try:
            await asyncio.sleep(self._model.took(self._random))
        finally:
            self._model.active -= 1
        self._stats["accepted"] += 1
        self._stats["seconds"] = clock() - self._began
        return web.json_response({"data": [{"url": self._link}], "created": 1})

    async def picture(self, _: web.Request) -> web.Response:
        """Give the picture."""
        return web.Response(body=self._picture, content_type="image/png")

    async def stats(self, _: web.Request) -> web.Response:
        """Tell what happened."""
        return web.json_response(self._stats)


def main() -> None:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(description="A model of a server that limits, behind HTTP.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--scene", required=True, choices=BY_NAME)
    parser.add_argument("--picture", type=Path, required=True)
    arguments = parser.parse_args()
    api = Api(BY_NAME[arguments.scene], arguments.picture, arguments.port)
    routes: list[Any] = [web.get("/picture.png", api.picture), web.get("/stats", api.stats)]
    app = web.Application()
    app.add_routes([web.post("/v1/images/generations", api.submit), *routes])
    web.run_app(app, host="127.0.0.1", port=arguments.port, print=None)


if __name__ == "__main__":
    main()
