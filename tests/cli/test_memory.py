"""The threads of a process that is all ours take memory from one place."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Start

THREADS = """
import ctypes, sys, threading
from batchflux.cli import main

sys.argv = ["batchflux", "--version"]
try:
    main()
except SystemExit:
    pass
hold = threading.Barrier(9)


def work():
    held = [bytes(100_000) for _ in range(10)]
    hold.wait()
    hold.wait()
    del held


threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
hold.wait()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
told = ctypes.c_void_p(libc.fopen(sys.argv_of_test, b"w"))
libc.malloc_info(0, told)
libc.fclose(told)
hold.wait()
"""


def test_eight_threads_share_an_arena(start: Start, need: Callable[[str, bool], None], tmp_path: Path) -> None:
    """Glibc would give each one of its own, and keep what it frees for it."""
    need("glibc", platform.libc_ver()[0] == "glibc")
    told = tmp_path / "arenas.xml"
    program = start(THREADS.replace("sys.argv_of_test", repr(str(told).encode())))
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 0, errors
    assert told.read_text().count("<heap nr=") == 1
