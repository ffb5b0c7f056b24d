"""Makes the output folder of a run whose jobs are all done, without a request: the real expansion, the real ledger.

Each job goes through the ledger's own verbs with a picture that is a hard link to one file; `results.csv` is written
by its own class. The mark that a survey leaves is not made, so the first run on it goes through all jobs.
`differences` tells what such a folder has that a real one has not, times and measured seconds aside.
Run as `python .bench/fill.py MANIFEST PICTURE LINK`.
"""

from __future__ import annotations

import asyncio
import csv
import hashlib
import os
import sqlite3
import sys
import time
from decimal import Decimal
from itertools import islice
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Any

from PIL import Image
from tools import KEYS

from batchflux.exports.results_csv import Results
from batchflux.ledger.ledger import Ledger
from batchflux.ledger.tables import ended_rows, nanos, set_meta
from batchflux.manifest import expand, load_manifest
from batchflux.models import Leaving, Link, Outcome, Received, Status, Stored
from batchflux.output.folder import write_whole
from batchflux.providers import capabilities

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchflux.errors import Fault
    from batchflux.manifest import Manifest
    from batchflux.models import Job

BATCH = 1000
LINKS = 50_000  # ext4 holds 65,000 names of one file
TIMES = frozenset({"started_at", "finished_at", "api_seconds", "download_seconds"})


class Filler:
    """Fills the folder of one manifest."""

    def __init__(self, manifest: Manifest, picture: Path, link: str) -> None:
        self._folder = manifest.output.dir
        self._manifest = manifest
        data = picture.read_bytes()
        with Image.open(picture) as image:
            self._size = image.size
        self._digest = hashlib.sha256(data).hexdigest()
        self._bytes = len(data)
        self._picture = picture
        self._link = link
        self._linked = 0
        self._price = nanos(manifest.provider.price_of(manifest.provider.model) or Decimal(0))

    async def fill(self) -> int:
        """Mark every job as done; return how many there are."""
        (self._folder / "images").mkdir(parents=True)
        results = Results(self._folder / "results.csv", self._manifest.tag_names)
        ledger = Ledger(self._folder / "ledger.db", durable=False)
        jobs = iter(expand(self._manifest, capabilities(), _refuse))
        total = 0
        try:
            while batch := list(islice(jobs, BATCH)):
                await self._finish(ledger, batch)
                total += len(batch)
            ledger.database.now(lambda connection: self._notes(connection, total))
            ledger.database.now(lambda connection: results.rewrite(ended_rows(connection)))
        finally:
            ledger.close()
        write_whole(self._folder / "manifest.yaml", self._manifest.text)
        return total

    async def _finish(self, ledger: Ledger, jobs: list[Job]) -> None:
        now = time.time()
        attempts = await asyncio.gather(*(ledger.authorize(job, self._leaving(job, now)) for job in jobs))
        received = Received(asset=Link(url=self._link), api_seconds=0.2)
        await asyncio.gather(*(ledger.captured(attempt, received) for attempt in attempts))
        await asyncio.gather(*(ledger.finish(job, self._outcome(job, now)) for job in jobs))

    def _leaving(self, job: Job, now: float) -> Leaving:
        return Leaving(provider=job.provider, key_name=KEYS[0], model=job.model, price=self._price, at=now)

    def _outcome(self, job: Job, now: float) -> Outcome:
        name = str(Path(job.file_name).with_suffix(".png"))
        if self._linked % LINKS == 0:
            source = self._picture.with_name(f"linked-{self._linked}.png")
            copyfile(self._picture, source)
            self._source = source
        self._linked += 1
        os.link(self._source, self._folder / name)
        width, height = self._size
        stored = Stored(file_name=name, width=width, height=height, bytes=self._bytes, sha256=self._digest)
        return Outcome(
            status=Status.DONE,
            attempts=1,
            stored=stored,
            started_at=now,
            finished_at=now,
            download_seconds=0.1,
            result_url=self._link,
        )

    def _notes(self, connection: sqlite3.Connection, total: int) -> None:
        notes = {
            "total": str(total),
            "currency": self._manifest.provider.currency,
            "name": self._manifest.name,
            "base": str(self._manifest.base),
            "budget": "",
            "clean": "1",
            "reviews_stale": "0",
        }
        for name, value in notes.items():
            set_meta(connection, name, value)


def _refuse(fault: Fault) -> None:
    raise ValueError(str(fault))


def differences(made: Path, real: Path) -> list[str]:
    """Compare two output folders; return what differs, in words."""
    found = []
    for what, view in (("notes", _notes_of), ("ledger rows", _rows_of), ("results", _results_of), ("files", _files_of)):
        one, other = list(view(made)), list(view(real))
        if one != other:
            first = next((pair for pair in zip(one, other, strict=False) if pair[0] != pair[1]), (len(one), len(other)))
            found.append(f"{what}: made {first[0]}, real {first[1]}")
    return found


def _query(folder: Path, query: str) -> list[dict[str, Any]]:
    connection = sqlite3.connect(folder / "ledger.db")
    connection.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in connection.execute(query)]
    finally:
        connection.close()


def _notes_of(folder: Path) -> list[dict[str, Any]]:
    return _query(folder, "SELECT name, value FROM meta WHERE name NOT IN ('began', 'in_line') ORDER BY name")


def _rows_of(folder: Path) -> Iterable[dict[str, Any]]:
    skipped = TIMES | {"number"}
    for row in _query(folder, "SELECT * FROM known ORDER BY position"):
        yield {name: value for name, value in row.items() if name not in skipped}


def _results_of(folder: Path) -> Iterable[dict[str, str]]:
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield {name: value for name, value in row.items() if name not in TIMES}


def _files_of(folder: Path) -> list[tuple[str, str]]:
    files = sorted((folder / "images").iterdir())
    return [(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]


if __name__ == "__main__":
    path, picture, link = sys.argv[1:]
    asyncio.run(Filler(load_manifest(path), Path(picture), link).fill())
