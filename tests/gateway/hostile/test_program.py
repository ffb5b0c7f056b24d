"""The gateway as a process: killed while clients race their budgets, told to read its keys again, begun wrongly."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections import Counter
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING

import pytest
from aiohttp import ClientError, ClientSession, ClientTimeout

from batchflux.gateway.clients import Client
from batchflux.gateway.new_keys import add_key
from batchflux.testing.bank import KEY, PRICE, Bank, opened
from batchflux.testing.program import Program, program_in
from tests.gateway.hostile.conftest import Caller
from tests.waiting import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence
    from pathlib import Path

pytestmark = pytest.mark.slow

MANIFEST = """version: 1
name: m
provider: {{name: tuzi, base_url: {url}, keys: [TEST_KEY], model: m, price: {price}, currency: CNY}}
output: {{dir: {out}}}
"""
AFFORDS = 12  # pictures


@pytest.fixture
def bank() -> Iterator[Bank]:
    with opened() as made:
        yield made


@pytest.fixture
def program(tmp_path: Path, bank: Bank) -> Iterator[Program]:
    with program_in(tmp_path) as made:
        made.write("m.yaml", MANIFEST.format(url=bank.url, price=PRICE, out=made.out))
        yield made


def started(program: Program) -> tuple[subprocess.Popen[str], str]:
    """Start a gateway with client keys; return it and where it listens."""
    process = program.start("gateway", "m.yaml", "--port", "0", "--client-keys", "clients.yaml")
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.fullmatch(r"(http://127\.0\.0\.1:\d+)/v1\n", line)
    assert found is not None, program.finish(process).said
    return process, found[1]


async def bought(caller: Caller, prompt: str) -> str:
    """Ask for a picture; return what came of it, in one word."""
    try:
        status, code = await caller.buy(prompt)
    except ClientError:
        return "cut off"
    return code or str(status)


def _out_or_refused(bank: Bank, before: int, calls: Sequence[asyncio.Task[str]]) -> bool:
    return bank.posts.total() > before or all(call.done() for call in calls)


@pytest.mark.timeout(400)  # six gateways begin, one after another
async def test_a_budget_outlives_kills(program: Program, bank: Bank, tmp_path: Path) -> None:
    """What was out when it was killed may have been billed, so that it counts; then less is bought, and never more."""
    key = add_key(tmp_path / "clients.yaml", Client(name="a", budget=Decimal(f"{PRICE * AFFORDS:.2f}")))
    bank.delay = (0.2, 0.6)
    ends = Counter[str]()
    async with ClientSession(timeout=ClientTimeout(110)) as session:
        for number in range(6):
            process, url = await asyncio.to_thread(started, program)
            caller = Caller(url, session, key)
            calls = [asyncio.create_task(bought(caller, f"job {number}-{n}")) for n in range(20)]
            if number < 5:
                await until(partial(_out_or_refused, bank, bank.posts.total(), calls))
                await asyncio.sleep(0.1 * number)
                await asyncio.to_thread(program.kill, process)
            ends.update(await asyncio.gather(*calls))
            assert bank.posts.total() <= AFFORDS
        assert await bought(caller, "job of the last") == "insufficient_quota"
        await asyncio.to_thread(program.kill, process, signal.SIGTERM)
    assert ends["insufficient_quota"] >= 20 - AFFORDS
    rows = program.ledger().values()
    counted = sum(row["status"] == "done" for row in rows) + sum(row["possibly_billed"] for row in rows)
    assert bank.billed.total() <= counted <= AFFORDS


async def test_keys_are_read_again_when_it_is_told(program: Program, bank: Bank, tmp_path: Path) -> None:
    path = tmp_path / "clients.yaml"
    first = add_key(path, Client(name="a"))
    process, url = await asyncio.to_thread(started, program)
    async with ClientSession(timeout=ClientTimeout(110)) as session:
        assert await bought(Caller(url, session, first), "job 1") == "200"
        second = add_key(path, Client(name="b"))
        assert await bought(Caller(url, session, second), "job 2") == "invalid_api_key"
        os.kill(process.pid, signal.SIGHUP)
        assert "read again: 2 clients in clients.yaml" in await said(process, "read again")
        assert await bought(Caller(url, session, second), "job 2") == "200"
        path.write_text(f"- name: c\n  sha256: {second}\n", encoding="utf-8")
        os.kill(process.pid, signal.SIGHUP)
        assert "clients.yaml:2: [0].sha256: this is no SHA-256" in await said(process, "stay in force")
        assert await bought(Caller(url, session, second), "job 3") == "200"
    ended = await asyncio.to_thread(program.kill, process, signal.SIGTERM)
    assert ended.code == 0, ended.said
    for secret in (first, second, KEY):
        assert secret not in ended.said
        for file in program.out.rglob("*"):
            assert not file.is_file() or secret.encode() not in file.read_bytes(), file


def heard() -> None:
    """Let SIGHUP end the process to come, although whoever runs the tests did so by nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


