"""Asks for pictures as a client of OpenAI's API does, so many at once, and prints how long each call took, as JSON.

Run as `python .bench/gateway_client.py`. With `--way link` a call is over when the picture behind its link is there.
Clients begin one after the other, over `--over` seconds: those of a provider that takes its time come when they come.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import time

import aiohttp


async def ask(session: aiohttp.ClientSession, arguments: argparse.Namespace, number: int) -> float:
    """Ask for one picture; return after how many seconds it was there."""
    form = "url" if arguments.way == "link" else "b64_json"
    prompt = f"A ceramic mug no. {arguments.first + number}, glazed in cobalt"
    body = {"model": "bench", "prompt": prompt, "response_format": form}
    began = time.perf_counter()
    async with session.post(f"{arguments.url}/v1/images/generations", json=body) as answer:
        told = await answer.read()
        if answer.status != 200:
            raise SystemExit(f"{answer.status} {told[:500]!r}")
    if arguments.way == "link":
        async with session.get(json.loads(told)["data"][0]["url"]) as picture:
            await picture.read()
    return time.perf_counter() - began


async def main() -> None:
    """Parse the arguments, and ask."""
    parser = argparse.ArgumentParser(description="Clients of a gateway, or of what is behind it.")
    parser.add_argument("--url", required=True)
    parser.add_argument("--way", choices=("json", "link"), required=True)
    parser.add_argument("--calls", type=int, required=True)
    parser.add_argument("--at-once", type=int, required=True)
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--over", type=float, required=True)
    arguments = parser.parse_args()
    numbers, times = itertools.count(), list[float]()

    async def client(session: aiohttp.ClientSession, place: int) -> None:
        await asyncio.sleep(arguments.over * place / arguments.at_once)
        while (number := next(numbers)) < arguments.calls:
            times.append(await ask(session, arguments, number))

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers={"Authorization": "Bearer sk-bench"}) as session:
        await asyncio.gather(*(client(session, place) for place in range(arguments.at_once)))
    sys.stdout.write(json.dumps(times))


if __name__ == "__main__":
    asyncio.run(main())
