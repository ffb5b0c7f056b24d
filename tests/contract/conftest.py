"""An API of tasks beside the bank's plain ones, for the suite that every provider runs.

A request is billed when its task is made and refunded when the task fails, so `billed` says what a job cost in the end.
What a task does is said in the prompt, after `job ID`: `#wait3` is not ready for three polls, `#stuck` never; `#lost`,
`#failing`, `#moderated`, `#unknown2` (not found for two polls), `#vanished` (never found), `#busy` (429 to the first
request), `#busypoll`, `#brokenpoll`, `#gone` (the picture is), `#cost`.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from tests.chaos.kills.conftest import KEY, PRICE, Bank, Program, Scene, program
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PRICE", "WAYS", "Bank", "Program", "Scene", "TaskBank", "Way", "program"]

TOLD = 3.5  # credits that a task says it cost, at 0.01 each


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One provider as a manifest names it: what stands in `provider`, and whether it works with tasks."""

    name: str
    provider: str
    tasks: bool
    tells_cost: bool = False


WAYS = (
    Way(name="standard", provider="name: tuzi, style: standard", tasks=False),
    Way(name="chat", provider="name: tuzi, style: chat", tasks=False),
    Way(name="native", provider="name: tuzi, style: native", tasks=True),
    Way(name="bfl", provider="name: bfl", tasks=True, tells_cost=True),
)
"""Every provider; a new one is one more line."""


@dataclass
class TaskBank(Bank):
    """The bank, with tasks. `polls` counts how often each job's task was asked for, `last` keeps its prompt."""

    polls: Counter[str] = field(default_factory=Counter)
    prompts: dict[str, str] = field(default_factory=dict)
    refused: int = 0

    def app(self) -> web.Application:
        app = super().app()
        for prefix in ("/v1", "/flux/v1"):
            app.router.add_get(f"{prefix}/get_result", self.result)
            app.router.add_post(f"{prefix}/{{model}}", self.post)
        app.middlewares.append(self._guard)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Refuse a wrong key, and a key where none belongs."""
        key = request.headers.get("x-key") or request.headers.get("Authorization", "").removeprefix("Bearer ")
        if request.path.startswith("/files/"):
            assert not key, "a key went to the host of pictures"
        elif key != KEY:
            self.refused += 1
            return web.json_response({"detail": "Not authenticated - Invalid Authentication"}, status=403)
        elif request.path.startswith("/v1/flux-") or request.path == "/v1/get_result":
            assert "x-key" in request.headers, "BFL's own API knows no bearer"
        return await handler(request)  # type: ignore[no-any-return]  # aiohttp leaves it open

    async def _answer(self, request: web.Request, text: str, name: str) -> web.StreamResponse:
        self.prompts[name] = text
        if "#busy " in text + " " and self.posts[name] == 1:
            return web.json_response({"error": {"message": "slow down", "code": "x"}}, status=429)
        if "#moderated" in text and not _of_tasks(request):
            body = {"error": {"message": "no", "code": "content_policy_violation"}}
            return web.json_response(body, status=400)
        if "#failing" in text and self.posts[name] == 1 and not _of_tasks(request):
            return web.json_response({"error": {"message": "oops", "code": "x"}}, status=500)
        if not _of_tasks(request):
            return await super()._answer(request, text, name)
        self.billed[name] += 1
        if "#lost" in text and request.transport is not None:
            request.transport.abort()
            return web.Response()
        polling = f"{self.url}{request.path.rpartition('/')[0]}/get_result?id={name}"
        if request.path.startswith("/flux/"):
            polling = f"https://api.us1.bfl.ai/v1/get_result?id={name}"  # where the relay's key must never go
        cost = {"cost": TOLD} if "#cost" in text else {}
        return web.json_response({"id": name, "polling_url": polling, **cost})

    async def result(self, request: web.Request) -> web.StreamResponse:
        name = request.query["id"]
        self.polls[name] += 1
        text, polls = self.prompts[name], self.polls[name]
        if "#busypoll" in text and polls <= 2:
            return web.json_response({"detail": "too many requests"}, status=429)
        if "#brokenpoll" in text and polls <= 2:
            return web.Response(status=500, text="oops")
        missing = re.search(r"#unknown(\d+)", text)
        if "#vanished" in text or (missing is not None and polls <= int(missing[1])):
            return web.json_response({"id": name, "status": "Task not found", "result": None}, status=404)
        waits = re.search(r"#wait(\d+)", text)
        if "#stuck" in text or (waits is not None and polls <= int(waits[1])):
            return web.json_response({"id": name, "status": "Pending", "result": None})
        if "#moderated" in text or ("#failing" in text and self.posts[name] == 1):
            self.billed[name] -= 1
            status = "Content Moderated" if "#moderated" in text else "Error"
            return web.json_response({"id": name, "status": status, "result": None})
        return web.json_response({"id": name, "status": "Ready", "result": {"sample": f"{self.url}/files/{name}.png"}})

    async def file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"].removesuffix(".png")
        if "#gone" in self.prompts.get(name, "") and self.posts[name] == 1:
            return web.Response(status=404)
        return await super().file(request)


def _of_tasks(request: web.Request) -> bool:
    return "/flux-" in request.path


@pytest.fixture
def bank() -> Iterator[TaskBank]:
    provider = TaskBank()
    with serving(provider.app()) as provider.url:
        yield provider


@pytest.fixture(params=WAYS, ids=lambda way: way.name)
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.param
    return found


@dataclass
class Shop:
    """A bank and a program that runs one manifest of a way against it."""

    bank: TaskBank
    program: Program
    way: Way

    def manifest(self, *prompts: str, price: float = PRICE, limits: str = "", more: str = "") -> None:
        """Write a manifest of jobs `a`, `b`, ... with these prompts."""
        jobs = "".join(
            f"  - {{id: {name}, prompt: 'job {name} {prompt}', "
            f"{'' if self.way.name == 'chat' else 'output_format: png'}}}\n"
            for name, prompt in zip("abcdefgh", prompts, strict=False)
        )
        (self.program.folder / "m.yaml").write_text(
            "version: 1\nname: m\n"
            f"provider: {{{self.way.provider}, base_url: '{self.bank.url}', keys: [TEST_KEY], price: {price}{more}}}\n"
            f"limits: {{concurrency: 6, timeout: 20s{limits}}}\noutput: {{dir: {self.program.out}}}\njobs:\n{jobs}",
            encoding="utf-8",
        )

    def row(self, name: str = "a") -> dict[str, str]:
        return next(row for row in self.program.rows() if row["id"] == name)


@pytest.fixture
def shop(bank: TaskBank, program: Program, way: Way) -> Shop:
    bank.out = program.out
    return Shop(bank, program, way)
