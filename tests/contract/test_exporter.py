"""What every exporter keeps to: whatever the text, each job that was written comes back, whole and in its order."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.errors import StorageError
from batchflux.exports.results_csv import Results
from batchflux.ledger.tables import Known

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchflux.exports.base import Exporter

PICTURE = b"\x89PNG picture"
TEXTS = ("a mug", 'two\nlines, "quoted"', "größe 杯", "a\rb", "'", "\u2028", "x" * 100_000)


def row(number: int, prompt: str) -> Known:
    spec = {"prompt": prompt, "images": [], "model": "m", "provider": "p", "style": "standard"}
    fields: dict[str, Any] = dict.fromkeys(Known._fields)
    fields |= {"number": number, "key": number.to_bytes(32, "big"), "id": f"j{number}", "position": number}
    fields |= {"spec": json.dumps(spec), "tags": "", "status": "done", "attempts": 1, "possibly_billed": 0}
    return Known(**(fields | {"cost": 0, "maybe_cost": 0, "file_name": f"images/j{number}.png"}))


def picture() -> bytes | None:
    return PICTURE


@dataclass(frozen=True)
class Format:
    """An exporter, and how its file is read: the id and the prompt of each job."""

    make: Callable[[Path], Exporter]
    read: Callable[[Path], list[tuple[str, str]]]


def read_csv(path: Path) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [(found["id"], found["prompt"]) for found in csv.DictReader(file, strict=True)]


FORMATS = {"results.csv": Format(make=lambda path: Results(path, []), read=read_csv)}


@pytest.fixture(params=FORMATS)
def kind(request: pytest.FixtureRequest) -> Format:
    return FORMATS[request.param]


def test_what_was_written_comes_back_in_its_order(kind: Format, tmp_path: Path) -> None:
    path = tmp_path / "export"
    exporter = kind.make(path)
    for number, text in enumerate(TEXTS):
        exporter.write(row(number, text), picture)
    exporter.close()
    assert kind.read(path) == [(f"j{number}", text) for number, text in enumerate(TEXTS)]


def test_a_job_without_a_picture_has_its_place_too(kind: Format, tmp_path: Path) -> None:
    path = tmp_path / "export"
    exporter = kind.make(path)
    exporter.write(row(1, "a mug")._replace(status="failed", file_name=None, error_code="server"), lambda: None)
    exporter.close()
    assert kind.read(path) == [("j1", "a mug")]


def test_it_may_be_closed_again(kind: Format, tmp_path: Path) -> None:
    path = tmp_path / "export"
    exporter = kind.make(path)
    exporter.write(row(1, "a mug"), picture)
    exporter.close()
    exporter.close()
    assert kind.read(path) == [("j1", "a mug")]


def test_a_place_that_takes_no_file_is_said_with_its_remedy(kind: Format, tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    exporter = kind.make(tmp_path / "export")

    def export() -> None:
        exporter.write(row(1, "a mug"), picture)
        exporter.close()

    with pytest.raises(StorageError, match=r"export.* cannot be written .*run again"):
        export()