async def test_a_terminal_that_closes_ends_it_when_what_was_sent_is_in(program: Program, bank: Bank) -> None:
    bank.held = lambda: True
    program.preexec = heard
    process = program.start("gateway", "m.yaml", "--port", "0")
    assert process.stdout is not None
    url = (await asyncio.to_thread(process.stdout.readline)).strip().removesuffix("/v1")
    async with ClientSession(timeout=ClientTimeout(110)) as session:
        call = asyncio.create_task(bought(Caller(url, session, "any"), "job 1"))
        await until(bank.posts.total)
        os.kill(process.pid, signal.SIGHUP)
        await said(process, "Stopping: what is under way is finished")
        bank.held = None
        assert await call == "200"
    ended = await asyncio.to_thread(program.finish, process)
    assert ended.code == 0, ended.said
    assert [row["status"] for row in program.ledger().values()] == ["done"]


async def test_who_runs_it_is_told_why_no_pictures_are_made(program: Program) -> None:
    process = program.start("gateway", "m.yaml", "--port", "0", TEST_KEY="of-somebody-else")
    assert process.stdout is not None
    url = (await asyncio.to_thread(process.stdout.readline)).strip().removesuffix("/v1")
    async with ClientSession(timeout=ClientTimeout(110)) as session:
        assert [await bought(Caller(url, session, "any"), f"job {n}") for n in "ab"] == ["provider_key_refused"] * 2
    told = (await asyncio.to_thread(program.kill, process, signal.SIGTERM)).err
    assert told.count("TEST_KEY") == 1, told  # once, not for each call
    assert "of-somebody-else" not in told
    assert '"event": "not_made", "reason": "auth"' in (program.out / "run.log").read_text()


async def said(process: subprocess.Popen[str], words: str) -> str:
    """Return what it says on stderr until it says this."""
    assert process.stderr is not None
    lines: list[str] = []
    while not lines or words not in lines[-1]:
        lines.append(await asyncio.wait_for(asyncio.to_thread(process.stderr.readline), 90))
        assert lines[-1], lines
    return "".join(lines)


def test_a_budget_needs_a_price(program: Program, bank: Bank, tmp_path: Path) -> None:
    add_key(tmp_path / "clients.yaml", Client(name="a", budget=Decimal(1)))
    unpriced = MANIFEST.replace("price: {price}, ", "")
    program.write("m.yaml", unpriced.format(url=bank.url, out=program.out))
    ended = program("gateway", "m.yaml", "--port", "0", "--client-keys", "clients.yaml")
    says = "clients.yaml: a: a budget needs the price of the model m of tuzi; add it to the manifest (0 is one)\n"
    assert (ended.code, ended.err) == (2, says)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("--host", "0.0.0.0"),  # noqa: S104  what is tested is that it is refused
            "without client keys everyone who reaches it could spend your money: add --client-keys",
        ),
        (("--client-keys", "none.yaml"), "none.yaml: the file of client keys does not exist; make one with"),
        (("--client-keys", "bad.yaml"), "bad.yaml:1: [0].sha256: is missing"),
        (("--allow-origin", "*"), '--allow-origin "*" is no site'),
        (("--allow-origin", "http://a", "--allow-origin", "null"), '--allow-origin "null" is no site'),
        (("--public-url", "pictures.example.com"), '--public-url: found "pictures.example.com"; allowed is an http://'),
        (("--public-url", "https://a.example/?x=1"), '--public-url: found "https://a.example/" with a query'),
        (("--public-url", "javascript:alert(1)"), '--public-url: found "javascript:alert(1)"; allowed is'),
    ],
)
def test_what_it_does_not_begin_with(program: Program, arguments: tuple[str, ...], says: str) -> None:
    program.write("bad.yaml", "- name: a\n")
    ended = program("gateway", "m.yaml", "--port", "0", *arguments)
    assert ended.code == 2
    assert says in ended.err
    assert "Traceback" not in ended.said
    assert not (program.out / "ledger.db").exists()


def test_what_of_the_manifest_does_not_hold_for_clients_is_said(program: Program) -> None:
    rest = "limits: {deadline: 5h, rate: 9/s}\noutput: {dir: out}\ndefaults: {seed: 7}\n"
    program.write("mine.yaml", f"version: 1\nprovider: simulator\n{rest}")
    ended = program("gateway", "mine.yaml", "--port", "0", "--allow-origin", "*")
    assert ended.err.startswith("mine.yaml: what clients ask for is made without defaults, limits.deadline.\n")
