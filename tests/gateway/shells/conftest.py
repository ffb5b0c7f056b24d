"""A gateway as a process, in front of the bank that counts what it bills."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
import pytest

from batchflux.testing.bank import PRICE, Bank, opened
from batchflux.testing.program import Program, program_in
from tests.banks import dialects
from tests.gateway.shells.takers import Answer

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from tests.gateway.shells.shapes import Shape

RELAYED, GPT, TASKS = "flux-kontext-pro", "gpt-image-2", "flux-kontext-max"
MANIFEST = """\
version: 1
name: shells
providers:
  relay: {{api: flux-relay, base_url: {url}, keys: [TEST_KEY], model: flux-kontext-pro, price: {price}, currency: USD}}
  gpt: {{api: openai, base_url: {url}, keys: [TEST_KEY], model: gpt-image-2, price: {price}}}
  bfl: {{api: bfl, base_url: {url}, keys: [TEST_KEY], model: flux-kontext-max, price: {price}}}
provider: relay
limits: {{concurrency: 8, timeout: 90s}}
output: {{dir: out}}
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@dataclass
class Gate:
    """The gateway, which can be killed and started again at the same port."""

    program: Program
    bank: Bank
    port: int
    process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = self.program.start("gateway", "m.yaml", "--port", str(self.port))
        end = time.monotonic() + 60
        while not self._healthy():
            assert self.process.poll() is None, self.program.finish(self.process).said
            assert time.monotonic() < end, "the gateway did not start"
            time.sleep(0.02)

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:  # noqa: S310  loopback
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        assert self.process is not None
        self.program.kill(self.process)

    async def send(
        self, session: aiohttp.ClientSession, shape: Shape, prompt: str, model: str, retry: int = 0
    ) -> Answer:
        """Send a shell's request, with another prompt and model."""
        headers = shape.headers | ({"x-stainless-retry-count": str(retry)} if retry else {})
        data: bytes | aiohttp.FormData
        if shape.parts:
            data = aiohttp.FormData()
            for part in shape.parts:
                told = {"prompt": prompt, "model": model}.get(part.name)
                content = part.data if told is None else told.encode()
                data.add_field(part.name, content, filename=part.filename, content_type=_kind(part.filename))
        else:
            body = {**(shape.body or {}), "model": model}
            data = json.dumps(body).replace("a red mug", prompt).replace("on marble", prompt).encode()
        async with session.post(self.url + shape.path, data=data, headers=headers) as answer:
            return Answer(status=answer.status, headers=answer.headers, body=await answer.read())

    async def fetched(self, session: aiohttp.ClientSession, link: str) -> bytes:
        async with session.get(link) as answer:
            assert answer.status == 200
            return await answer.read()


def _kind(filename: str | None) -> str | None:
    return None if filename is None else "image/png"


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    with opened(*dialects()) as bank, program_in(tmp_path_factory.mktemp("gate")) as program:
        program.write("m.yaml", MANIFEST.format(url=bank.url, price=PRICE))
        made = Gate(program, bank, free_port())
        made.start()
        yield made
