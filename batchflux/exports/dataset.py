"""What makes an output folder a dataset of `datasets`: metadata.jsonl, a row for each picture, and a card, README.md.

`imagefolder` takes the pictures that its metadata list, and no others of the folder (thumbs/, rejected/); a row without
a picture would be an empty one, so failed jobs have none. The card names the files and the types of the columns, which
are else guessed from the first rows, and a file name that holds `test` would make a split of its own. Neither file is
written over where it is not as it was written here: it is somebody's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from batchflux.exports.projection import tag_names
from batchflux.exports.results_csv import TAGS
from batchflux.ledger.tables import currency, ended_numbers, get_meta, jobs_by_number
from batchflux.output.base import CARD, IMAGES, METADATA
from batchflux.output.durable import sync_file, sync_folder
from batchflux.output.folder import iso, unwritable, write_whole

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from batchflux.ledger.tables import Known

COLUMNS = {
    "id": "string",
    "prompt": "string",
    "images": "string",
    "seed": "int64",
    "aspect_ratio": "string",
    "output_format": "string",
    "model": "string",
    "provider": "string",
    "style": "string",
    "width": "int64",
    "height": "int64",
    "bytes": "int64",
    "sha256": "string",
    "cost": "float64",
    "finished_at": "string",
    "remarks": "string",
    "seed_used": "int64",
    "revised_prompt": "string",
    "key": "string",
}
"""The columns beside the picture and the tags, with their types; what they hold: base.COLUMNS."""
_OURS = re.compile(rb'\{"file_name": "%s/.*"key": "[0-9a-f]{64}"' % IMAGES.encode())  # the first row of metadata.jsonl
_OTHERS = ("metadata.csv", "metadata.parquet")  # beside which `datasets` refuses metadata.jsonl
_MARK = "<!-- Written by batchflux, anew after each run until it is edited: {} -->\n"
_IMAGE = re.compile(r"file_name(s?)$")  # what a column is called that `datasets` takes for pictures
_SIZES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M", 10**7: "1M<n<10M"}
_USE = '```python\nfrom datasets import load_dataset\n\nrows = load_dataset("PATH OF THIS FOLDER", split="train")\n```'
_SHOWN, _LONGEST = 3, 200  # prompts in the card, and their characters


def write_dataset(folder: Path, connection: sqlite3.Connection) -> None:
    """Bring metadata.jsonl and the card up to the ledger, each whole or not at all; nothing where no job is done.

    StorageError when the folder cannot take them.
    """
    if not _ours(folder):
        return
    tags, counts = tag_names(folder, connection), _Counts()
    path = folder / METADATA
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", errors="replace") as file:
            for known in jobs_by_number(connection, ended_numbers(connection)):
                if known.status == "done":
                    row = _row(known, tags)
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                    counts.add(row)
        if not counts.rows:
            temporary.unlink()
            return
        sync_file(temporary)
        temporary.replace(path)
        sync_folder(folder)
    except OSError as error:
        with contextlib.suppress(OSError):  # what cannot be removed either is written over by the next run
            temporary.unlink(missing_ok=True)
        raise unwritable(path, error) from error
    if _is_own_card(folder / CARD):
        text = counts.card(get_meta(connection, "name") or folder.name, [*COLUMNS, *map(_tag_column, tags)])
        write_whole(folder / CARD, text + _MARK.format(_digest(text)))


def has_dataset(folder: Path) -> bool:
    """Whether a folder has both files, whoever wrote them."""
    return (folder / METADATA).exists() and (folder / CARD).exists()


class _Counts:
    """What the card says of the rows."""

    def __init__(self) -> None:
        self.rows = self.edits = 0
        self.made_by: Counter[str] = Counter()
        self.prompts: dict[str, None] = {}

    def add(self, row: dict[str, Any]) -> None:
        self.rows += 1
        self.edits += bool(row["images"])
        self.made_by[f"{row['model']} ({row['provider']})"] += 1
        if len(self.prompts) < _SHOWN:
            self.prompts[" ".join(row["prompt"].split())[:_LONGEST]] = None

    def card(self, name: str, columns: Iterable[str]) -> str:
        task = "image-to-image" if self.edits else "text-to-image"
        size = next((size for most, size in _SIZES.items() if self.rows < most), "10M<n<100M")
        features = [
            f"      - {{name: {json.dumps(column)}, dtype: {COLUMNS.get(column, 'string')}}}" for column in columns
        ]
        head = [
            f"pretty_name: {json.dumps(name)}",
            "# license:  # yours to say: what the provider's terms allow, and the photos' owners",
            f"task_categories: [{task}]",
            f"size_categories: [{size}]",
            "configs:",
            "  - config_name: default",
            "    drop_labels: true",
            "    data_files:",
            f'      - {{split: train, path: [{METADATA}, "{IMAGES}/**"]}}',
            "    features:",
            "      - {name: image, dtype: image}",
            *features,
        ]
        body = [
            f"# {name}",
            f"{self.rows:,} pictures, {self.edits:,} of them made from references, by a model:",
            "\n".join(f"- {who}: {number:,}" for who, number in self.made_by.most_common()),
            "Prompts such as:",
            "\n".join(["```text", *(f"- {prompt}" for prompt in self.prompts), "```"]),
            "Each row has its picture, prompt, seed, size, price and SHA-256:",
            _USE,
        ]
        return "\n".join(["---", *head, "---", ""]) + "\n" + "\n\n".join(body) + "\n\n"


def _row(known: Known, tags: Sequence[str]) -> dict[str, Any]:
    """Return a picture's row: each column in each row, since types are read from the first ones."""
    spec = json.loads(known.spec)
    says = {
        **spec,
        **known._asdict(),
        "images": " ".join(spec["images"]),
        "cost": float(currency(known.cost)),
        "finished_at": iso(known.finished_at),
        "key": known.key.hex(),
    }
    told = json.loads(known.tags) if known.tags else {}
    row = {"file_name": known.file_name, **{name: says.get(name) for name in COLUMNS}}
    return row | {_tag_column(name): str(told.get(name, "")) for name in tags}


def _tag_column(name: str) -> str:
    return TAGS + _IMAGE.sub(r"filename\1", name)


def _ours(folder: Path) -> bool:
    """Whether the metadata are to be written: none are there, or those that were written here."""
    if any((folder / name).exists() for name in _OTHERS):
        return False
    try:
        with (folder / METADATA).open("rb") as file:
            return _OURS.match(file.readline()) is not None
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _is_own_card(path: Path) -> bool:
    """Whether the card is to be written: there is none, or it is as it was written here."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return True
    except (OSError, UnicodeDecodeError):
        return False
    before, mark, _ = text.rpartition(_MARK.partition("{")[0])
    return bool(mark) and text == before + _MARK.format(_digest(before))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
