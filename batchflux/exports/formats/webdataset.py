"""webdataset: tar files of samples, in the layout of img2dataset: 00000.tar, 00000.parquet and 00000_stats.json.

A sample is `KEY.jpg`, `KEY.txt` and `KEY.json`; its key has five digits of the shard and four of its place in it, since
a name of a job may hold dots, at which readers would cut it. Readers take what samples have from the first few: so all
have the same members, that of the picture named after the kind that most have (decoders go by the bytes), and their
JSON has the same keys with values of the same types: numbers that not every sample has are text, and nothing is null.
"""

from __future__ import annotations

import json
import re
import tarfile
from typing import TYPE_CHECKING, Any

from batchflux.exports.base import Format, Loading
from batchflux.exports.formats.parquet import pyarrow, write_rows
from batchflux.exports.shards import Shards, line, read_ahead, recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import BinaryIO

    from batchflux.exports.base import Export, Sample
    from batchflux.exports.places import Place
    from batchflux.exports.shards import Placed

SAMPLES, BYTES = 10_000, 1_000_000_000  # of a shard, at most
_OFTEN_EMPTY = ("seed", "seed_used")
_EMPTY: Mapping[str, str | int | float] = {"string": "", "int64": 0, "float64": 0.0}
_OURS = re.compile(r"(?P<folder>(?:[^/]+/)?)(?P<number>[0-9]{5})(?:\.tar|\.parquet|_stats\.json)")
_RULES = "webdataset 1"  # changes when the same samples are to come to other bytes
_END = bytes(2 * tarfile.BLOCKSIZE)


class WebDataset:
    """A DatasetExporter: shards in the folder itself, or in one for each split where there are several."""

    def __init__(self, export: Export) -> None:
        pyarrow()
        self._export, self._apart = export, len(export.splits) > 1
        self._shards = Shards(SAMPLES, BYTES, self._write)
        self._columns = {"key": "string", "caption": "string", "status": "string"} | {
            _renamed(name): "string" if name in _OFTEN_EMPTY else kind for name, kind in export.columns.items()
        }
        files = {split: [f"{self._place(split)}*.tar"] for split in export.splits}
        first = next(iter(files.values()), ["*.tar"])[0]
        rows = f'rows = wds.WebDataset("{first.replace("*", "00000")}").decode("pil")'
        use = f"```python\nimport webdataset as wds\n\n{rows}\n```"
        self.loading = Loading(use=use, builder="webdataset", files=files)

    def write(self, sample: Sample, image: Callable[[], bytes]) -> None:
        """Add a picture."""
        self._shards.add(sample, image, sample.size)

    def close(self) -> None:
        """Write the last shards, and remove those that an earlier export had more."""
        self._shards.close()
        made, place = {self._place(split): number for split, number in self._shards.made.items()}, self._export.place
        found = [_OURS.fullmatch(name) for pattern in ("*", "*/*") for name in place.names(pattern)]
        place.remove(one[0] for one in found if one and int(one["number"]) >= made.get(one["folder"], 0))

    def _place(self, split: str) -> str:
        return f"{split}/" if self._apart else ""

    def _write(self, split: str, number: int, placed: Sequence[Placed]) -> None:
        place, stem = self._export.place, f"{self._place(split)}{number:05}"
        tar, stats = f"{stem}.tar", f"{stem}_stats.json"
        made_of = recipe(json.dumps([_RULES, number, self._columns, self._export.suffix]), placed)
        if _made_of(place, stats, tar) == made_of:
            return
        place.remove([stats])
        with place.writing(tar) as file:
            for index, (sample, data) in enumerate(read_ahead(placed)):
                self._add(file, f"{number:05}{index:04}", sample, data)
            file.write(_END)
            file.write(bytes(-file.tell() % tarfile.RECORDSIZE))
            size = file.tell()
        rows = (self._row(f"{number:05}{index:04}", one.sample) for index, one in enumerate(placed))
        write_rows(place, f"{stem}.parquet", self._columns, rows)
        counts = {"count": len(placed), "successes": len(placed), "failed_to_download": 0, "failed_to_resize": 0}
        place.put(stats, line({**counts, "status_dict": {"success": len(placed)}, "bytes": size, "made_of": made_of}))

    def _add(self, file: BinaryIO, key: str, sample: Sample, data: bytes) -> None:
        _member(file, key + self._export.suffix, data)
        _member(file, f"{key}.txt", sample.caption.encode(errors="replace"))
        _member(file, f"{key}.json", json.dumps(self._row(key, sample), ensure_ascii=False).encode(errors="replace"))

    def _row(self, key: str, sample: Sample) -> dict[str, Any]:
        row: dict[str, Any] = {"key": key, "caption": sample.caption, "status": "success"}
        for name, value in sample.columns.items():
            kind = self._columns[_renamed(name)]
            row[_renamed(name)] = _EMPTY[kind] if value is None else type(_EMPTY[kind])(value)
        return row


def _renamed(name: str) -> str:
    """Return what a column is called where `key` is a sample's."""
    return "job_key" if name == "key" else name


def _member(file: BinaryIO, name: str, data: bytes) -> None:
    """Append a file to a tar, with nothing in its head that another time or user would change."""
    head = tarfile.TarInfo(name)
    head.size = len(data)
    file.write(head.tobuf(tarfile.USTAR_FORMAT))
    file.write(data)
    file.write(bytes(-len(data) % tarfile.BLOCKSIZE))


def _made_of(place: Place, stats: str, tar: str) -> str | None:
    """Return what a whole shard was made of; None where it is not whole."""
    try:
        said: Mapping[str, Any] = json.loads(place.read(stats) or b"")
        return str(said["made_of"]) if said["bytes"] == place.size(tar) else None
    except (ValueError, KeyError, TypeError):
        return None


EXPORTERS = {"webdataset": Format(make=WebDataset)}
