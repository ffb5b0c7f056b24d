"""Clients that call a gateway at once as OpenAI's do, leave in mid-call, and ask again as they would."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import re
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import aiohttp

from batchflux.testing.bank import picture_of

Way = Literal["base64", "link", "chat"]
_LINK = re.compile(r"!\[[^]]*\]\((http[^)]+)\)")
_GONE = (aiohttp.ClientError, ConnectionError, TimeoutError)
_PATIENCE = 120.0  # seconds of one call; the bank is never that slow


class ToldError(Exception):
    """What a client was told in the place of a picture."""

    def __init__(self, status: int, code: str, after: float | None = None) -> None:
        super().__init__(f"{status} {code}")
        self.status, self.code, self.after = status, code, after


@dataclass
class Crowd:
    """So many `clients` of the gateway at `url`; `vanish` of their calls are left in mid-call, one half for good.

    `got` counts the pictures by name: each was the right one. `lost` counts by name how often its client was told that
    it is not known what became of its call, and then wanted another; `left` are names nobody came back for.
    """

    url: str
    clients: int
    vanish: float = 0.1
    leaves_within: float = 5.0
    got: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    left: set[str] = field(default_factory=set)
    told: Counter[str] = field(default_factory=Counter)
    broken: int = 0

    async def call_for(self, seconds: float) -> None:
        """Call for so long; what is under way then is seen to its end."""
        until = time.monotonic() + seconds
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(self._client(session, number, until) for number in range(self.clients)))

    async def _client(self, session: aiohttp.ClientSession, number: int, until: float) -> None:
        ways, calls = get_args(Way), 0
        await asyncio.sleep(random.uniform(0, 1))
        while time.monotonic() < until:
            name, way = f"c{number}-{calls}", ways[(number + calls) % len(ways)]
            calls += 1
            retries = 0
            if random.random() < self.vanish:
                with suppress(TimeoutError):
                    async with asyncio.timeout(random.uniform(0, self.leaves_within)):
                        await self._see_through(session, name, way, 0)
                        continue
                if random.random() < 0.5:
                    self.left.add(name)
                    continue
                retries = 1
            await self._see_through(session, name, way, retries)

    async def _see_through(self, session: aiohttp.ClientSession, name: str, way: Way, retries: int) -> None:
        """Ask until the picture is there, as clients do where they may ask again, and people where they may not."""
        while True:
            try:
                async with asyncio.timeout(_PATIENCE):
                    picture = await self._ask(session, name, way, retries)
            except ToldError as told:
                self.told[str(told)] += 1
                if told.status == 503:
                    retries += 1
                    await asyncio.sleep(min(told.after or 1.0, 5.0))
                elif told.code == "unknown_outcome":
                    self.lost[name] += 1
                    retries = 0
                else:
                    raise
            except _GONE:
                self.broken += 1
                retries += 1
                await asyncio.sleep(random.uniform(0.3, 1.0))
            else:
                assert picture == picture_of(name, 48), name
                self.got[name] += 1
                return

    async def _ask(self, session: aiohttp.ClientSession, name: str, way: Way, retries: int) -> bytes:
        headers = {"x-stainless-retry-count": str(retries)}
        prompt = f"job {name} a mug"
        if way == "chat":
            body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": prompt}], "stream": True}
            async with session.post(f"{self.url}/v1/chat/completions", json=body, headers=headers) as answer:
                return await self._fetched(session, _link_in(await _whole(answer)))
        body = {"model": "m", "prompt": prompt, "response_format": "b64_json" if way == "base64" else "url"}
        async with session.post(f"{self.url}/v1/images/generations", json=body, headers=headers) as answer:
            picture = json.loads(await _whole(answer))["data"][0]
        if way == "base64":
            return base64.b64decode(picture["b64_json"], validate=True)
        return await self._fetched(session, picture["url"])

    async def _fetched(self, session: aiohttp.ClientSession, link: str) -> bytes:
        async with session.get(link) as answer:
            answer.raise_for_status()
            return await answer.read()


async def _whole(answer: aiohttp.ClientResponse) -> str:
    """Return a body; ToldError: it is a refusal."""
    text = await answer.text()
    if answer.status != 200:
        after = answer.headers.get("Retry-After")
        raise ToldError(answer.status, json.loads(text)["error"]["code"], float(after) if after else None)
    return text


def _link_in(stream: str) -> str:
    """Return the link in a whole stream; ToldError: it is a refusal, ConnectionError: it has no end."""
    frames = [line.removeprefix("data: ") for line in stream.split("\n") if line.startswith("data: ")]
    if frames[-1:] != ["[DONE]"]:
        raise ConnectionError("half a stream")
    chunks = [json.loads(frame) for frame in frames[:-1]]
    for chunk in chunks:
        if "error" in chunk:
            raise ToldError(503 if "unknown" not in chunk["error"]["code"] else 400, chunk["error"]["code"])
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    (link,) = _LINK.findall(text)
    return str(link)
