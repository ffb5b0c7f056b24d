"""How many pictures are fetched at once: as many as there is need of, as long as they are here in good time.

A link that is slow at its server's end takes nothing of our own line, so others are fetched beside it. Where the line
is what is slow, more at once would make each slower, until pictures that were paid for run out of time. So each second
their number grows by no more than half, and beyond `least` only while the line is idle, or all that are under way would
be here within `DRAIN` seconds: their number times the size of a picture over the bytes a second (Little's law). For one
that is turned away, or runs out of time, there are `TURNED_AWAY` fewer, and one more for each that comes (additive both
ways, so that links which fail by chance, up to one in nine, hold nothing back).
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

DRAIN = 60.0  # seconds; a download may take five times as long
TURNED_AWAY = 8
MEMORY, LOOK, GROWTH = 3.0, 1.0, 1.5  # seconds over which the speed is taken; between two looks at it
SIZES = 0.1  # what the newest picture weighs in their mean size
HELD, LEAST_HELD = 64 << 20, 64 << 10  # bytes in memory: of all downloads together, and of one in any case


class DownloadSlots:
    """Slots for downloads; one is held until its picture is kept. `grown` is called when more are out than ever.

    `least` may be out whatever they do, `most` are never exceeded.
    """

    def __init__(self, least: int, most: int) -> None:
        self.least, self.most = least, most
        self.in_use = 0
        self.grown: Callable[[], object] = _nothing
        self._peak = self._allowed = least
        self._ceiling = most
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._bytes, self._size = 0.0, 0.0
        self._at = self._looked_at = -math.inf

    async def __aenter__(self) -> Self:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._give()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    @property
    def share(self) -> int:
        """How many bytes one download may hold in memory; what is more goes to a file."""
        return max(HELD // max(self.in_use, 1), LEAST_HELD)

    def sized(self, size: int) -> None:
        """Learn how many bytes a picture has."""
        self._size += (size - self._size) * (SIZES if self._size else 1.0)

    def came(self, size: int) -> None:
        """Count bytes that came just now."""
        now = asyncio.get_running_loop().time()
        self._bytes = self._bytes * math.exp((self._at - now) / MEMORY) + size
        self._at = now

    def ended(self, *, turned_away: bool) -> None:
        """Learn how a download ended."""
        if turned_away:
            self._ceiling = max(min(self._ceiling, self.in_use) - TURNED_AWAY, self.least)
        else:
            self._ceiling = min(self._ceiling + 1, self.most)

    def _look(self) -> None:
        """See, once in `LOOK` seconds, how many may be out until the next look."""
        now = asyncio.get_running_loop().time()
        if now < self._looked_at + LOOK:
            return
        self._looked_at, silent = now, now - self._at
        speed = self._bytes / MEMORY * math.exp(-silent / MEMORY)
        in_time = silent > LOOK or self.in_use * self._size <= DRAIN * speed
        self._allowed = max(int(GROWTH * self.in_use) + 1, self.least) if in_time else self.least

    def _leave(self) -> None:
        self.in_use -= 1
        self._give()

    def _give(self) -> None:
        """Let those in who wait, as far as there are slots; look again soon while there are too few."""
        self._look()
        while self._waiting and (self._waiting[0].done() or self.in_use < min(self._allowed, self._ceiling)):
            turn = self._waiting.popleft()
            if turn.done():
                continue
            turn.set_result(None)
            self.in_use += 1
            if self.in_use > self._peak:
                self._peak = self.in_use
                self.grown()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(LOOK, self._give) if self._waiting else None


def _nothing() -> None:
    """Do nothing; a name, so that slots nobody has entered can travel to another process."""
