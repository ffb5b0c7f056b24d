"""A gateway as a process, in front of the bank that counts what it bills."""

from __future__ import annotations

import json
import signal
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
import pytest

from batchflux.testing.bank import PRICE, Bank, opened
from batchflux.testing.program import Program, program_in
from tests.banks import dialects
from tests.gateway.conftest import numbers_in
from tests.gateway.shells.takers import Answer
from tests.ports import kept_port

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

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
limits: {{concurrency: 32, timeout: 90s, canary: 0}} # what fails is on purpose
output: {{dir: out, accept: [ratio]}} # a named job's picture is square, whatever is ordered
"""


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

    def start(self, **environ: str) -> bool:
        """Start it, and return whether it serves: one that is to be killed may not come so far."""
        self.process = self.program.start("gateway", "m.yaml", "--port", str(self.port), **environ)
        end = time.monotonic() + 90
        while not self._healthy():
            if environ and self.process.poll() == -signal.SIGKILL:
                return False
            assert self.process.poll() is None, self.program.finish(self.process).said
            assert time.monotonic() < end, "the gateway did not start"
            time.sleep(0.02)
        return True

    @property
    def dead(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:  # noqa: S310  loopback
                return bool(answer.status == 200)
        except OSError:
            return False

    def number(self, name: str) -> float:
        """Return one of the numbers that it tells of itself."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as answer:  # noqa: S310  loopback
            return numbers_in(answer.read().decode())[name,]

    def kill(self) -> None:
        assert self.process is not None
        self.program.kill(self.process)

    async def send(
        self, session: aiohttp.ClientSession, shape: Shape, prompt: str, model: str, retry: int = 0
    ) -> Answer:
        """Send a shell's request, with another prompt and model."""
        headers = {name: text for name, text in shape.headers.items() if not (name == "content-type" and shape.parts)}
        headers |= {"x-stainless-retry-count": str(retry)} if retry else {}
        data: bytes | aiohttp.FormData
        if shape.parts:
            data = aiohttp.FormData()
            for part in shape.parts:
                if part.filename is None:
                    told = {"prompt": prompt, "model": model}.get(part.name)
                    data.add_field(part.name, part.data.decode() if told is None else told)
                else:
                    data.add_field(part.name, part.data, filename=part.filename, content_type="image/png")
        else:
            body = {**(shape.body or {}), "model": model}
            data = json.dumps(body).replace("a red mug", prompt).replace("on marble", prompt).encode()
        async with session.post(self.url + shape.path, data=data, headers=headers) as answer:
            return Answer(status=answer.status, headers=answer.headers, body=await answer.read())

    async def fetched(self, session: aiohttp.ClientSession, link: str) -> bytes:
        async with session.get(link) as answer:
            assert answer.status == 200
            return await answer.read()


@contextmanager
def gated(folder: Path) -> Iterator[Gate]:
    """Give a gateway that is not started yet, over a folder of its own."""
    with opened(*dialects()) as bank, kept_port() as port, program_in(folder) as program:
        program.write("m.yaml", MANIFEST.format(url=bank.url, price=PRICE))
        yield Gate(program, bank, port)


@pytest.fixture(scope="module")
def _gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    with gated(tmp_path_factory.mktemp("gate")) as made:
        made.start()
        yield made


@pytest.fixture
def gate(_gate: Gate) -> Iterator[Gate]:
    """Lend the module's gateway, and let go of what a test held back."""
    yield _gate
    _gate.bank.held = None
