"""The nodes in a real ComfyUI, by hand: `BATCHFLUX_COMFYUI="/venv/bin/python /ComfyUI/main.py" .ci/long tests/comfyui`.

It runs on a CPU (torch for CPUs will do, and an empty module in place of torchaudio) in a folder of its own, so neither
its models nor its other nodes matter.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientError, ClientSession

from batchflux.comfyui.install import install
from tests.comfyui.test_comfyui_gateway import BATCH, GENERATE, LOAD, House, house
from tests.ports import kept_port
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

__all__ = ["house"]
COMMAND = os.environ.get("BATCHFLUX_COMFYUI", "")
pytestmark = [pytest.mark.long, pytest.mark.skipif(not COMMAND, reason="BATCHFLUX_COMFYUI names no ComfyUI")]
HAD = "0 (1 of 1 had before, for 0.04 USD)"
Node = tuple[str, dict[str, Any]]  # its class, and its inputs
WIDGETS = {"seed": -1, "ratio": "as given", "model": "", "count": 1, "take": 1}


@dataclass
class Real:
    """A ComfyUI that runs; its nodes speak to `gateway`."""

    url: str
    gateway: str
    session: ClientSession

    async def _asked(self, path: str, body: Any = None) -> Any:
        method = "GET" if body is None else "POST"
        async with self.session.request(method, f"{self.url}{path}", json=body) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json() if answer.content_type == "application/json" else None

    async def begin(self, nodes: dict[str, Node]) -> str:
        """Queue nodes, each with a preview of its first output and a text of its last; return what to wait for."""
        graph: dict[str, Any] = {}
        for name, (kind, inputs) in nodes.items():
            last = {GENERATE: 2, BATCH: 3}.get(kind)
            given = {**(WIDGETS if kind == GENERATE else {}), "gateway": self.gateway, "key_name": "", **inputs}
            own = {} if kind.startswith("Empty") else given
            graph[name] = {"class_type": kind, "inputs": own or inputs}
            graph[f"{name}-seen"] = {"class_type": "PreviewImage", "inputs": {"images": [name, 0]}}
            if last is not None:
                graph[f"{name}-said"] = {"class_type": "PreviewAny", "inputs": {"source": [name, last]}}
        return str((await self._asked("/prompt", {"prompt": graph}))["prompt_id"])

    async def ended(self, prompt: str) -> tuple[str, dict[str, str], int]:
        """Wait for its end; return how it ended, what each node said, and how many pictures there are."""
        while prompt not in (history := await self._asked(f"/history/{prompt}")):  # noqa: ASYNC110  it has no events
            await asyncio.sleep(0.1)
        outputs = history[prompt]["outputs"]
        said = {name.removesuffix("-said"): made["text"][0] for name, made in outputs.items() if "text" in made}
        pictures = sum(len(made["images"]) for made in outputs.values() if "images" in made)
        return history[prompt]["status"]["messages"][-1][0], said, pictures

    async def run(self, **nodes: Node) -> tuple[str, dict[str, str], int]:
        """Queue nodes and wait for their end."""
        return await self.ended(await self.begin(nodes))

    async def cancel(self) -> None:
        """Press the button."""
        await self._asked("/interrupt", {})


@asynccontextmanager
async def comfyui(folder: Path, gateway: str) -> AsyncIterator[Real]:
    with kept_port() as port:
        async with comfyui_at(port, folder, gateway) as real:
            yield real


@asynccontextmanager
async def comfyui_at(port: int, folder: Path, gateway: str) -> AsyncIterator[Real]:
    (folder / "custom_nodes").mkdir(parents=True, exist_ok=True)
    install(folder)
    options = ["--cpu", "--listen", "127.0.0.1", "--port", str(port), "--base-directory", str(folder)]
    with (folder / "log").open("a", encoding="utf-8") as log:
        process = subprocess.Popen([*shlex.split(COMMAND), *options, "--disable-api-nodes"], stdout=log, stderr=log)  # noqa: ASYNC220
    try:
        async with ClientSession() as session:
            for _ in range(600):
                assert process.poll() is None, (folder / "log").read_text(encoding="utf-8")
                try:
                    await session.get(f"http://127.0.0.1:{port}/system_stats")
                    break
                except ClientError:
                    await asyncio.sleep(0.2)
            yield Real(f"http://127.0.0.1:{port}", gateway, session)
    finally:
        process.kill()
        process.wait()


@pytest.mark.timeout(600)
async def test_a_real_comfyui_pays_once(house: House, tmp_path: Path) -> None:
    house.bank.delay = (0.5, 0.5)
    folder = tmp_path / "ComfyUI"
    two = {name: (GENERATE, {"prompt": "a mug"}) for name in ("one", "other")}
    other = {"blue": (GENERATE, {"prompt": "a blue mug", "count": 3, "seed": 7})}
    slow = {"slow": (GENERATE, {"prompt": "a slow mug"})}
    grey: Node = ("EmptyImage", {"width": 64, "height": 48, "batch_size": 1, "color": 8421504})
    edit: dict[str, Node] = {
        "grey": grey,
        "edit": (GENERATE, {"prompt": "an edit", "image_1": ["grey", 0], "image_3": ["grey", 0]}),
    }
    text = "jobs: [{prompt: one}, {prompt: 'two #moderated'}, {prompt: three}]"
    many = {"many": (BATCH, {"manifest": text, "at_once": 2, "most": 20, "failures": "leave out"})}
    there = {"there": (LOAD, {"folder": "", "only": "*", "verdict": "any", "limit": 4})}
    async with house.opened() as url:
        async with comfyui(folder, url) as real:
            end, _, pictures = await real.run(**two)
            assert (end, pictures, house.bank.billed.total()) == ("execution_success", 2, 1)
            assert (await real.run(**other))[1] == {"blue": "0.12 USD"}
            assert (await real.run(**two))[1] == {"one": HAD, "other": HAD}
            begun = await real.begin(slow)
            await until(lambda: house.bank.posts.total() >= 5)
            await real.cancel()
            assert (await real.ended(begun))[0] == "execution_interrupted"
            assert (await real.run(**slow))[1] == {"slow": HAD}
            assert (await real.run(**edit))[1] == {"edit": "0.04 USD"}
            end, said, pictures = await real.run(**many)
            assert (end, pictures) == ("execution_success", 2), said
            assert said["many"].startswith("2 pictures, 0.08 USD\n1 left out:\ntwo #moderated: ")
            assert (await real.run(**there))[2] == 4
            assert house.bank.billed.total() == 8
        async with comfyui(folder, url) as real:
            assert (await real.run(**two))[1] == {"one": HAD, "other": HAD}
            assert (await real.run(**edit))[1] == {"edit": HAD}
            assert (await real.run(**many))[1]["many"].startswith("2 pictures, 0 (2 of 2 had before")
    assert house.bank.billed.total() == 8
