"""Many clients at once, some of whom leave, before a gateway that is killed: nothing is paid twice but marked."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

from batchflux.testing.bank import PRICE, opened
from batchflux.testing.dialect import job_of
from batchflux.testing.program import program_in
from tests.gateway.load.crowd import Crowd
from tests.ports import kept_port

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from batchflux.testing.bank import Bank
    from batchflux.testing.program import Program

MANIFEST = """version: 1
name: m
provider: {{name: tuzi, base_url: {url}, keys: [TEST_KEY], model: m, price: {price}, currency: CNY}}
limits: {{concurrency: {at_once}, timeout: 60s}}
output: {{dir: {out}}}
"""
AT_ONCE = 256
CACHE = 16  # MiB that SQLite keeps of the ledger, once that is larger


@pytest.fixture
def bank() -> Iterator[Bank]:
    with opened() as made:
        yield made


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    with program_in(tmp_path) as made:
        yield made


class Gateway:
    """The gateway as a process that is killed and started again, at one port; `resident` is its memory as it was."""

    def __init__(self, program: Program, bank: Bank, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{self.port}"
        self.resident: list[tuple[float, float]] = []
        self.cpu = 0.0  # seconds that the last process took
        self._program = program
        program.write("m.yaml", MANIFEST.format(url=bank.url, price=PRICE, out=program.out, at_once=AT_ONCE))
        self.process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        return self._program.start("gateway", "m.yaml", "--port", str(self.port))

    async def ready(self) -> None:
        """Wait until it answers."""
        async with asyncio.timeout(90), aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(f"{self.url}/health") as answer:
                        assert answer.status == 200
                        return
                except aiohttp.ClientError:
                    assert self.process.poll() is None, self._program.finish(self.process).said
                    await asyncio.sleep(0.1)

    async def killed(self) -> None:
        """Kill it with -9, and start it again."""
        await asyncio.to_thread(self._program.kill, self.process)
        self.process = self._start()
        await self.ready()

    async def lives(self, kills: list[float], seconds: float) -> None:
        """Let it live so long, killed after so many seconds each; note what it holds of memory."""
        began = time.monotonic()
        while (now := time.monotonic() - began) < seconds:
            if kills and now > kills[0]:
                kills.pop(0)
                await self.killed()
            self.resident.append((now, _resident(self.process.pid)))
            await asyncio.sleep(1)
        self.cpu = _cpu(self.process.pid)

    def held_at(self, second: float) -> float:
        """Return the most MiB that it held in the half minute up to this second."""
        return max(size for at, size in self.resident if second - 30 < at <= second)


def _resident(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0.0)


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load(program: Program, bank: Bank, *, seconds: float, kills: list[float]) -> Gateway:
    """Have a crowd call for so long, and give the verdict on what it got and what the bank billed."""
    with kept_port() as port:
        gateway = Gateway(program, bank, port)
        await gateway.ready()
        crowd = Crowd(gateway.url, clients=200, leaves_within=bank.delay[1])
        await asyncio.gather(crowd.call_for(seconds), gateway.lives(kills, seconds))
        ended = await asyncio.to_thread(program.kill, gateway.process, signal.SIGTERM)
    assert ended.code in {0, 143}, ended.said
    verdict(program, bank, crowd)
    print(f"CPU of the last process: {gateway.cpu:.1f} s")  # noqa: T201  what it is run by hand for
    return gateway


def verdict(program: Program, bank: Bank, crowd: Crowd) -> None:
    """Hold the bank's count against what clients got, and what the ledger says of it."""
    assert set(crowd.got.values()) == {1}
    assert not set(crowd.got) & crowd.left
    made, maybe = Counter[str](), Counter[str]()
    for row in program.ledger().values():
        name = job_of(json.loads(row["spec"])["prompt"])
        made[name] += row["status"] == "done"
        maybe[name] += row["possibly_billed"]
    for name, billed in bank.billed.items():
        assert billed <= made[name] + maybe[name], f"{name} was billed {billed} times, which the ledger does not say"
        assert made[name] <= 1 + crowd.lost[name], f"{name} was made again without being asked for"
        assert billed <= 1 + maybe[name], f"{name} was paid twice, unmarked"
    assert not set(crowd.got) - {name for name, count in made.items() if count}
    assert maybe.total() <= 2 * AT_ONCE  # what was on its way when it was killed, no more: also calls that were left
    assert not bank.again
    counts = {"pictures": crowd.got.total(), "left": len(crowd.left), "cut off": crowd.broken, **crowd.told}
    print(counts | {"billed": bank.billed.total(), "maybe": maybe.total()})  # noqa: T201  what it is run by hand for


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_crowd_of_a_minute_pays_once(program: Program, bank: Bank) -> None:
    bank.delay = (2.0, 8.0)
    await load(program, bank, seconds=60, kills=[15, 32])


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_a_crowd_of_twenty_minutes_pays_once_and_takes_no_more_memory(program: Program, bank: Bank) -> None:
    bank.delay = (2.0, 8.0)
    gateway = await load(program, bank, seconds=1200, kills=[90, 180])
    early, late = gateway.held_at(300), gateway.held_at(1200)
    print(f"resident: {early:.0f} MiB after 5 minutes, {late:.0f} MiB after 20")  # noqa: T201  what it is run by hand for
    assert late < 1.1 * early + CACHE
