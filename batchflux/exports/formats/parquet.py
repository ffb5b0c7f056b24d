"""Parquet: files of rows with their pictures inside, which `datasets` loads as pictures; the one place with pyarrow.

Names and sizes are those of the Hub: `train-00000-of-00042.parquet` in data/, at most 500 MB a file, row groups of at
most 64 MB: its viewer refuses those of more than 300, and readers hold a whole one. A file that is written waits under
a hidden name until the number of all is known. What it was made of stands in its schema's metadata: so it is known
again, and not read through.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from batchflux.errors import UsageError
from batchflux.exports.base import Format, Loading
from batchflux.exports.shards import Shards, read_ahead, recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from batchflux.exports.base import Export, Sample
    from batchflux.exports.places import Place
    from batchflux.exports.shards import Placed

MB = 1_000_000
FILE_BYTES, GROUP_BYTES, GROUP_ROWS = 500 * MB, 64 * MB, 10_000
_MADE_OF = b"batchflux"  # the key, in a schema's metadata, of what a file was made of
_FEATURES = b"huggingface"  # the key by which `datasets` knows what is a picture
FOLDER = "data"  # where the files are
IMAGE = "image"  # the type of a column of pictures


def pyarrow() -> Any:
    """Return pyarrow, with its module parquet; UsageError names the extra that brings it."""
    try:
        import pyarrow as pa  # noqa: PLC0415  an extra, and heavy
        import pyarrow.parquet  # noqa: PLC0415  an extra, and heavy
    except ImportError:
        raise UsageError("This format needs pyarrow; install the extra: pip install 'batchflux[parquet]'") from None
    return pa


class Rows:
    """A Parquet file of rows, written into `file` in groups; whole once it is left. `columns` are types by name."""

    def __init__(self, file: BinaryIO, columns: Mapping[str, str], made_of: str = "") -> None:
        self._arrow = pyarrow()
        self._schema = _schema(self._arrow, columns, made_of)
        whole = IMAGE in columns.values()
        options = {"compression": "none" if whole else "zstd", "write_page_index": True}
        self._writer = self._arrow.parquet.ParquetWriter(file, self._schema, use_dictionary=not whole, **options)
        self._waiting: list[Mapping[str, Any]] = []
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
        self._writer.close()  # also a file that will not be kept: pyarrow would, later

    def add(self, row: Mapping[str, Any], size: int = 0) -> None:
        """Add a row, whose pictures have `size` bytes together."""
        if self._waiting and (self._bytes + size > GROUP_BYTES or len(self._waiting) == GROUP_ROWS):
            self._flush()
        self._waiting.append(row)
        self._bytes += size

    def _flush(self) -> None:
        if self._waiting:
            table = self._arrow.Table.from_pylist(self._waiting, schema=self._schema)
            self._waiting, self._bytes = [], 0  # the table has the pictures now
            self._writer.write_table(table, row_group_size=table.num_rows)


def write_rows(place: Place, name: str, columns: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a Parquet file of rows without pictures, whole or not at all; StorageError."""
    with place.writing(name) as file, Rows(file, columns) as table:
        for row in rows:
            table.add(row)


def made_of(path: Path) -> str | None:
    """Return what a file says that it was made of; None where there is none, or none that was written here."""
    arrow = pyarrow()
    try:
        metadata = arrow.parquet.read_schema(path).metadata or {}
    except (OSError, ValueError):  # pyarrow's own errors are kinds of these two
        return None
    found: bytes | None = metadata.get(_MADE_OF)
    return None if found is None else found.decode(errors="replace")


def picture(data: bytes, name: str) -> dict[str, Any]:
    """Return a picture as a cell of a column of pictures."""
    return {"bytes": data, "path": name}


