"""Who is told: a server on loopback that keeps what it hears, and does by path what receivers do."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from batchflux.testing.serving import serving
from tests.program import bank, program

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["bank", "program"]
TOKEN = "s3cr3t-t0k3n-of-a-hook"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One request that a receiver got."""

    method: str
    path: str
    headers: dict[str, str]
    body: str
    at: float

    @property
    def event(self) -> str:
        return self.headers.get("X-Batchflux-Event", "")

    @property
    def json(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.body)
        return loaded


@dataclass
class Receivers:
    """Paths: `ok` takes all, `slow` answers after the `delay`, `moved` leads to `ok`, a number is answered as status.

    The first part of a path says so. `flaky` fails twice, then takes.
    """

    url: str = ""
    delay: float = 60.0
    told: list[Told] = field(default_factory=list)
    flakes: int = 2

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/{kind}/{rest:.*}", self._hear)
        return app

    def at(self, kind: str) -> str:
        """The address of a receiver, as secret as they are."""
        return f"{self.url}/{kind}/{TOKEN}"

    def heard(self, kind: str, event: str | None = None) -> list[Told]:
        """What a receiver got, of one event."""
        found = [one for one in self.told if one.path.startswith(f"/{kind}/")]
        return [one for one in found if event is None or one.event == event]

    def pings(self, kind: str = "ok") -> list[tuple[str, str]]:
        """Method and last part of what a ping's address got."""
        before = f"/{kind}/{TOKEN}/"
        return [(one.method, one.path.removeprefix(before)) for one in self.told if one.path.startswith(before)]

    async def _hear(self, request: web.Request) -> web.Response:
        text = await request.text()
        headers = dict(request.headers)
        self.told.append(
            Told(method=request.method, path=request.path_qs, headers=headers, body=text, at=time.monotonic())
        )
        kind = request.match_info["kind"]
        if kind == "slow":
            await asyncio.sleep(self.delay)
        if kind == "moved":
            raise web.HTTPTemporaryRedirect(self.at("ok"))
        if kind == "flaky" and self.flakes:
            self.flakes -= 1
            return web.Response(status=503)
        return web.Response(status=int(kind) if kind.isdigit() else 200, text="OK")


@pytest.fixture
def receivers() -> Iterator[Receivers]:
    made = Receivers()
    with serving(made.app()) as made.url:
        yield made
