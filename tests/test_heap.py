"""Memory that pictures had is there for the next ones, without a fault a page."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

CHURN = """
import resource
from batchflux import heap
kept = {choice} and heap.keep()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for number in range(20):
    before = faults()
    pictures = [bytes(200_000) for _ in range(64)]
    del pictures
print(int(kept), faults() - before)
"""


def churn(*, keep: bool, **environment: str) -> tuple[bool, int]:
    """Whether the C library was told, and the page faults of one more round of 64 pictures."""
    done = subprocess.run(
        [sys.executable, "-c", CHURN.format(choice=keep)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    kept, faults = done.stdout.split()
    return kept == "1", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc, which this is for")
def test_freed_memory_is_used_again_without_faults() -> None:
    told, few = churn(keep=True)
    assert told
    _, many = churn(keep=False)
    assert few * 10 < many


def test_who_has_set_the_variables_of_glibc_is_listened_to() -> None:
    told, _ = churn(keep=True, MALLOC_ARENA_MAX="2")
    assert not told
