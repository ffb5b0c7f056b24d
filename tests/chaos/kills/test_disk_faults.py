"""Every kind of call to the disk fails once, or from some moment on: the run stops in one sentence and can go on.

strace makes the n-th call fail (`inject=fdatasync:error=EIO:when=N`). The slow tests take a few N of each kind, at
random and with the seed printed; the long ones take all.
"""

from __future__ import annotations

import random
import re
import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from batchflux.testing.program import Ended
    from tests.program import Scene

EACH = 2
KINDS = (("fdatasync", "EIO"), ("fsync", "EIO"), ("pwrite64", "ENOSPC"), ("rename", "ENOSPC"))
REMEDY = re.compile(
    r"(free space|make room|check the disk|repair|restore|put it back|mount it writable|make the folder writable)"
)


def judge(scene: Scene, ended: Ended, at: str) -> None:
    """A run met a fault: what it says, and that the next one ends well and pays for nothing that was recorded."""
    program, bank = scene.program, scene.bank
    assert ended.code in {0, 1, 2, 3}, f"{at}: {ended.said}"
    if ended.code:
        assert REMEDY.search(ended.said), f"{at}: no remedy in {ended.said}"
        assert len(ended.err.strip().splitlines()) <= 3, f"{at}: more than a sentence: {ended.err}"
    scene.settle()
    again = program.run()
    assert again.code == 0, f"{at}: {again.said}"
    assert not bank.again, f"{at}: paid again although the picture was fetched: {bank.again}"
    rows = {row["id"]: row for row in program.rows()}
    assert set(rows) == scene.names(EACH), at
    assert program.pictures() == scene.names(EACH), at
    for name, count in bank.billed.items():
        assert count <= 1 + int(rows[name]["possibly_billed"]), f"{at}: {name} was paid {count} times without a word"
    assert program.leftovers() == [], at


def fresh(scene: Scene) -> None:
    shutil.rmtree(scene.program.out, ignore_errors=True)
    scene.bank.forget()


def with_fault(scene: Scene, strace: str, *options: str) -> Ended:
    scene.program.wrapper = (strace, "-f", "-qq", "-o", str(scene.program.folder / "trace"), *options)
    try:
        return scene.program.run("--set", "limits.concurrency=2")
    finally:
        scene.program.wrapper = ()


@pytest.mark.parametrize(
    ("calls", "error", "most"),
    [
        (*KINDS[0], 1),
        *(pytest.param(*kind, 3, marks=pytest.mark.slow) for kind in KINDS),
        *(pytest.param(*kind, None, marks=[pytest.mark.long, pytest.mark.timeout(6000)]) for kind in KINDS),
    ],
)
def test_the_nth_call_fails(scene: Scene, strace: str, seed: int, calls: str, error: str, most: int | None) -> None:
    scene.program.manifest(scene.bank.url, scene.jobs(EACH))
    assert with_fault(scene, strace, "-e", f"trace={calls}").code == 0
    trace = (scene.program.folder / "trace").read_text(encoding="utf-8", errors="replace")
    total = len(re.findall(rf"\b{calls}\(", trace))
    assert total
    numbers = list(range(1, total + 1))
    if most is not None:
        numbers = random.Random(seed).sample(numbers, min(most, total))
    for number in numbers:
        fresh(scene)
        ended = with_fault(scene, strace, "-e", f"inject={calls}:error={error}:when={number}")
        judge(scene, ended, f"{calls} {number} of {total} with {error} (seed {seed})")


@pytest.mark.parametrize(
    ("names", "calls", "error"),
    [
        (("ledger.db",), "pwrite64", "ENOSPC"),
        (("results.csv", ".results.csv.tmp"), "write", "ENOSPC"),
        pytest.param(("ledger.db",), "fdatasync", "EIO", marks=pytest.mark.slow),
        pytest.param(("ledger.db-journal",), "pwrite64", "ENOSPC", marks=pytest.mark.slow),
        pytest.param(("run.log",), "write", "ENOSPC", marks=pytest.mark.slow),
        pytest.param(("run.log",), "write", "EIO", marks=pytest.mark.slow),
        pytest.param((".summary.json.tmp",), "write", "ENOSPC", marks=pytest.mark.slow),
        pytest.param((".manifest.yaml.tmp",), "write", "ENOSPC", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("begin", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_a_file_takes_no_more(
    scene: Scene, strace: str, names: tuple[str, ...], calls: str, error: str, begin: int
) -> None:
    """From its n-th write on, one file of the folder is refused: table, log, ledger, summary."""
    scene.program.manifest(scene.bank.url, scene.jobs(EACH))
    paths = [option for name in names for option in ("-P", str(scene.program.out / name))]
    ended = with_fault(scene, strace, *paths, "-e", f"inject={calls}:error={error}:when={begin}+")
    if begin == 1:
        assert ended.code == 3, ended.said
    judge(scene, ended, f"{names} from {calls} {begin} on")
