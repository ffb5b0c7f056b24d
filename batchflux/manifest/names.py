"""Ids and file names over the whole manifest: given to each job, and each to one job only.

The rule: ids differ, and so do file names, also where a file system ignores case. With the default template an id is
the file's name but for the ending, and id.ext are equal without case only if both parts are; so ids are kept folded
then, and file names need no table of their own. An id that was not given never clashes: it takes more of its key.
As a stored picture's suffix follows its bytes, names that differ in a picture's suffix only are one name, unless both
jobs ask for a format, which then says what the suffix will be.
"""

from __future__ import annotations

from posixpath import splitext
from typing import TYPE_CHECKING, Any

from batchflux.ids import redo_id
from batchflux.manifest.config import DEFAULT_FILE_NAME
from batchflux.manifest.identity import FOLDER, checked_name, default_id, folded
from batchflux.manifest.sandbox import ImagePath
from batchflux.manifest.seen import Seen
from batchflux.manifest.templates import compile_template
from batchflux.manifest.tree import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchflux.manifest.config import Manifest
    from batchflux.models import Job

_LINE_BITS = 36
_DIGITS = 8
_SUFFIXES = {".jpg": 0, ".jpeg": 1, ".png": 2, ".webp": 3}  # with the bits that stand for them in a place
_ENDS = {"jpeg": (".jpg", ".jpeg"), "png": (".png",)}
_OPTIONAL = ("seed", "aspect_ratio", "output_format", "safety_tolerance", "prompt_upsampling", "webhook_url")
_SURE = ("id", "prompt", "model", "style", "variant", "key")

Origin = tuple[int, int]  # the entry's index, and the line in its table or 0


class Taken(ValueError):  # noqa: N818  reads as what happened
    """An id or file name stands for another job already; `key` says which."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class Names:
    """All ids and file names of one expansion."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._plain = manifest.output.file_name == DEFAULT_FILE_NAME
        self._template = compile_template(manifest.output.file_name, file_name=True)
        self._ids = Seen(places=True)
        self._files = Seen(places=True)

    def give(self, values: dict[str, Any], variables: Mapping[str, Any], origin: Origin) -> None:
        """Set `id` and `file_name`.

        Raises:
            Taken: another job has the id or the file name.
            ValueError: the file name is not allowed, or cannot be rendered.
        """
        mark = origin[0] << _LINE_BITS | origin[1]
        name = values["id"] = self._id(values, mark)
        ext = "png" if values.get("output_format") == "png" else "jpg"
        if self._plain:
            values["file_name"] = checked_name(f"{name}.{ext}")
            return
        file_name = checked_name(self._template.render(_variables(values, variables, ext)))
        asked = None if "output_format" in values.get("dropped", ()) else values.get("output_format")
        self._claim(file_name, asked, mark)
        values["file_name"] = file_name

    def redo(self, root: Job, ordinal: int, key: str) -> tuple[str, str]:
        """Return id and file name of a redo: its first job's with `-redo1` and so on, and 8 digits where that is taken.

        No manifest is at fault because of what somebody asked for in a review, so this refuses nothing.
        """
        mark = self._manifest.entries[0].index << _LINE_BITS
        name = redo_id(root.id, ordinal)
        if self._ids.add(hash(folded(name) if self._plain else name), mark) is not None:
            name = f"{name}-{key[:_DIGITS]}"
            self._ids.add(hash(folded(name) if self._plain else name), mark)
        stem, ext = splitext(root.file_name.removeprefix(FOLDER))
        if self._plain:
            return name, checked_name(name + ext)
        folder, slash, base = stem.rpartition("/")
        stem = f"{folder}{slash}{redo_id(base, ordinal)}"
        asked = None if "output_format" in root.dropped else root.output_format
        try:
            self._claim(checked_name(stem + ext), asked, mark)
        except Taken:
            stem = f"{stem}-{key[:_DIGITS]}"
            self._claim(checked_name(stem + ext), asked, mark)
        return name, checked_name(stem + ext)

    def _claim(self, file_name: str, asked: str | None, mark: int) -> None:
        """Take a file name for a job; the table's places are a mark, the suffix, and whether a format was asked for."""
        name = folded(file_name)
        stem, suffix = splitext(name)
        if suffix not in _SUFFIXES:
            self._refuse(file_name, self._files.add(hash(name), mark << 3), same=True)
            return
        place = mark << 3 | _SUFFIXES[suffix] << 1 | (asked is not None)
        earlier = self._files.add(hash(f"{stem}\0"), place)  # no name has that character
        if earlier is not None and not (asked is not None and earlier & 1):
            self._refuse(file_name, earlier, same=(earlier ^ place) & 6 == 0)
        if asked is not None:
            ends = _ENDS[asked]
            stored = name if suffix in ends else stem + ends[0]
            earlier = self._files.add(hash(stored), place)
            self._refuse(file_name, earlier, same=earlier is not None and (earlier ^ place) & 6 == 0)

    def _refuse(self, file_name: str, earlier: int | None, *, same: bool) -> None:
        if earlier is None:
            return
        shown, at = quoted(file_name.removeprefix("images/")), self._at(earlier >> 3)
        why = f"is used {at} too"
        if not same:
            why = f"differs only in its suffix from one used {at}, and the suffix follows the picture that comes"
        raise Taken("file_name", f"the file name {shown} {why}; add {{{{ id }}}} to output.file_name")

    def _id(self, values: dict[str, Any], mark: int) -> str:
        given: str | None = values.get("id")
        name = given if given is not None else default_id(values["prompt"], values["key"])
        earlier = self._ids.add(hash(folded(name) if self._plain else name), mark)
        if earlier is None:
            return name
        if given is not None:
            case = ", and by more than upper and lower case" if self._plain else ""
            raise Taken("id", f"the id {quoted(name)} is used {self._at(earlier)} too; ids must differ{case}")
        # Among hundreds of thousands of jobs with one slug 8 digits meet by chance; the later job takes 16.
        name = default_id(values["prompt"], values["key"], long=True)
        self._ids.add(hash(folded(name) if self._plain else name), mark)
        return name

    def _at(self, mark: int) -> str:
        entry = next(entry for entry in self._manifest.entries if entry.index == mark >> _LINE_BITS)
        if entry.source is not None:
            return f"by {self._manifest.beside(entry.source)}:{mark & ((1 << _LINE_BITS) - 1)}"
        return f"by jobs[{entry.index}] on line {entry.line}"


def _variables(values: dict[str, Any], variables: Mapping[str, Any], ext: str) -> dict[str, Any]:
    sources = [reference.source for reference in values["images"]]
    return {
        "image": ImagePath(sources[0]) if sources else "",
        **variables,
        **{name: values.get(name) for name in _OPTIONAL},
        **{name: values[name] for name in _SURE},
        "images": sources,
        "tags": dict(values["tags"]),
        "ext": ext,
    }
