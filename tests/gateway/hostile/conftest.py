"""A gateway in this process over a bank that counts what it bills, and clients outside."""

from __future__ import annotations

import asyncio
import io
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession, ClientTimeout
from PIL import Image

from batchflux.gateway.clients import Client, ClientKeys
from batchflux.gateway.new_keys import add_key, renew_key
from batchflux.gateway.running import Gateway, GatewayOptions, gateway
from batchflux.manifest import load_manifest
from batchflux.runner import RunOptions
from batchflux.testing.bank import KEY, PRICE, Bank, opened
from tests.gateway.conftest import at_once

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator
    from pathlib import Path

    from batchflux.gateway.desk import Desk
    from batchflux.manifest.reading.values import Rate

IMAGES, EDITS, CHAT = "/v1/images/generations", "/v1/images/edits", "/v1/chat/completions"


def picture(colour: str = "red", kind: str = "PNG", size: tuple[int, int] = (48, 48)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind)
    return file.getvalue()


@dataclass
class Caller:
    """A client of a gateway, by its key."""

    url: str
    session: ClientSession
    key: str | None = None

    async def ask(self, path: str, body: Any = None, **more: Any) -> tuple[int, Any, dict[str, str]]:
        """Return status, body (JSON where it is some) and headers of an answer; a body is posted."""
        headers = more.pop("headers", {}) | ({} if self.key is None else {"Authorization": f"Bearer {self.key}"})
        method = "GET" if body is None and "data" not in more else "POST"
        sent = more if body is None else {"json": body, **more}
        async with self.session.request(method, self.url + path, headers=headers, **sent) as answer:
            data = await answer.read()
            said = await answer.json() if answer.content_type == "application/json" else data
            return answer.status, said, dict(answer.headers)

    async def buy(self, prompt: str, **more: Any) -> tuple[int, str | None]:
        """Ask for a picture; return the status and, of an error, its code."""
        headers = more.pop("headers", {})
        status, said, _ = await self.ask(IMAGES, {"prompt": prompt, "response_format": "url", **more}, headers=headers)
        return status, said["error"]["code"] if status >= 400 else None


@dataclass
class House:
    """Where gateways run, one after the other, in one output folder."""

    base: Path
    bank: Bank
    keys: dict[str, str] = field(default_factory=dict)
    more: str = ""
    provider: str = ""
    read: ClientKeys | None = None  # as the gateway has them
    desk: Desk | None = None  # of the last that was opened

    @property
    def out(self) -> Path:
        return self.base / "out/m"

    def client(self, name: str, budget: str | None = None, rate: Rate | None = None) -> None:
        made = Client(name=name, budget=None if budget is None else Decimal(budget), rate=rate)
        self.keys[name] = add_key(self.base / "clients.yaml", made)

    def renew(self, name: str) -> None:
        self.keys[name] = renew_key(self.base / "clients.yaml", name)

    def take_out(self, name: str) -> None:
        """Take the last client out of the file."""
        before, found, _ = (self.base / "clients.yaml").read_text(encoding="utf-8").partition(f"- name: '{name}'")
        assert found
        (self.base / "clients.yaml").write_text(before, encoding="utf-8")

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[tuple[Gateway, ClientKeys | None]]:
        (self.base / "m.yaml").write_text(
            f"version: 1\nname: m\n{self.more}provider: {{name: tuzi, base_url: '{self.bank.url}', keys: [TEST_KEY],"
            f" model: m, price: {PRICE}, currency: CNY{self.provider}}}\noutput: {{dir: '{self.out}'}}\n",
            encoding="utf-8",
        )
        keys = ClientKeys(self.base / "clients.yaml") if self.keys else None
        manifest = load_manifest(self.base / "m.yaml", served=True)
        run = RunOptions(environ={"TEST_KEY": KEY})
        async with gateway(manifest, GatewayOptions(port=0, keys=keys, run=run)) as running:
            self.desk = running.desk
            yield running, keys

    @asynccontextmanager
    async def callers(self) -> AsyncIterator[dict[str, Caller]]:
        """Open a gateway, and its clients by name; without any, `local`."""
        async with self.opened() as (running, keys), ClientSession(timeout=ClientTimeout(110)) as session:
            self.read = keys
            names: dict[str, str | None] = {**self.keys} or {"local": None}
            yield {name: Caller(running.bound.url, session, key) for name, key in names.items()}

    @asynccontextmanager
    async def caller(self) -> AsyncIterator[Caller]:
        async with self.callers() as callers:
            yield next(iter(callers.values()))

    async def at_once(self, *calls: Coroutine[Any, Any, Any]) -> list[Any]:
        """Make calls that are all there before the first of them is answered."""
        assert self.desk is not None
        return await at_once(self.bank, self.desk, *calls)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with opened() as bank:
        yield House(tmp_path, bank)


async def together(*calls: Any) -> list[Any]:
    return list(await asyncio.gather(*calls))
