"""(stores) CPU of a picture of 200 KB that is put into a bucket, against a bare PUT of aiohttp, which signs nothing."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
from tools import Options, Row, script, table

from batchflux.output.stores.base import StoreSettings
from batchflux.output.stores.opening import Stores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchflux.output.stores.base import ObjectStore

SIZE, AT_ONCE = 200_000, 16
PUTS, QUICK_PUTS = 5_000, 1_000
_KEYS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}


def run(options: Options) -> dict[str, Any]:
    """Measure, print, and return the figures."""
    puts = QUICK_PUTS if options.quick else PUTS
    data = os.urandom(SIZE)
    with _server() as url:
        settings = {"s3://bench": StoreSettings(endpoint=url)}
        store = Stores(look_up=_KEYS.get, settings=settings).at("s3://bench")
        store.put("first.png", data, hashlib.sha256(data).hexdigest(), over=True)
        rows = [
            _measured("bare PUT", puts, lambda: asyncio.run(_bare(url, data, puts))),
            _measured("into a bucket, by 16 threads", puts, lambda: _ours(store, data, puts)),
        ]
    for row in rows:
        row["cpu_ratio"] = row["cpu_ms/put"] / rows[0]["cpu_ms/put"]
    table(f"(stores) {puts:,} pictures of {SIZE // 1000} KB, {AT_ONCE} at once", rows)
    return {"puts": puts, "rows": rows}


def _measured(what: str, puts: int, act: Callable[[], object]) -> Row:
    began, cpu = time.monotonic(), time.process_time()
    act()
    spent = time.process_time() - cpu
    return {"what": what, "cpu_ms/put": 1000 * spent / puts, "puts/s": puts / (time.monotonic() - began)}


async def _bare(url: str, data: bytes, puts: int) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE)) as session:

        async def put(number: int) -> None:
            async with session.put(f"{url}/bench/{number}.png", data=data) as answer:
                await answer.read()

        await asyncio.gather(*map(put, range(puts)))


def _ours(store: ObjectStore, data: bytes, puts: int) -> None:
    digest = hashlib.sha256(data).hexdigest()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(lambda number: store.put(f"{number}.png", data, digest, over=True), range(puts)))


@contextmanager
def _server() -> Iterator[str]:
    with subprocess.Popen(script("put_server"), stdout=subprocess.PIPE, text=True) as process:
        port = "" if process.stdout is None else process.stdout.readline().strip()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
