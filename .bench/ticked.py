"""Runs a script or the program with a task that ticks beside it, and writes how late its ticks came.

`python .bench/ticked.py FILE COMMAND...`, where COMMAND is what would follow `python`: a script, or `-m` and a module.
FILE gets JSON: `worst_ms` and `p999_ms`, the lateness of the worst tick and of the 999th of 1,000.
"""

from __future__ import annotations

import asyncio
import json
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine

TICK = 0.002  # seconds


async def _beside(main: Coroutine[Any, Any, Any], late: list[float]) -> Any:
    async def tick() -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due = clock() + TICK
            await asyncio.sleep(TICK)
            late.append(clock() - due)

    ticking = asyncio.create_task(tick())
    try:
        return await main
    finally:
        ticking.cancel()


def main() -> None:
    """Run the command, whose event loop is the first that an asyncio.Runner makes."""
    place, command = Path(sys.argv[1]), sys.argv[2:]
    late: list[float] = []

    class Ticked(asyncio.Runner):
        def run(self, coro: Coroutine[Any, Any, Any], **how: Any) -> Any:
            return super().run(_beside(coro, late), **how)

    asyncio.Runner = Ticked  # type: ignore[misc]
    asyncio.run = lambda coro: Ticked().run(coro)  # type: ignore[assignment]
    try:
        if command[0] == "-m":
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            sys.path.insert(0, str(Path(command[0]).parent))
            runpy.run_path(command[0], run_name="__main__")
    finally:
        late.sort()
        figures = {"worst_ms": 1000 * late[-1], "p999_ms": 1000 * late[int(0.999 * (len(late) - 1))]}
        place.write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
