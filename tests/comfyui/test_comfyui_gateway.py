"""The nodes and the gateway itself, before a bank that counts what it bills."""

from __future__ import annotations

import asyncio
import base64
import io
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from aiohttp import ClientSession
from PIL import Image

from batchflux.gateway.clients import Client, ClientKeys
from batchflux.gateway.new_keys import add_key
from batchflux.gateway.running import GatewayOptions, gateway
from batchflux.manifest import load_manifest
from batchflux.runner import RunOptions
from batchflux.testing.bank import KEY, Bank, opened
from tests.banks import dialects
from tests.comfyui.comfy import ComfyUI, InterruptProcessingException
from tests.gateway.conftest import at_once

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from batchflux.gateway.desk import Desk

GENERATE, BATCH, LOAD = "BatchfluxGenerate", "BatchfluxBatch", "BatchfluxLoad"
MANIFEST = """version: 1
name: m
provider: tuzi
providers:
  tuzi: {{base_url: {url}, keys: [TEST_KEY], model: m, price: 0.04, currency: USD}}
  gpt: {{api: openai, base_url: {url}, keys: [TEST_KEY], model: gpt-image-2, price: 0.04}}
output: {{dir: out}}
"""
MODERN = pytest.mark.parametrize("comfy", ["v3"], indirect=True)  # the same functions run under both schemas
BOTH = """
defaults: {aspect_ratio: '4:3'}
jobs:
  - prompt: "a {{ colour }} mug"
    matrix: {colour: [red, blue]}
"""


@dataclass
class House:
    """A gateway that can be opened again, in one folder; `keys` are its clients' by their names."""

    base: Path
    bank: Bank
    keys: dict[str, str] = field(default_factory=dict)
    desk: Desk | None = None  # of the last that was opened

    def client(self, name: str) -> None:
        self.keys[name] = add_key(self.base / "clients.yaml", Client(name=name))

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[str]:
        """Yield the address of the gateway."""
        path = self.base / "m.yaml"
        path.write_text(MANIFEST.format(url=self.bank.url), encoding="utf-8")
        keys = ClientKeys(self.base / "clients.yaml") if self.keys else None
        run = RunOptions(environ={"TEST_KEY": KEY})
        async with gateway(load_manifest(path, served=True), GatewayOptions(port=0, keys=keys, run=run)) as running:
            self.desk = running.desk
            yield running.bound.url

    async def asked(self, url: str, path: str, client: str | None = None, body: Any = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.keys[client]}"} if client else {}
        async with ClientSession(headers=headers) as session:
            method = "GET" if body is None else "POST"
            async with session.request(method, f"{url}{path}", json=body) as answer:
                return answer.status, await answer.json()


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.chdir(tmp_path)
    with opened(*dialects()) as bank:
        yield House(tmp_path, bank)


def grey(level: float = 0.5) -> Any:
    return np.full((1, 48, 64, 3), level, dtype=np.float32)


async def test_equal_nodes_and_runs_pay_once_also_after_a_restart(comfy: ComfyUI, house: House) -> None:
    house.bank.delay = (0.05, 0.05)
    given = {"prompt": "a mug", "image_2": grey()}
    async with house.opened() as url:
        both = await asyncio.gather(*(comfy.run(GENERATE, **given, gateway=url) for _ in range(2)))
        assert sorted(one["cost"] for one in both) == ["0 (1 of 1 had before, for 0.04 USD)", "0.04 USD"]
        assert np.array_equal(both[0]["images"], both[1]["images"])
    async with house.opened() as url:
        again = await comfy.run(GENERATE, **given, gateway=url)
        assert again["cost"] == "0 (1 of 1 had before, for 0.04 USD)"
        assert np.array_equal(again["images"], both[0]["images"])
        other = await comfy.run(GENERATE, **given, gateway=url, take=2)
        assert other["cost"] == "0.04 USD"
        assert other["ids"] != again["ids"]
    assert house.bank.billed.total() == 2


