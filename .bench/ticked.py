"""Runs a script or the program with a task that ticks beside it, and writes how late its ticks came.

`python .bench/ticked.py FILE COMMAND...`, where COMMAND is what would follow `python`: a script, or `-m` and a module.
FILE gets JSON: `held_ms`, the most CPU that the loop's thread took between two ticks; `p99_ms` and `worst_ms`, how late
the 99th of 100 ticks was, and the worst. The first half second is the start's, and is left out.
"""

from __future__ import annotations

import asyncio
import json
import runpy
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine

START, TICK = 0.5, 0.002  # seconds


async def _beside(main: Coroutine[Any, Any, Any], late: list[float], held: list[float]) -> Any:
    async def tick() -> None:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(START)
        while True:
            due, used = clock() + TICK, time.thread_time()
            await asyncio.sleep(TICK)
            late.append(clock() - due)
            held.append(time.thread_time() - used)

    ticking = asyncio.create_task(tick())
    try:
        return await main
    finally:
        ticking.cancel()


def main() -> None:
    """Run the command, whose event loop is the first that an asyncio.Runner makes."""
    place, command = Path(sys.argv[1]), sys.argv[2:]
    late, held = [0.0], [0.0]

    run = asyncio.Runner.run  # asyncio.run makes one too

    def ticked(runner: asyncio.Runner, coro: Coroutine[Any, Any, Any], **how: Any) -> Any:
        return run(runner, _beside(coro, late, held), **how)

    asyncio.Runner.run = ticked  # type: ignore[assignment,method-assign]
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
        figures = {
            "held_ms": 1000 * max(held),
            "p99_ms": 1000 * late[int(0.99 * len(late))],
            "worst_ms": 1000 * late[-1],
        }
        place.write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
