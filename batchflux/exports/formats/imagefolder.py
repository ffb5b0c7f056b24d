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

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.exports.base import Export, Sample

METADATA = "metadata.parquet"
FOLDER_FILES = 1000


class ImageFolder:
    """A DatasetExporter: SPLIT/metadata.parquet, whose `file_name` is SPLIT/images/0000/NAME."""

    def __init__(self, export: Export) -> None:
        self._stack = export.held.enter_context(ExitStack())
        self._export, self._files = export, export.place.pictures("*/images/*")
        columns = {"file_name": "string", "caption": "string", **export.columns}
        self._tables: dict[str, Rows] = {}
        self._counts = dict.fromkeys(export.splits, 0)
        for split in export.splits:
            file = self._stack.enter_context(export.place.writing(f"{split}/{METADATA}"))
            self._tables[split] = self._stack.enter_context(Rows(file, columns))
        files = {split: [f"{split}/{METADATA}", f"{split}/images/**"] for split in export.splits}
        self.loading = Loading(
            use="Pictures are files; metadata.parquet has a row for each.",
            builder="imagefolder",
            files=files,
            config=("drop_labels: true",),
        )

    def write(self, sample: Sample, image: Callable[[], bytes]) -> None:
        """Add a picture."""
        number = self._counts[sample.split]
        folder = self._folder(sample.split, number)
        if number and number % FOLDER_FILES == 0:
            self._files.done(self._folder(sample.split, number - 1))
        name = f"{folder}/{sample.name}{sample.suffix}"
        self._files.put(name, sample.made_at, sample.sha256, image, sample.size)
        beside = name.removeprefix(f"{sample.split}/")
        self._tables[sample.split].add({"file_name": beside, "caption": sample.caption, **sample.columns})
        self._counts[sample.split] = number + 1

    def close(self) -> None:
        """Write the metadata, once all pictures are on the disk."""
        place, ours = self._export.place, {f"{split}/{METADATA}" for split in self._export.splits}
        place.remove(name for name in place.names(f"*/{METADATA}") if name not in ours)
        self._files.close()
        self._stack.close()

    def _folder(self, split: str, number: int) -> str:
        return f"{split}/images/{number // FOLDER_FILES:04}"


EXPORTERS = {"imagefolder": Format(make=ImageFolder)}
