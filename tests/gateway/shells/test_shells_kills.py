"""A gateway killed at every point of a call, and started again: whoever asks again gets what was paid for, once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from batchflux.failpoints import VARIABLE
from batchflux.testing.bank import picture_of
from tests.gateway.shells.conftest import RELAYED, TASKS, Gate, gated
from tests.gateway.shells.takers import Answer, sdk_image
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

WAYS = {"whole": (RELAYED, "#b64"), "link": (RELAYED, "#url"), "task": (TASKS, "#wait*1")}
MARKS = ("mark", "retry")  # how a client says that it asks again
COMMON = ("attempt.intended", "request.leaving", "request.sent", "answer.received", "answer.recorded")
PLACED = ("file.written", "file.synced", "picture.moving", "picture.moved", "pictures.synced")
LISTED = ("csv.appending", "csv.appended")
POINTS = {
    "whole": (*COMMON[:4], "spool.begun", "spool.kept", *PLACED, *LISTED),
    "link": (*COMMON, *PLACED, *LISTED),
    "task": (*COMMON[:4], "handle.recorded", "poll.leaving", "answer.recorded", *PLACED, *LISTED),
}
# The first two have not left, which nobody can tell after a crash.
LOST = {"attempt.intended", "request.leaving", "request.sent", "answer.received", "spool.begun"}


@dataclass
class Persistent:
    """A client that asks until it is answered, as OpenAI's do, and says so as they do."""

    gate: Gate
    body: dict[str, Any]
    mark: str | None
    asked: int = 0

    async def __call__(self) -> Answer:
        async with aiohttp.ClientSession() as session:
            while True:
                try:
                    return await self._ask(session)
                except aiohttp.ClientError:
                    await asyncio.sleep(0.05)

    async def _ask(self, session: aiohttp.ClientSession) -> Answer:
        headers = {"x-stainless-retry-count": str(self.asked)} if self.mark is None else {"Idempotency-Key": self.mark}
        self.asked += 1
        url = f"{self.gate.url}/v1/images/generations"
        async with session.post(url, json=self.body, headers=headers) as answer:
            return Answer(status=answer.status, headers=answer.headers, body=await answer.read())


async def answered(gate: Gate, client: Persistent) -> tuple[Answer, bool]:
    """Return what a client gets, and whether the gateway died meanwhile, which is started again then."""
    asking, died = asyncio.create_task(client()), False
    while True:
        await until(lambda: gate.dead or asking.done())
        if asking.done():
            return await asking, died
        died = True
        await asyncio.to_thread(gate.start)


async def killed_at(folder: Path, point: str, way: str, mark: str) -> tuple[bool, Answer, int]:
    """Kill a gateway at a point, start it again, and see the call through.

    Return whether it was killed, what the client got, and how often the bank billed it. Asked once more, the gateway
    must say the same, and buy nothing.
    """
    model, how = WAYS[way]
    with gated(folder) as gate:
        client = Persistent(gate, {"model": model, "prompt": f"job k #{how[1:]}"}, "m1" if mark == "mark" else None)
        served = await asyncio.to_thread(gate.start, **{VARIABLE: point})
        got, died = await answered(gate, client)
        again, then = await answered(gate, client)
        assert (again.status, sdk_image(again)) == (got.status, sdk_image(got))
        await until(lambda: not gate.bank.open)
        return died or then or not served, got, gate.bank.billed["k"]


def judged(got: Answer, billed: int, *, may_be_lost: bool) -> None:
    """What was paid for is there; what may have been is told, and is not bought again."""
    seen = sdk_image(got)
    if may_be_lost:
        assert (got.status, "may have been billed" in seen.error) == (400, True), got.body
        assert billed <= 1
    else:
        assert (seen.pictures, billed) == ([picture_of("k")], 1), got.body


def lost(point: str, way: str) -> bool:
    """Whether a call that is cut off there is: its request may have left, and nothing of an answer is kept yet.

    A picture that came within its answer is a file on its way into the spool first.
    """
    return point in LOST or (way == "whole" and point.startswith("file."))


SHORT = [("link", "request.sent"), ("link", "answer.recorded"), ("task", "handle.recorded"), ("whole", "spool.kept")]


@pytest.mark.slow
@pytest.mark.parametrize(("way", "point"), SHORT)
async def test_killed_at_a_point_is_paid_once(tmp_path: Path, way: str, point: str) -> None:
    died, got, billed = await killed_at(tmp_path, point, way, MARKS[point == "request.sent"])
    assert died
    judged(got, billed, may_be_lost=lost(point, way))


@pytest.mark.long
@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize(("way", "point"), [(way, point) for way in WAYS for point in POINTS[way]])
async def test_killed_at_any_point_is_paid_once(tmp_path: Path, way: str, point: str, mark: str) -> None:
    died, got, billed = await killed_at(tmp_path, point, way, mark)
    assert died
    judged(got, billed, may_be_lost=lost(point, way))


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("point", ["commit.begun", "commit.made"])
@pytest.mark.parametrize("way", ["whole", "task"])
async def test_killed_at_any_commit_is_paid_once(tmp_path: Path, way: str, point: str) -> None:
    for number in count(1):
        died, got, billed = await killed_at(tmp_path / str(number), f"{point}:{number}", way, MARKS[number % 2])
        judged(got, billed, may_be_lost="may have been billed" in sdk_image(got).error)
        if not died:
            assert number > 6, "a call is more commits than that"
            return
