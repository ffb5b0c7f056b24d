"""A program and a bank that speaks every API, and the verdict on what a kill left behind."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batchflux.testing.bank import PRICE, opened, picture_of
from batchflux.testing.program import program_in
from tests.banks import dialects
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchflux.testing.bank import Bank
    from batchflux.testing.program import Program

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Scene:
    """A provider and a program that runs against it, and the verdict on what a kill left behind."""

    program: Program
    bank: Bank

    @staticmethod
    def jobs(each: int) -> str:
        """Write so many jobs of each of the four ways in which a picture can come, in turn."""
        ways = (
            ("u", "url", ", output_format: png"),
            ("b", "b64", ", output_format: png"),
            ("c", "link", ", style: chat"),
            ("d", "data", ", image: p/a.png"),
        )
        return "".join(
            f"  - {{id: {letter}{number}, prompt: 'job {letter}{number} #{way}'{more}}}\n"
            for number in range(1, each + 1)
            for letter, way, more in ways
        )

    @staticmethod
    def picture(name: str) -> bytes:
        """Return the picture that the provider makes for this job."""
        return picture_of(name)

    @staticmethod
    def names(each: int) -> set[str]:
        """Return the ids that `jobs` gives."""
        return {f"{letter}{number}" for letter in "ubcd" for number in range(1, each + 1)}

    def hold_from(self, number: int) -> None:
        """Let the provider answer nobody once so many requests have come: a run that has more to do cannot end.

        `bank.held = None` lets it go on.
        """
        self.bank.held = lambda: self.bank.posts.total() >= number

    def settle(self) -> None:
        """Wait until the provider is through with what was ordered, also by a client that died."""
        wait_until(lambda: self.bank.open == 0)

    def after_kill(self) -> None:
        """The folder as a dead process left it: rows of results.csv and pictures whole, nothing paid again."""
        self.settle()
        self.program.rows(cut=True)
        if (self.program.out / "images").exists():
            self.program.pictures()
        assert not self.bank.again, f"paid again although their picture had been fetched: {self.bank.again}"

    def at_the_end(self, names: set[str], kills: int, at_once: int = 6) -> None:
        """All jobs done, and only what was in flight at a kill paid twice."""
        rows = {row["id"]: row for row in self.program.rows()}
        assert set(rows) == names
        assert {row["status"] for row in rows.values()} == {"done"}
        assert self.program.pictures() == names
        for row in rows.values():
            assert row["sha256"] == hashlib.sha256((self.program.out / row["file_name"]).read_bytes()).hexdigest()
        assert not self.bank.again
        more = {name: count - 1 for name, count in self.bank.billed.items() if count != 1}
        for name, count in more.items():
            assert 0 < count <= int(rows[name]["possibly_billed"]), f"{name} was billed {count + 1} times unnoticed"
        assert sum(more.values()) <= kills * at_once
        marked = sum(int(row["possibly_billed"]) for row in rows.values())
        assert marked <= kills * at_once, "more is called possibly billed than can have been in flight"
        summary = self.program.summary()
        assert float(summary["spent"]) >= self.bank.billed.total() * PRICE - 1e-6
        assert summary["jobs"]["done"] == len(names)
        assert self.program.leftovers() == []


@pytest.fixture
def bank() -> Iterator[Bank]:
    """Serve the APIs, each test its own."""
    with opened(*dialects()) as made:
        yield made


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """Give the program a folder of its own, and a key; what it started ends with the test."""
    with program_in(tmp_path) as made:
        yield made