@MODERN
async def test_what_was_interrupted_is_made_and_costs_the_next_run_nothing(comfy: ComfyUI, house: House) -> None:
    holding, arrived, loop = True, asyncio.Event(), asyncio.get_running_loop()

    def held() -> bool:
        loop.call_soon_threadsafe(arrived.set)
        return holding

    house.bank.held = held
    async with house.opened() as url:
        running = asyncio.ensure_future(comfy.run(GENERATE, prompt="a mug", gateway=url))
        await arrived.wait()
        comfy.interrupted = True
        with pytest.raises(InterruptProcessingException):
            await running
        holding = False
        made = await comfy.run(GENERATE, prompt="a mug", gateway=url)
        assert made["cost"] == "0 (1 of 1 had before, for 0.04 USD)"
    assert house.bank.billed.total() == 1


@MODERN
async def test_a_manifest_becomes_lists_and_is_paid_once(comfy: ComfyUI, house: House) -> None:
    async with house.opened() as url:
        first = await comfy.run(BATCH, manifest=BOTH, gateway=url)
        assert first["prompts"] == ["a red mug", "a blue mug"]
        assert first["summary"] == "2 pictures, 0.08 USD"
        assert [one.shape[0] for one in first["images"]] == [1, 1]
        assert comfy.steps == [(1, 2), (2, 2)]
        more = BOTH.replace("[red, blue]", "[red, blue, green]")
        again = await comfy.run(BATCH, manifest=more, gateway=url, at_once=1)
        assert again["summary"] == "3 pictures, 0.04 USD (2 of 3 had before, for 0.08 USD)"
        assert again["ids"][:2] == first["ids"]
        assert comfy.previews == 3  # of what does not come all at once
    assert house.bank.billed.total() == 3
    assert {seen.body["aspect_ratio"] for seen in house.bank.seen} == {"4:3"}


@MODERN
async def test_what_a_manifest_asks_travels_as_a_call_does(comfy: ComfyUI, house: House) -> None:
    fields = "seed: 7, output_format: png, safety_tolerance: 2, prompt_upsampling: true, aspect_ratio: '1:1'"
    text = f"jobs: [{{prompt: a mug, image: 'https://8.8.8.8/a.png', {fields}}}]"
    async with house.opened() as url:
        await comfy.run(BATCH, manifest=text, gateway=url)
    (seen,) = house.bank.seen
    sent = {name: seen.body[name] for name in ("seed", "output_format", "safety_tolerance", "prompt_upsampling")}
    assert sent == {"seed": 7, "output_format": "png", "safety_tolerance": 2, "prompt_upsampling": True}
    assert seen.body["prompt"] == "https://8.8.8.8/a.png a mug"


@MODERN
async def test_too_large_a_manifest_buys_nothing(comfy: ComfyUI, house: House) -> None:
    async with house.opened() as url:
        with pytest.raises(Exception, match=r"lists 2 pictures, for 0\.08 USD at most, and most allows 1"):
            await comfy.run(BATCH, manifest=BOTH, gateway=url, most=1)
        with pytest.raises(Exception, match="reads files, and none are read here"):
            await comfy.run(BATCH, manifest="jobs: [{prompt: x, matrix: {image: {glob: '*'}}}]", gateway=url)
    assert not house.bank.seen


@MODERN
async def test_pictures_that_fail_are_left_out_or_stop_the_node(comfy: ComfyUI, house: House) -> None:
    text = "jobs: [{prompt: 'job one'}, {prompt: 'job two #moderated'}]".replace("'job one'", "a mug")
    async with house.opened() as url:
        made = await comfy.run(BATCH, manifest=text, gateway=url)
        assert made["prompts"] == ["a mug"]
        assert "1 left out:\njob two #moderated: The provider's moderation refused this" in made["summary"]
        with pytest.raises(Exception, match=r"1 of 2 pictures could not be made: job two .* 1 are kept, and cost noth"):
            await comfy.run(BATCH, manifest=text, gateway=url, failures="stop")
        with pytest.raises(Exception, match="1 of 1 pictures could not be made"):
            await comfy.run(BATCH, manifest="jobs: [{prompt: 'job two #moderated'}]", gateway=url)
    assert house.bank.billed.total() == 1


