"""imagefolder: pictures as files, with metadata.parquet beside them, which `datasets` reads with its types.

Pictures lie in folders of a thousand, since the Hub takes less than 10,000 files in each. They are copies: a link
would let who changes the export change the picture that was paid for. The metadata are Parquet and not CSV, of which
types are guessed from the first rows: `00123` would be 123 there.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from batchflux.exports.base import Format, Loading
from batchflux.exports.formats.parquet import Rows
from batchflux.exports.shards import Files, remove, writing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchflux.exports.base import Export, Sample

METADATA = "metadata.parquet"
FOLDER_FILES = 1000


class ImageFolder:
    """A DatasetExporter: SPLIT/metadata.parquet, whose `file_name` is SPLIT/images/0000/NAME."""

    def __init__(self, export: Export) -> None:
        self._stack = export.held.enter_context(ExitStack())
        self._export, self._files = export, Files(export.folder, "*/images/*")
        columns = {"file_name": "string", "caption": "string", **export.columns}
        self._tables: dict[str, Rows] = {}
        self._counts = dict.fromkeys(export.splits, 0)
        for split in export.splits:
            file = self._stack.enter_context(writing(export.folder / split / METADATA))
            self._tables[split] = self._stack.enter_context(Rows(file, columns))
        files = {split: [f"{split}/{METADATA}", f"{split}/images/**"] for split in export.splits}
        self.loading = Loading(
            use="Pictures are files; metadata.parquet has a row for each.", files=files, config=("drop_labels: true",)
        )

    def write(self, sample: Sample, image: Callable[[], bytes]) -> None:
        """Add a picture."""
        number = self._counts[sample.split]
        folder = self._folder(sample.split, number)
        if number and number % FOLDER_FILES == 0:
            self._files.done(self._folder(sample.split, number - 1))
        self._files.put(folder / (sample.name + sample.suffix), sample.made_at, image, sample.size)
        name = f"images/{folder.name}/{sample.name}{sample.suffix}"
        self._tables[sample.split].add({"file_name": name, "caption": sample.caption, **sample.columns})
        self._counts[sample.split] = number + 1

    def close(self) -> None:
        """Write the metadata, once all pictures are on the disk."""
        splits = self._export.folder.glob(f"*/{METADATA}")
        remove(path for path in splits if path.parent.name not in self._export.splits)
        self._files.close()
        self._stack.close()

    def _folder(self, split: str, number: int) -> Path:
        return self._export.folder / split / "images" / f"{number // FOLDER_FILES:04}"


EXPORTERS = {"imagefolder": Format(make=ImageFolder)}