class ParquetFiles:
    """Files of samples, a few for each split: `make` gives the row of a sample and the bytes of its pictures."""

    def __init__(
        self,
        place: Place,
        columns: Mapping[str, str],
        make: Callable[[Sample, bytes], Mapping[str, Any]],
        size: Callable[[Sample], int],
    ) -> None:
        pyarrow()
        self._place, self._columns, self._make, self._size = place, columns, make, size
        self._shards = Shards(1 << 31, FILE_BYTES, self._write)
        self._there: dict[tuple[str, int], list[str]] = {}
        for name in place.names(f"{FOLDER}/*.parquet"):
            if found := _NAME.fullmatch(name):
                self._there.setdefault((found[1], int(found[2])), []).append(name)
        self._made: dict[tuple[str, int], str] = {}

    def add(self, sample: Sample, image: Callable[[], bytes]) -> None:
        """Add a sample."""
        self._shards.add(sample, image, self._size(sample))

    def close(self) -> None:
        """Write what is left, give each file its name, and remove what an earlier export left."""
        self._shards.close()
        kept = set(self._made.values())
        self._place.remove(name for names in self._there.values() for name in names if name not in kept)
        last = {
            (split, number): f"{FOLDER}/{split}-{number:05}-of-{self._shards.made[split]:05}.parquet"
            for split, number in self._made
        }
        self._place.rename({name: last[at] for at, name in self._made.items() if name != last[at]})
        self._made, self._there = last, {at: [name] for at, name in last.items()}

    def _write(self, split: str, number: int, placed: Sequence[Placed]) -> None:
        mark = recipe(json.dumps([_RULES, self._columns]), placed)
        for name in self._there.get((split, number), ()):
            if self._place.made_of(name, made_of) == mark:
                self._made[split, number] = name
                return
        name = f"{FOLDER}/.{split}-{number:05}.parquet"
        with self._place.writing(name, mark) as file, Rows(file, self._columns, mark) as rows:
            for sample, data in read_ahead(placed):
                rows.add(self._make(sample, data), self._size(sample))
        self._made[split, number] = name


class Parquet:
    """A DatasetExporter: `image`, `caption` and the columns."""

    def __init__(self, export: Export) -> None:
        columns = {"image": IMAGE, "caption": "string", **export.columns}
        self._files = ParquetFiles(export.place, columns, _row, lambda sample: sample.size)
        self.loading = loading_of(export)

    def write(self, sample: Sample, image: Callable[[], bytes]) -> None:
        """Add a picture."""
        self._files.add(sample, image)

    def close(self) -> None:
        """Write what is left."""
        self._files.close()


def loading_of(export: Export) -> Loading:
    """Return how files in data/ are read."""
    files = {split: [f"{FOLDER}/{split}-*.parquet"] for split in export.splits}
    return Loading(
        use=f"The files in {FOLDER}/ hold the pictures, and all that is known of them.", builder="parquet", files=files
    )


def _row(sample: Sample, data: bytes) -> Mapping[str, Any]:
    return {"image": picture(data, sample.name + sample.suffix), "caption": sample.caption, **sample.columns}


def _schema(arrow: Any, columns: Mapping[str, str], made_of: str) -> Any:
    types = {
        "string": arrow.string(),
        "int64": arrow.int64(),
        "float64": arrow.float64(),
        IMAGE: arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())]),
    }
    metadata = {_MADE_OF: made_of.encode()} if made_of else {}
    if IMAGE in columns.values():
        features = {
            name: {"_type": "Image"} if kind == IMAGE else {"dtype": kind, "_type": "Value"}
            for name, kind in columns.items()
        }
        metadata[_FEATURES] = json.dumps({"info": {"features": features}}).encode()
    return arrow.schema([(name, types[kind]) for name, kind in columns.items()], metadata=metadata)


_RULES = "parquet 1"  # changes when the same samples are to come to other bytes
_NAME = re.compile(r"data/\.?([A-Za-z][A-Za-z0-9_]*)-([0-9]{5})(?:-of-[0-9]{5})?\.parquet")
EXPORTERS = {"parquet": Format(make=Parquet)}
