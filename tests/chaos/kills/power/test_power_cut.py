"""Power cut at the writes of a run: what was promised by then is on the disk, and the next run goes on from there.

The fast test cuts at every sixteenth write of a small run, the slow one at every fourth, the long one at all of them.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.ledger.ledger import Ledger
from batchflux.output.image_store import kept_pictures

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.chaos.kills.power.conftest import Call, Recording, Variant
    from tests.program import Scene

VARIANTS: tuple[Variant, ...] = ("all", "synced", "torn", "zeros")
SENT = re.compile(rb"job (\w+) #")
FETCHED = re.compile(rb"GET /files/(\w+)\.png")
ROW = re.compile(rb"^(\w+),done,", re.MULTILINE)


@dataclass
class Promises:
    """What the world has seen of each job: from then on the folder must know it, whatever happens."""

    sent: set[str] = field(default_factory=set)
    answered: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)

    def hear(self, call: Call, out: Path) -> None:
        """Learn from a call: a request that left, a download that began, a row that was shown to the user."""
        if call.path.startswith("socket:"):
            data = b"".join(call.texts)
            self.sent |= {name.decode() for name in SENT.findall(data)}
            self.answered |= {name.decode() for name in FETCHED.findall(data)}
        elif call.name == "write" and call.path == str(out / "results.csv"):
            self.done |= {name.decode() for name in ROW.findall(call.texts[-1])}


def look(folder: Path) -> tuple[dict[str, dict[str, Any]], bool]:
    """Open the ledger as the next run does; return its rows by id, and whether it calls results.csv clean."""
    Ledger(folder / "ledger.db", durable=False, threaded=False, kept=kept_pictures(folder)).close()
    with closing(sqlite3.connect(folder / "ledger.db")) as connection:
        connection.row_factory = sqlite3.Row
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        rows = {row["id"]: dict(row) for row in connection.execute("SELECT * FROM known")}
        clean = connection.execute("SELECT value FROM meta WHERE name = 'clean'").fetchone()
    return rows, clean is not None and clean[0] == "1"


def check(scene: Scene, folder: Path, promised: Promises) -> None:
    rows, clean = look(folder) if promised.sent or (folder / "ledger.db").exists() else ({}, False)
    assert all(rows[name]["attempts"] >= 1 for name in promised.sent), "a request left that the ledger does not know"
    for name in promised.answered | promised.done:
        row = rows[name]
        assert row["status"] == "done" or row["link"] or row["spool"], f"the answer for {name} is lost"
    for name in promised.done:
        row = rows[name]
        assert row["status"] == "done", f"{name} was done, and is {row['status']}"
    for name, row in rows.items():
        if row["status"] == "done":
            assert (folder / row["file_name"]).is_file(), f"the picture of {name} is recorded and not there"
        elif row["spool"]:
            kept, stored = folder / row["spool"], folder / "images" / f"{name}.png"
            found = kept if kept.exists() else stored
            assert found.read_bytes() == scene.picture(name), f"the bytes that were paid for {name} are lost"
    for path in (folder / "images").glob("*"):
        assert path.read_bytes() == scene.picture(path.stem), f"{path.name} in images/ is not a whole picture"
    if clean:
        scene.program.out = folder
        listed = {row["id"]: row["status"] for row in scene.program.rows()}
        ended = {name: row["status"] for name, row in rows.items() if row["status"] != "pending"}
        assert listed == ended, "the ledger calls a results.csv complete that is not"


def go_on(scene: Scene, names: set[str], folder: Path, promised: Promises, at: str) -> None:
    """Run again in a folder as the cut left it: it ends well, and asks for nothing that was answered."""
    program, bank = scene.program, scene.bank
    rows, _ = look(folder) if (folder / "ledger.db").exists() else ({}, False)
    known = {name for name, row in rows.items() if row["status"] == "done" or row["link"] or row["spool"]}
    bank.forget()
    program.out = bank.out = folder
    ended = program.run("--out", str(folder))
    assert ended.code == 0, f"{at}: {ended.said}"
    assert program.pictures() == names
    assert [row["status"] for row in program.rows()] == ["done"] * len(names)
    assert not set(bank.posts) & (known | promised.answered | promised.done), f"{at}: an answered job was paid again"
    assert set(bank.posts) <= names
    maybe = {row["id"] for row in program.rows() if row["possibly_billed"] != "0"}
    assert set(bank.posts) & promised.sent <= maybe, f"{at}: paid again without a word"
    assert program.leftovers() == []
    assert all(isinstance(line, dict) for line in program.log())


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("each", "step", "full_runs"),
    [
        pytest.param(1, 16, 2, id="few"),
        pytest.param(2, 4, 6, id="many", marks=pytest.mark.slow),
        pytest.param(3, 1, 16, id="all", marks=pytest.mark.long),
    ],
)
def test_power_cut_at_the_writes(
    scene: Scene, record: Callable[..., Recording], seed: int, each: int, step: int, full_runs: int
) -> None:
    chance, names = random.Random(seed), scene.names(each)
    scene.bank.delay = (0.01, 0.03)
    scene.program.manifest(scene.bank.url, scene.jobs(each))
    recording = record("--set", "limits.concurrency=3")
    changes = sum(map(recording.disk().feed, recording.calls))
    assert changes > 100 * each, "the recording misses most of what a run writes"
    offset = chance.randrange(step)
    cuts = range(offset, changes, step)
    sampled = set(chance.sample(cuts, full_runs))
    disk, promised, number = recording.disk(), Promises(), 0
    folder = scene.program.folder / "cut"
    for call in recording.calls:
        promised.hear(call, recording.root)
        if not disk.feed(call):
            continue
        for variant in VARIANTS if number in cuts else ():
            shutil.rmtree(folder, ignore_errors=True)
            disk.after(variant, chance, folder)
            at = f"cut {number} of {changes} after {call.name} of {call.path or call.texts}, {variant} (seed {seed})"
            try:
                check(scene, folder, promised)
            except (AssertionError, KeyError, OSError) as error:
                raise AssertionError(f"{at}: {error!r}") from error
            if number in sampled and variant == VARIANTS[number // step % len(VARIANTS)]:
                shutil.rmtree(folder, ignore_errors=True)
                disk.after(variant, chance, folder)
                go_on(scene, names, folder, promised, at)
        number += 1
    assert promised.done == names
    assert len(promised.answered) == 2 * each
    final = {path for path in disk.seen if disk.seen[path] is not None}
    real = {str(path) for path in recording.root.rglob("*") if path.is_file()}
    assert final == real, "the disk in memory and the real one differ"
    for name in real:
        if not name.endswith(".tmp-reserve"):
            node = disk.seen[name]
            with open(name, "rb") as file:  # noqa: PTH123  a str
                assert node is not None
                assert bytes(node.seen) == file.read(), f"the disk in memory has another {os.path.basename(name)}"  # noqa: PTH119  a str
