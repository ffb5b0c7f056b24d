"""The manifests and tables that the parts run: one shape, real enough that nothing is skipped.

A row has an id, two columns that go into the prompt, the URL of a reference, and a tag.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tools import KEYS

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS = ("id", "title", "surface", "photo", "sku")
SURFACES = ("marble", "oak", "linen", "slate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A manifest: `rate` as it is written (None: left out), `keys` how many of the pool."""

    url: str
    jobs: int
    concurrency: int = 64
    keys: int = 1
    rate: str | None = None
    verify: str = "structure"
    style: str = "standard"


def write(folder: Path, spec: Spec) -> Path:
    """Write table and manifest into `folder`; return the manifest."""
    write_table(folder / "jobs.csv", spec.jobs)
    lines = [
        "version: 1",
        "name: bench",
        "provider:",
        "  name: tuzi",
        "  api: flux-relay",
        f"  style: {spec.style}",
        f"  base_url: {spec.url}",
        f"  keys: [{', '.join(KEYS[: spec.keys])}]",
        "  price: 0.01",
        "limits:",
        f"  concurrency: {spec.concurrency}",
        *([f"  rate: {spec.rate}"] if spec.rate else []),
        "output:",
        f"  dir: {folder / 'out'}",
        f"  verify: {spec.verify}",
        "jobs:",
        "  - from: jobs.csv",
        '    id: "{{ id }}"',
        '    prompt: "{{ title }} on {{ surface }}"',
        '    images: ["{{ photo }}"]',
        '    tags: {sku: "{{ sku }}"}',
    ]
    path = folder / "bench.yaml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_table(path: Path, rows: int) -> None:
    """Write a CSV table of `rows` rows."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(
            (
                f"item-{number:07d}",
                f"A ceramic mug no. {number}, glazed in cobalt",
                SURFACES[number % len(SURFACES)],
                f"https://photos.example.com/catalogue/2026/{number}.jpg",
                f"M-{number}",
            )
            for number in range(rows)
        )
