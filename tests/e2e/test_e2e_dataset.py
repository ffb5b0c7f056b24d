"""An output folder as those read it who train on it: the card says which files, metadata.jsonl has a row a picture."""

from __future__ import annotations

import json
import os
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from PIL import Image

from batchflux.exports.dataset import write_dataset
from batchflux.ledger.connection import reading
from batchflux.ledger.tables import empty_ledger
from batchflux.report.report import write_report
from tests.mirroring import mirror

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchflux.testing.program import Program
    from tests.stores import Served

# `test` in a file's name makes a split of its own, where no card names the files; a column `*_file_name` is a picture.
JOBS = """
  - prompt: a test cup no. {{ seed }}
    matrix: {seed: [1, 2, 3]}
    tags: {sku: "00{{ seed }}", source_file_name: a.png}
    output_format: png
  - {id: bad, prompt: "a cup #moderated"}
"""


def head_of(folder: Path) -> dict[str, Any]:
    _, head, _ = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head)  # type: ignore[no-any-return]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def made(program: Program, manifest: Callable[..., str]) -> Path:
    """A folder after a run and a report; run it again with `m.yaml`."""
    assert program("run", manifest(JOBS)).code == 1
    write_report(program.out)
    return program.out


def test_the_card_names_the_pictures_and_their_rows(made: Path, program: Program) -> None:
    config = head_of(made)["configs"][0]
    (split,) = config["data_files"]
    listed = {path for pattern in split["path"] for path in made.glob(pattern.replace("**", "**/*")) if path.is_file()}
    rows = rows_of(made)
    assert listed == {made / row["file_name"] for row in rows} | {made / "metadata.jsonl"}
    assert any((made / "thumbs").iterdir())
    assert {row["id"] for row in rows} == {row["id"] for row in program.rows() if row["status"] == "done"}
    named = ["image", *(name for name in rows[0] if name != "file_name")]
    assert [feature["name"] for feature in config["features"]] == named
    assert [(row["seed"], row["tags.sku"], row["tags.source_filename"]) for row in rows] == [
        (1, "001", "a.png"),
        (2, "002", "a.png"),
        (3, "003", "a.png"),
    ]
    for row in rows:
        with Image.open(made / row["file_name"]) as picture:
            assert picture.size == (row["width"], row["height"])
    assert "3 pictures, 0 of them" in (made / "README.md").read_text(encoding="utf-8")


def test_what_somebody_wrote_stays_and_the_rest_follows_the_ledger(made: Path, program: Program) -> None:
    card, metadata = made / "README.md", made / "metadata.jsonl"
    first = card.read_text(encoding="utf-8")
    more = (program.folder / "m.yaml").read_text(encoding="utf-8").replace("[1, 2, 3]", "[1, 2, 3, 4]")
    program.write("m.yaml", more)
    assert program("run", "m.yaml").code == 1
    assert "4 pictures" in card.read_text(encoding="utf-8")
    edited = first.replace("# license:", "license: mit #")
    card.write_text(edited, encoding="utf-8")
    program.write("m.yaml", more.replace("[1, 2, 3, 4]", "[1, 2]"))
    assert program("run", "m.yaml").code == 1
    assert card.read_text(encoding="utf-8") == edited
    assert len(rows_of(made)) == 2
    metadata.unlink()
    (made / "metadata.csv").write_text("file_name\n", encoding="utf-8")
    write_report(made)
    assert not metadata.exists()
    (made / "metadata.csv").unlink()
    metadata.write_text('{"file_name": "images/mine.png"}\n', encoding="utf-8")
    card.unlink()
    write_report(made)
    assert metadata.read_text(encoding="utf-8") == '{"file_name": "images/mine.png"}\n'
    assert not card.exists()
    metadata.unlink()
    write_report(made)
    assert len(rows_of(made)) == 2
    assert "2 pictures" in card.read_text(encoding="utf-8")


def test_a_card_says_where_pictures_are_that_are_not_here(made: Path, moto: Served) -> None:
    rows, head = rows_of(made), head_of(made)
    address = mirror(made, moto, keep=True)
    for gone in (False, True):
        if gone:
            (made / rows[0]["file_name"]).unlink()
        with reading(made / "ledger.db") as connection:
            write_dataset(made, connection)
        text = (made / "README.md").read_text(encoding="utf-8")
        assert (f"The pictures are in `{address}`, beside a copy" in text) is gone
        assert (rows_of(made), head_of(made)) == (rows, head)


def test_a_folder_without_pictures_gets_no_card(tmp_path: Path) -> None:
    with closing(empty_ledger()) as connection:
        write_dataset(tmp_path, connection)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_datasets_reads_the_folder_as_it_is(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    try:
        import datasets  # noqa: PLC0415  it may be missing, and takes seconds to load
    except ImportError:
        sentence = "There is no datasets: pip install -e '.[clients]' brings it."
        pytest.fail(sentence) if os.environ.get("CI") else pytest.skip(sentence)
    for streaming in (False, True):
        rows = list(datasets.load_dataset(str(made), split="train", streaming=streaming, cache_dir=str(tmp_path / "c")))
        assert [(row["seed"], row["tags.sku"]) for row in rows] == [(1, "001"), (2, "002"), (3, "003")]
        assert all(row["image"].size == (row["width"], row["height"]) for row in rows)
