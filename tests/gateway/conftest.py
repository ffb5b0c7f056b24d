"""A gateway within this process, with a bank behind it that counts what it bills."""

from __future__ import annotations

import asyncio
import csv
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from batchflux.gateway.clients import ClientKeys
from batchflux.gateway.running import GatewayOptions
from batchflux.gateway.running import gateway as served
from batchflux.planner import load_manifest
from batchflux.runner import RunOptions
from batchflux.testing.bank import KEY, PRICE
from tests.program import bank
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from batchflux.gateway.desk import Desk
    from batchflux.observers import Watcher
    from batchflux.runner import Endless
    from batchflux.testing.bank import Bank

GENERATIONS = "/images/generations"


async def at_once(bank: Bank, desk: Desk, *calls: Coroutine[Any, Any, Any]) -> list[Any]:
    """Make calls that are all there before the first of them is answered: refused, or waiting for a call."""
    bank.held = lambda: True
    asking = [asyncio.create_task(call) for call in calls]
    await until(lambda: desk.waiting + sum(one.done() for one in asking) == len(asking))
    bank.held = None
    return await asyncio.gather(*asking)


def numbers_in(text: str) -> dict[tuple[str, ...], float]:
    """Return the gateway's own numbers as Prometheus reads them, by name and the values of their labels."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    own = [one for one in samples if one.name.startswith("batchflux_gateway_")]
    return {(one.name.removeprefix("batchflux_gateway_"), *one.labels.values()): one.value for one in own}


@dataclass
class Answer:
    """What a call was answered: JSON, and headers by their names in lower case."""

    status: int
    headers: dict[str, str]
    json: Any

    @property
    def code(self) -> str:
        """The code of an error."""
        return str(self.json["error"]["code"])


@dataclass
class Front:
    """A gateway that is served, and a client of it."""

    url: str
    run: Endless
    desk: Desk
    http: aiohttp.ClientSession

    async def post(self, path: str, body: dict[str, Any], **headers: str) -> Answer:
        """Post JSON; headers with _ for -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.post(f"{self.url}{path}", json=body, headers=named) as answer:
            return Answer(answer.status, {k.lower(): v for k, v in answer.headers.items()}, await answer.json())

    async def health(self) -> tuple[int, Any]:
        """Ask whether calls are taken."""
        async with self.http.get(f"{self.url.removesuffix('/v1')}/health") as answer:
            return answer.status, await answer.json()

    async def picture(self, prompt: str, /, n: int = 1, headers: dict[str, str] | None = None, **body: Any) -> Answer:
        """Ask for pictures of a prompt, as links."""
        asked = {"prompt": prompt, "n": n, "response_format": "url", **body}
        return await self.post(GENERATIONS, asked, **headers or {})


@dataclass
class Gateways:
    """Gateways over one folder, one after another."""

    folder: Path
    bank: Bank
    clients: ClientKeys | None = None  # of the last that was opened

    def opened(
        self,
        *,
        limits: str = "",
        at_once: int = 6,
        keys: str | None = None,
        more: str = "",
        manifest: str = "",
        watcher: Watcher | None = None,
    ) -> AbstractAsyncContextManager[Front]:
        """Serve one; `keys` are the lines of its file of clients."""
        return self._opened(f"concurrency: {at_once}{limits}", keys, more, manifest, watcher)

    @asynccontextmanager
    async def _opened(
        self, limits: str, keys: str | None, more: str, manifest: str, watcher: Watcher | None
    ) -> AsyncIterator[Front]:
        path = self.folder / "g.yaml"
        provider = f"{{name: tuzi, base_url: {self.bank.url}, keys: [TEST_KEY], price: {PRICE}, currency: CNY}}"
        text = f"version: 1\nname: g\nprovider: {provider}\nlimits: {{{limits}, timeout: 20s}}\n{more}"
        path.write_text(manifest or text, encoding="utf-8")
        environ = {"TEST_KEY": KEY}
        clients = None
        if keys is not None:
            (self.folder / "keys.yaml").write_text(keys, encoding="utf-8")
            clients = self.clients = ClientKeys(self.folder / "keys.yaml")
        loaded = load_manifest(path, out=str(self.folder / "out"), environ=environ, served=True)
        options = GatewayOptions(port=0, keys=clients, run=RunOptions(environ=environ, watcher=watcher))
        async with served(loaded, options) as running, aiohttp.ClientSession() as http:
            yield Front(f"{running.bound.url}/v1", running.run, running.desk, http)

    def rows(self) -> list[dict[str, str]]:
        """Return the rows of results.csv."""
        with (self.folder / "out" / "results.csv").open(newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def gateways(tmp_path: Path, bank: Bank, monkeypatch: pytest.MonkeyPatch) -> Gateways:
    """Serve gateways over a folder, in front of a bank."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return Gateways(tmp_path, bank)


__all__ = ["bank"]
