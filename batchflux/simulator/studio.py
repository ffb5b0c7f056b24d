"""Draws pictures off the event loop and keeps the last ones, bounded in bytes; answers what a link serves."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from batchflux.simulator.drawing import draw
from batchflux.simulator.drawing import parse_ratio

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from batchflux.simulator.images import Recipe
    from batchflux.simulator.references import Spool

    T = TypeVar("T")

KEPT_BYTES = 8 << 20
_WORKERS = 2


class GoneError(Exception):
    """A link whose upload is no longer kept."""


class Studio:
    """Makes pictures of recipes. `close` waits for what is being drawn; `kept_bytes` is the size of those kept."""

    def __init__(self, spool: Spool, kept_bytes: int = KEPT_BYTES) -> None:
        self.spool = spool
        self._limit = kept_bytes
        self._kept: OrderedDict[Recipe, bytes] = OrderedDict()
        self.kept_bytes = 0
        self._threads = ThreadPoolExecutor(_WORKERS, thread_name_prefix="batchflux-simulator-draw")

    async def off_loop(self, work: Callable[[], T]) -> T:
        """Run `work` in one of the studio's threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def picture(self, recipe: Recipe) -> bytes:
        """Return the picture's bytes, as the recipe's fault would have them.

        Raises:
            GoneError: a reference it is drawn from is no longer kept.
        """
        if recipe.fault == "echoed_input":
            return await self.off_loop(lambda: self._original(recipe))
        plain = spoilt(recipe)
        data = self._kept.get(plain)
        if data is None:
            data = await self.off_loop(lambda: draw(plain, self._reference))
            self._keep(plain, data)
        else:
            self._kept.move_to_end(plain)
        return data[: len(data) // 2] if recipe.fault == "truncated_image" else data

    def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _keep(self, recipe: Recipe, data: bytes) -> None:
        if recipe not in self._kept:
            self.kept_bytes += len(data)
        self._kept[recipe] = data
        while self.kept_bytes > self._limit:
            _, dropped = self._kept.popitem(last=False)
            self.kept_bytes -= len(dropped)

    def _reference(self, digest: str) -> bytes:
        data = self.spool.reduced(digest)
        if data is None:
            raise GoneError
        return data

    def _original(self, recipe: Recipe) -> bytes:
        data = self.spool.original(recipe.references[0][1:]) if recipe.references else None
        if data is None:
            raise GoneError
        return data


def spoilt(recipe: Recipe) -> Recipe:
    """Return the recipe of what is drawn: the fault's own kind and ratio, and no fault."""
    plain = replace(recipe, fault="", turn=0)
    if recipe.fault == "wrong_kind":
        return replace(plain, output_format="png" if recipe.output_format == "jpeg" else "jpeg")
    if recipe.fault == "wrong_ratio":
        ratio = parse_ratio(recipe.ratio) if recipe.ratio else None
        return replace(plain, ratio="21:9" if ratio is None else "9:16" if ratio > 1 else "16:9")
    return plain
