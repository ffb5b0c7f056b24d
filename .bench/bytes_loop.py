"""The baseline for heavy bodies: bare aiohttp, json, base64, and a file, as a person writes it in an afternoon.

With `--photo` (again for each) a job reads its photo and posts it as a data URL; the picture is taken from a link, from
`b64_json`, or from the data URL in a stream's text, as `--way` says. Run as `python .bench/bytes_loop.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Iterator


class Loop:
    """One session, one folder."""

    def __init__(self, arguments: argparse.Namespace, session: aiohttp.ClientSession) -> None:
        self._arguments = arguments
        self._session = session

    async def work(self, jobs: Iterator[int]) -> None:
        """Do jobs until there are no more."""
        for number in jobs:
            data = await self._made(number)
            with open(f"{self._arguments.out}/{number}.png", "wb") as file:  # noqa: ASYNC230, PTH123  as a bare loop does
                file.write(data)

    async def _made(self, number: int) -> bytes:
        way, photos = self._arguments.way, self._arguments.photo
        prompt = f"A ceramic mug no. {number}, glazed in cobalt on oak"
        if way == "json":
            answer = await self._post("v1/images/generations", {"model": "m", "prompt": prompt})
            return base64.b64decode(json.loads(answer)["data"][0]["b64_json"])
        content: Any = prompt
        if photos:
            with open(photos[number % len(photos)], "rb") as file:  # noqa: ASYNC230, PTH123  as a bare loop does
                url = f"data:image/png;base64,{base64.b64encode(file.read()).decode()}"
            content = [{"type": "text", "text": prompt}, {"type": "image_url", "image_url": {"url": url}}]
        message = {"role": "user", "content": content}
        answer = await self._post("v1/chat/completions", {"model": "m", "messages": [message], "stream": True})
        frames = [line[6:] for line in answer.split("\n") if line.startswith("data: ") and "[DONE]" not in line[:20]]
        text = "".join(json.loads(frame)["choices"][0]["delta"]["content"] for frame in frames)
        target = text.partition("](")[2].rstrip(")")
        if target.startswith("data:"):
            return base64.b64decode(target.partition(",")[2])
        async with self._session.get(target) as response:
            return await response.read()

    async def _post(self, path: str, body: dict[str, Any]) -> str:
        async with self._session.post(f"{self._arguments.url}/{path}", json=body) as response:
            response.raise_for_status()
            return await response.text()


async def main(arguments: argparse.Namespace) -> None:
    """Work through all jobs."""
    jobs = iter(range(arguments.jobs))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        loop = Loop(arguments, session)
        await asyncio.gather(*(loop.work(jobs) for _ in range(arguments.workers)))


def parse() -> argparse.Namespace:
    """Parse the arguments."""
    parser = argparse.ArgumentParser(description="A bare aiohttp loop with heavy bodies.")
    parser.add_argument("--url", required=True)
    parser.add_argument("--out", required=True, help="an existing folder")
    parser.add_argument("--jobs", type=int, required=True)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--way", choices=("link", "json", "stream", "frames"), required=True)
    parser.add_argument("--photo", action="append", default=[])
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main(parse()))
