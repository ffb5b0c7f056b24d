"""pairs: what a picture was made from beside what it became, in the layouts of those who train edits.

Base names are unique over the whole export, since trainers keep what they compute by base name alone.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from batchflux.errors import UsageError
from batchflux.exports.base import Format, Loading
from batchflux.exports.formats.parquet import IMAGE, ParquetFiles, loading_of, picture
from batchflux.exports.shards import line

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from batchflux.exports.base import DatasetExporter, Export, Sample

AI_TOOLKIT_CONTROLS = 3


class InstructPix2Pix:
    """A DatasetExporter: Parquet files with `input_image`, `edit_prompt` and `edited_image`.

    Further references are `input_image_2` and so on, empty where a picture has fewer.
    """

    def __init__(self, export: Export) -> None:
        self._inputs = [f"input_image{'' if one == 1 else f'_{one}'}" for one in range(1, export.references + 1)]
        inputs = dict.fromkeys(self._inputs, IMAGE)
        columns = {**inputs, "edit_prompt": "string", "edited_image": IMAGE, **export.columns}
        self._files = ParquetFiles(export.place, columns, self._row, _size)
        self.loading = loading_of(export)

    def write(self, sample: Sample, image: Callable[[], bytes]) -> None:
        """Add a picture with its references."""
        self._files.add(sample, image)

    def close(self) -> None:
        """Write what is left."""
        self._files.close()

    def _row(self, sample: Sample, data: bytes) -> dict[str, Any]:
        row: dict[str, Any] = dict.fromkeys(self._inputs)
        for name, photo in zip(self._inputs, sample.references, strict=False):
            row[name] = picture(photo.read(), f"{sample.name}_{name}{photo.suffix}")
        row["edit_prompt"], row["edited_image"] = sample.caption, picture(data, sample.name + sample.suffix)
        return {**row, **sample.columns}


class _Folders:
    """Pictures, captions and references of one name in folders of their own, for each split."""

    def __init__(self, export: Export, targets: str, controls: str) -> None:
        self.export, self._targets, self._controls = export, targets, controls
        self._files = export.place.pictures(f"*/{targets}", f"*/{controls}", f"*/{controls}_?")

    def target(self, split: str) -> str:
        """Return the folder of pictures."""
        return f"{split}/{self._targets}"

    def control(self, split: str, number: int) -> str:
        """Return the folder of references by their place, from 1."""
        several = self.export.references > 1
        return f"{split}/{self._controls}_{number}" if several else f"{split}/{self._controls}"

    def put(self, sample: Sample, image: Callable[[], bytes]) -> tuple[str, list[str]]:
        """Write the files of a sample; return the name of the picture's, and of those of its references."""
        folder = self.target(sample.split)
        name = f"{folder}/{sample.name}{sample.suffix}"
        self._files.put(name, sample.made_at, sample.sha256, image, sample.size)
        self._files.put_text(f"{folder}/{sample.name}.txt", sample.made_at, sample.caption)
        controls = []
        for number, photo in enumerate(sample.references, 1):
            control = f"{self.control(sample.split, number)}/{sample.name}{photo.suffix}"
            self._files.put(control, sample.made_at, photo.mark, photo.read)
            controls.append(control)
        return name, controls

    def close(self) -> None:
        """Put all on the disk, and remove what does not belong to it."""
        self._files.close()


class Musubi:
    """A DatasetExporter: SPLIT/images with captions as .txt, SPLIT/control of the same names, and SPLIT.jsonl."""

    def __init__(self, export: Export) -> None:
        self._folders, self._stack = _Folders(export, "images", "control"), export.held.enter_context(ExitStack())
        self._lists: dict[str, BinaryIO] = {}
        for split in export.splits:
            self._lists[split] = self._stack.enter_context(export.place.writing(f"{split}.jsonl"))
        first = next(iter(export.splits), "train")
        config = "\n".join(
            (
                "[[datasets]]",
                f'image_jsonl_file = "{export.place.path(f"{first}.jsonl")}"',
                'cache_directory = "a folder of your own"',
            )
        )
        says = "The .jsonl files name files by their absolute paths: export again when the folder was moved."
        self.loading = Loading(use=f"For musubi-tuner:\n\n```toml\n{config}\n```\n\n{says}")

    def write(self, sample: Sample, image: Callable[[], bytes]) -> None:
        """Add a picture with its references."""
        name, controls = self._folders.put(sample, image)
        names = ["control_path"] if len(controls) == 1 else [f"control_path_{one}" for one in range(len(controls))]
        path_of = self._folders.export.place.path
        paths = {key: path_of(control) for key, control in zip(names, controls, strict=True)}
        row = {"image_path": path_of(name), **paths, "caption": sample.caption}
        self._lists[sample.split].write(line(row))

    def close(self) -> None:
        """Finish the lists, once all files are on the disk."""
        place, ours = self._folders.export.place, {f"{split}.jsonl" for split in self._folders.export.splits}
        place.remove(name for name in place.names("*.jsonl") if name not in ours)
        self._folders.close()
        self._stack.close()


class AiToolkit:
    """A DatasetExporter: SPLIT/targets with captions as .txt, SPLIT/control (or control_1 to 3) of the same names."""

    def __init__(self, export: Export) -> None:
        if export.references > AI_TOOLKIT_CONTROLS:
            raise UsageError(
                f"ai-toolkit takes at most {AI_TOOLKIT_CONTROLS} references a picture, and one has "
                f"{export.references}: leave such jobs out with --only or --where, or choose another layout."
            )
        self._folders = _Folders(export, "targets", "control")
        first = next(iter(export.splits), "train")
        controls = [self._folders.control(first, one + 1) for one in range(export.references)]
        keys = [("folder_path", self._folders.target(first))]
        keys += [
            (f"control_path{f'_{one}' if len(controls) > 1 else ''}", folder) for one, folder in enumerate(controls, 1)
        ]
        config = "\n".join(
            f'{"- " if not at else "  "}{key}: "{export.place.path(folder)}"' for at, (key, folder) in enumerate(keys)
        )
        self.loading = Loading(use=f"For ai-toolkit, under datasets:\n\n```yaml\n{config}\n  caption_ext: txt\n```")

    def write(self, sample: Sample, image: Callable[[], bytes]) -> None:
        """Add a picture with its references."""
        self._folders.put(sample, image)

    def close(self) -> None:
        """Put all on the disk."""
        self._folders.close()


LAYOUTS: dict[str, Callable[[Export], DatasetExporter]] = {
    "instructpix2pix": InstructPix2Pix,
    "musubi": Musubi,
    "ai-toolkit": AiToolkit,
}


def _size(sample: Sample) -> int:
    """Return how many bytes the pictures of a row have."""
    return sample.size + sum(photo.size for photo in sample.references)


EXPORTERS = {
    "pairs": Format(make=lambda export: LAYOUTS[export.layout](export), layouts=tuple(LAYOUTS), references=True)
}