@MODERN
async def test_results_are_loaded_from_the_gateway_and_the_folder(comfy: ComfyUI, house: House) -> None:
    async with house.opened() as url:
        made = await comfy.run(BATCH, manifest=BOTH, gateway=url)
        with pytest.raises(Exception, match="Nothing in the gateway is as asked"):
            await comfy.run(LOAD, gateway=url, only="nothing-*")
        loaded = await comfy.run(LOAD, gateway=url)
        assert sorted(loaded["ids"]) == sorted(made["ids"])
        blue = await comfy.run(LOAD, gateway=url, only="a-blue-*")
        assert blue["prompts"] == ["a blue mug"]
        assert np.array_equal(blue["images"][0], made["images"][1])
        assert len((await comfy.run(LOAD, gateway=url, limit=1))["ids"]) == 1
    folder = await comfy.run(LOAD, folder=str(house.base / "out"), only="a-blue-*", gateway="")
    assert np.array_equal(folder["images"][0], blue["images"][0])
    assert house.bank.billed.total() == 2


async def test_results_are_a_clients_own_and_come_in_pages(house: House) -> None:
    house.client("studio")
    house.client("shop")
    async with house.opened() as url:
        for number in range(3):
            body = {"prompt": f"a mug {number}", "seed": number}
            assert (await house.asked(url, "/v1/images/generations", "studio", body))[0] == 200
        await house.asked(url, "/v1/images/generations", "shop", {"prompt": "a cup", "n": 2})
        status, page = await house.asked(url, "/v1/batchflux/results?limit=2", "studio")
        assert status == 200
        assert [(row["prompt"], row["seed"]) for row in page["data"]] == [("a mug 2", 2), ("a mug 1", 1)]
        assert [row["cost"] for row in page["data"]] == ["0.04", "0.04"]
        assert all(row["url"].startswith(f"{url}/images/") for row in page["data"])
        _, last = await house.asked(url, f"/v1/batchflux/results?limit=2&after={page['next']}", "studio")
        assert [row["prompt"] for row in last["data"]] == ["a mug 0"]
        assert last["next"] is None
        _, shop = await house.asked(url, "/v1/batchflux/results", "shop")
        assert [row["prompt"] for row in shop["data"]] == ["a cup", "a cup"]
        for query in ("limit=x", "limit=-1", "after=1", "after=1-2-3", "limit=%C2%B2"):
            status, told = await house.asked(url, f"/v1/batchflux/results?{query}", "shop")
            assert (status, told["error"]["code"]) == (400, "invalid_value")
        async with ClientSession() as session:
            for method, path in (("GET", "/v1/batchflux/results"), ("POST", "/v1/batchflux/expand")):
                async with session.request(method, f"{url}{path}", json={}) as answer:
                    assert answer.status == 401


async def test_who_joins_a_call_in_flight_does_not_make_it_free_for_who_began_it(house: House) -> None:
    async with house.opened() as url, ClientSession() as session:
        assert house.desk is not None

        async def joined() -> str | None:
            async with session.post(f"{url}/v1/images/generations", json={"prompt": "a mug"}) as answer:
                assert answer.status == 200
                return answer.headers.get("x-batchflux-joined")

        assert sorted(map(str, await at_once(house.bank, house.desk, joined(), joined()))) == ["None", "true"]
    assert house.bank.billed.total() == 1


@MODERN
async def test_a_mask_travels_to_the_api_that_takes_one(comfy: ComfyUI, house: House) -> None:
    painted = np.zeros((1, 48, 64), dtype=np.float32)
    painted[0, :24] = 1.0
    given = {"prompt": "a mug", "image_1": grey(), "mask": painted}
    async with house.opened() as url:
        with pytest.raises(Exception, match="mask cannot be carried by"):
            await comfy.run(GENERATE, **given, gateway=url)
        assert not house.bank.seen
        made = await comfy.run(GENERATE, **given, gateway=url, model="gpt")
        assert made["cost"] == "0.04 USD"
    (seen,) = house.bank.seen
    sent = Image.open(io.BytesIO(base64.b64decode(seen.body["mask"]["image_url"].partition(",")[2])))
    assert (sent.getpixel((0, 0)), sent.getpixel((0, 47))) == ((255, 255, 255, 0), (0, 0, 0, 255))
