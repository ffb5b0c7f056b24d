"""The baselines: what a person writes in an afternoon, on bare aiohttp, with none of the promises.

`loop`: workers on an iterator of jobs; each posts the JSON, reads the answer, fetches its link and writes the file
(open, write, close; no fsync). With `--retry` a 429 is tried again after a second, otherwise it is an error. With
`--rate` a textbook GCRA holds the requests of each key back, and a 429 goes through it once more. With `--table` the
jobs come from a CSV file, and `--skip-done` leaves out those whose file is there: the plain way to resume.
Run as `python .bench/bare_loop.py`; SIGINT ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import itertools
import os
import signal
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MODEL = "flux-kontext-pro"
RETRY_SECONDS = 1.0
Job = tuple[str, str]


class Gcra:
    """The textbook: a request leaves at the theoretical arrival time, the next one an interval later."""

    def __init__(self, rate: float) -> None:
        self._interval = 1.0 / rate
        self._tat = 0.0

    async def wait(self) -> None:
        """Wait for this request's turn."""
        now = asyncio.get_running_loop().time()
        at = max(now, self._tat)
        self._tat = at + self._interval
        await asyncio.sleep(at - now)


class Loop:
    """One session, one folder, the keys in turn."""

    def __init__(self, arguments: argparse.Namespace, session: aiohttp.ClientSession) -> None:
        self._arguments = arguments
        self._session = session
        self._url = f"{arguments.url}/v1/images/generations"
        keys = [{"Authorization": f"Bearer sk-{number}"} for number in range(arguments.keys)]
        gates = [Gcra(arguments.rate) if arguments.rate else None for _ in keys]
        self._turns = itertools.cycle(zip(keys, gates, strict=True))

    async def work(self, jobs: Iterator[Job]) -> None:
        """Do jobs until there are no more."""
        for name, prompt in jobs:
            link = await self._post({"model": MODEL, "prompt": prompt})
            async with self._session.get(link) as response:
                response.raise_for_status()
                data = await response.read()
            with open(f"{self._arguments.out}/{name}.png", "wb") as file:  # noqa: ASYNC230, PTH123  as a bare loop does
                file.write(data)

    async def _post(self, body: dict[str, Any]) -> str:
        while True:
            headers, gate = next(self._turns)
            if gate is not None:
                await gate.wait()
            async with self._session.post(self._url, json=body, headers=headers) as response:
                if response.status != 429 or not (gate or self._arguments.retry):
                    response.raise_for_status()
                    return str((await response.json())["data"][0]["url"])
                await response.read()
            if gate is None:
                await asyncio.sleep(RETRY_SECONDS)


def numbered(count: int) -> Iterator[Job]:
    """Yield jobs like those of the table."""
    for number in range(count):
        photo = f"https://photos.example.com/catalogue/2026/{number}.jpg"
        yield f"item-{number:07d}", f"{photo} A ceramic mug no. {number}, glazed in cobalt on oak"


def rows(path: str) -> Iterator[Job]:
    """Yield the jobs of a table."""
    with open(path, encoding="utf-8", newline="") as file:  # noqa: PTH123  as a bare loop does
        for row in csv.DictReader(file):
            yield row["id"], f"{row['photo']} {row['title']} on {row['surface']}"


def undone(jobs: Iterable[Job], out: str) -> Iterator[Job]:
    """Leave out the jobs whose file is there."""
    return (job for job in jobs if not os.path.exists(f"{out}/{job[0]}.png"))  # noqa: PTH110  as a bare loop does


async def main(arguments: argparse.Namespace) -> None:
    """Work through all jobs."""
    jobs = rows(arguments.table) if arguments.table else numbered(arguments.jobs)
    if arguments.table and arguments.jobs:
        jobs = itertools.islice(jobs, arguments.jobs)
    if arguments.skip_done:
        jobs = undone(jobs, arguments.out)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        loop = Loop(arguments, session)
        await asyncio.gather(*(loop.work(jobs) for _ in range(arguments.workers)))


def parse() -> argparse.Namespace:
    """Parse the arguments."""
    parser = argparse.ArgumentParser(description="A bare aiohttp loop.")
    parser.add_argument("--url", required=True)
    parser.add_argument("--out", required=True, help="an existing folder")
    parser.add_argument("--jobs", type=int, default=0, help="how many; with --table at most so many, 0: all")
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--keys", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second for each key, by a textbook GCRA")
    parser.add_argument("--retry", action="store_true", help="try a 429 again after a second")
    parser.add_argument("--table", help="a CSV file of jobs")
    parser.add_argument("--skip-done", action="store_true", help="leave out jobs whose file is there")
    return parser.parse_args()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits that it is ignored
    try:
        asyncio.run(main(parse()))
    except KeyboardInterrupt:
        os._exit(0)  # asked to; nothing is kept that could be half-done
