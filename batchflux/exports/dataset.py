"""What makes an output folder a dataset of `datasets`: metadata.jsonl, a row for each picture, and a card, README.md.

`imagefolder` takes the pictures that its metadata list, and no others of the folder (thumbs/, rejected/); a row without
a picture would be an empty one, so failed jobs have none. The card names the files and the types of the columns, which
are else guessed from the first rows, and a file name that holds `test` would make a split of its own. Neither file is
written over where it is not as it was written here: it is somebody's.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, Any

from batchflux.exports.card import Card, loading, write_card
from batchflux.exports.projection import tag_names
from batchflux.exports.results_csv import TAGS
from batchflux.ledger.tables import currency, ended_numbers, get_meta, jobs_by_number
from batchflux.output.base import CARD, IMAGES, METADATA
from batchflux.output.durable import sync_file, sync_folder
from batchflux.output.folder import iso, unwritable

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
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
_APART = (
    "The pictures are in `{}`, beside a copy of this card, and not all of them in the folder of the run: copy it from"
    " there and load that, or load what `batchflux export` writes."
)
_IMAGE = re.compile(r"file_name(s?)$")  # what a column is called that `datasets` takes for pictures


def write_dataset(folder: Path, connection: sqlite3.Connection) -> None:
    """Bring metadata.jsonl and the card up to the ledger, each whole or not at all; nothing where no job is done.

    StorageError when the folder cannot take them.
    """
    if not _ours(folder):
        return
    tags, card, apart = tag_names(folder, connection), Card(), False
    path = folder / METADATA
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", errors="replace") as file:
            for known in jobs_by_number(connection, ended_numbers(connection)):
                if known.status == "done":
                    row = row_of(known, tags)
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                    card.add(row)
                    apart = apart or bool(known.mirrored and not (folder / str(known.file_name)).exists())
        if not card.rows:
            temporary.unlink()
            return
        sync_file(temporary)
        temporary.replace(path)
        sync_folder(folder)
    except OSError as error:
        with contextlib.suppress(OSError):  # what cannot be removed either is written over by the next run
            temporary.unlink(missing_ok=True)
        raise unwritable(path, error) from error
    mirror = get_meta(connection, "mirror") if apart else None
    said = f"Each row has its picture, prompt, seed, size, price and SHA-256:\n\n{loading()}"
    use = said if mirror is None else f"{_APART.format(mirror)}\n\n{said}"
    write_card(folder / CARD, card.text(get_meta(connection, "name") or folder.name, _config(tags), use))


def _config(tags: Sequence[str]) -> list[str]:
    """Return the lines of a card that name the files and the types of the columns."""
    columns = [*COLUMNS, *map(tag_column, tags)]
    features = [f"      - {{name: {json.dumps(column)}, dtype: {COLUMNS.get(column, 'string')}}}" for column in columns]
    return [
        "    drop_labels: true",
        "    data_files:",
        f'      - {{split: train, path: [{METADATA}, "{IMAGES}/**"]}}',
        "    features:",
        "      - {name: image, dtype: image}",
        *features,
    ]


def has_dataset(folder: Path) -> bool:
    """Whether a folder has both files, whoever wrote them."""
    return (folder / METADATA).exists() and (folder / CARD).exists()


def row_of(known: Known, tags: Sequence[str]) -> dict[str, Any]:
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
    return row | {tag_column(name): str(told.get(name, "")) for name in tags}


def tag_column(name: str) -> str:
    """Return what the column of a tag is called: by no name that `datasets` takes for a picture's."""
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
