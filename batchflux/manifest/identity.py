"""What a job is known by: its references' digests, its key, its id and its file name.

The key is SHA-256 over a canonical JSON of everything that changes the picture, and of nothing else, so that editing
ids, tags, tables or the order of jobs re-runs nothing. FORMAT changes only when keys must. A missing or unfit local
reference is not a fault of the manifest: its Reference says what is wrong, and only its jobs fail.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import unicodedata
from array import array
from functools import lru_cache
from pathlib import Path
from posixpath import splitext
from typing import TYPE_CHECKING, Any

from batchflux.manifest.job_fields import KEY_FIELDS, MAX_ID, NAMED_KEY_FIELDS, READERS
from batchflux.manifest.schema import DEFAULT_FILE_NAME
from batchflux.manifest.templates import ImagePath, compile_template
from batchflux.manifest.values import is_url
from batchflux.manifest.yaml_nodes import quoted
from batchflux.models import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchflux.manifest.schema import Manifest
    from batchflux.models import Job

FORMAT = 1
FOLDER = "images/"
MAX_ID_BYTES = 220  # of an id that we make: a file system takes 255 for a name, and a suffix and a mark come behind it
MAX_COMPONENT = 240  # bytes; file systems take 255, and temporary names need a few
MAX_PATH = 1000
MAX_REFERENCE = 20 << 20
_SLUG = 48
_SHORT, _LONG = 8, 16  # digits of the key
_KEPT = 16_384  # references remembered; beyond, the oldest are read again when they come back

_WORD = re.compile(r"[a-z0-9]+")
_DEVICE = r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?"
_RESERVED = re.compile(_DEVICE, re.IGNORECASE)
_EASY = re.compile(rf"(?!{_DEVICE}$)[a-z0-9_-](?:[a-z0-9._ -]{{0,180}}[a-z0-9_-])?", re.IGNORECASE | re.ASCII)
# Control characters, among them those that turn the direction of text, so that a name reads as another.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def _media_type(head: bytes) -> str | None:
    """Return the kind of picture by its first bytes, or None."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    kinds = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF87a": "gif", b"GIF89a": "gif"}
    return next((f"image/{kind}" for start, kind in kinds.items() if head.startswith(start)), None)


@lru_cache(maxsize=_KEPT)
def _digest(path: str, _size: int, _changed: int) -> tuple[str, str | None]:
    """Return the digest of a file's bytes and its media type; size and time of change tell its states apart."""
    with Path(path).open("rb") as stream:
        kind = _media_type(stream.read(12))
        stream.seek(0)
        return hashlib.file_digest(stream, "sha256").hexdigest(), kind


def references(base: Path) -> Callable[[str], Reference]:
    """Return what makes the References of one expansion from what the user wrote, relative to the manifest's folder."""

    @lru_cache(maxsize=_KEPT)
    def make(source: str) -> Reference:
        if is_url(source):
            return Reference(source=source, url=source)
        path = os.path.normpath(os.path.join(base, source))  # noqa: PTH118  keeps symbolic links as they are
        digest = kind = None
        try:
            found = Path(path).stat()
            fault = _unfit(found)
            if fault is None:
                digest, kind = _digest(path, found.st_size, found.st_mtime_ns)
                fault = "is not a PNG, JPEG, WEBP or GIF picture" if kind is None else None
        except OSError as error:
            fault = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        except ValueError:
            fault = "is not a path"
        text = None if fault is None else f"the reference {source} {fault}"
        return Reference(source=source, path=path, sha256=digest, media_type=kind, fault=text)

    return make


def _unfit(found: os.stat_result) -> str | None:
    if not stat.S_ISREG(found.st_mode):
        return "is not a file"
    if found.st_size > MAX_REFERENCE:
        return f"has {found.st_size} bytes; at most {MAX_REFERENCE} can be sent"
    return None if found.st_size else "is empty"


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def key_of(values: Mapping[str, Any], provider: str) -> str:
    """Return the key, 64 hex digits, of a job's fields by name; `images` are References."""
    # A reference counts by the digest of its bytes, its URL, or that it is missing.
    images = [image.sha256 or image.url or f"missing:{image.source}" for image in values["images"]]
    named = {name: dict(value) for name in NAMED_KEY_FIELDS if (value := values.get(name))}
    head = (FORMAT, provider, values["model"], values["style"], values["prompt"], images)
    text = _canonical([*head, *map(values.get, KEY_FIELDS), *([named] if named else ())])
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def key_of_job(job: Job) -> str:
    """Return the key that follows from what a job asks for."""
    names = ("model", "style", "prompt", "images", *KEY_FIELDS, *NAMED_KEY_FIELDS)
    return key_of({name: getattr(job, name) for name in names}, job.provider)


def slug(prompt: str) -> str:
    """Return the first words of the prompt in lower case ASCII, at most 48 characters, else `job`."""
    start = unicodedata.normalize("NFKD", prompt[:400]).encode("ascii", "ignore").decode()
    joined = "-".join(_WORD.findall(start.lower()))
    if len(joined) > _SLUG:
        cut = joined[: _SLUG + 1]
        joined = cut[: cut.rfind("-")] if "-" in cut else joined[:_SLUG]
    return joined or "job"


def default_id(prompt: str, key: str, *, long: bool = False) -> str:
    """Return the id of a job that was given none; `long` where 8 digits would name two jobs."""
    return f"{slug(prompt)}-{key[: _LONG if long else _SHORT]}"


def redo_id(root: str, ordinal: int) -> str:
    """Return the id of a redo: the first job's with `-redo1` and so on, cut where it would be too long for an id."""
    suffix = f"-redo{ordinal}"
    cut = root[: MAX_ID - len(suffix)]
    while len(cut.encode(errors="replace")) > MAX_ID_BYTES:
        cut = cut[:-1]
    return cut.rstrip() + suffix


_BAD_NAME: tuple[tuple[Callable[[str], object], str], ...] = (
    (lambda name: name.startswith("/"), "is absolute; allowed is a name inside the output folder"),
    (_CONTROL.search, "has a control character"),
    (lambda name: "\\" in name, "has a backslash; folders are written with /"),
    (lambda name: len(name) > MAX_PATH, f"has more than {MAX_PATH} characters"),
)
_BAD_PART: tuple[tuple[Callable[[str], object], str], ...] = (
    (lambda part: part == "..", "leaves the output folder"),
    (lambda part: not part, "has an empty part"),
    (lambda part: part.startswith("."), "starts a part with a dot, which hides the file"),
    (lambda part: part != part.strip() or part[-1] == ".", "has a part with a space at its ends, or a dot at its end"),
    (lambda part: len(part.encode()) > MAX_COMPONENT, f"has a part of more than {MAX_COMPONENT} bytes"),
    (_RESERVED.fullmatch, "is reserved for a device on some systems"),
)


def checked_name(name: str) -> str:
    """Return the file name below the output folder; a ValueError says why it cannot be a file's name everywhere."""
    checks = () if _EASY.fullmatch(name) else ((name, _BAD_NAME), *((part, _BAD_PART) for part in name.split("/")))
    for text, rules in checks:
        for is_bad, reason in rules:
            if is_bad(text):
                raise ValueError(f"the file name {quoted(name)} {reason}")
    return FOLDER + name


def folded(name: str) -> str:
    """Return what two names have in common when a file system that ignores case takes them for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


_LINE_BITS = 36
_SUFFIXES = ("", ".jpg", ".jpeg", ".png", ".webp")  # the first: any other, or none
_ENDS = {"jpeg": (".jpg", ".jpeg"), "png": (".png",), "webp": (".webp",)}
_OF_A_JOB = (*READERS, "key")  # what a file name's template may read of its job

Origin = tuple[int, int]  # the entry's index, and the line in its table or 0


class NameTakenError(ValueError):
    """An id or file name stands for another job already; `key` says which."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class _Claimed:
    """The names that were claimed, as 64-bit hashes, and by whom: 8 bytes each, for a million of them."""

    def __init__(self) -> None:
        self._hashes: dict[int, None] = {}
        self._marks = array("Q")

    def add(self, name: str, mark: int) -> bool:
        """Claim a name; False when it was claimed before."""
        if (value := hash(name)) in self._hashes:
            return False
        self._hashes[value] = None
        self._marks.append(mark)
        return True

    def by(self, name: str) -> int | None:
        """Return the mark that a name was claimed with, or None."""
        if (value := hash(name)) not in self._hashes:
            return None
        return self._marks[list(self._hashes).index(value)]


class Names:
    """Gives each job of one expansion its id and file name, and each to one job only.

    Ids differ, and so do file names, also where a file system ignores case. With the default template ids are compared
    folded, and file names need no table of their own. An id that was not given never clashes: it takes more of its key.
    As a stored picture's suffix follows its bytes, names that differ in a picture's suffix only are one name, unless
    both jobs ask for a format, which then says what the suffix will be.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._plain = manifest.output.file_name == DEFAULT_FILE_NAME
        self._template = compile_template(manifest.output.file_name, file_name=True)
        self._fold: Callable[[str], str] = folded if self._plain else str
        self._ids, self._files = _Claimed(), _Claimed()

    def give(self, values: dict[str, Any], variables: Mapping[str, Any], origin: Origin) -> None:
        """Set `id` and `file_name`.

        Raises NameTakenError: another job has the id or the file name; ValueError: the file name is not allowed, or
        cannot be rendered.
        """
        mark = origin[0] << _LINE_BITS | origin[1]
        name = values["id"] = self._id(values, mark)
        ext = _ENDS[values.get("output_format") or "jpeg"][0]
        if self._plain:
            values["file_name"] = checked_name(name + ext)
            return
        file_name = checked_name(self._template.render(_variables(values, variables, ext[1:])))
        self._claim(file_name, None if "output_format" in values["dropped"] else values.get("output_format"), mark)
        values["file_name"] = file_name

    def redo(self, root: Job, ordinal: int, key: str) -> tuple[str, str]:
        """Return id and file name of a redo: its first job's with `-redo1` and so on, and 8 digits where that is taken.

        No manifest is at fault because of what somebody asked for in a review, so this refuses nothing.
        """
        mark = self._manifest.entries[0].index << _LINE_BITS
        name = redo_id(root.id, ordinal)
        if not self._ids.add(self._fold(name), mark):
            name = f"{name}-{key[:_SHORT]}"
            self._ids.add(self._fold(name), mark)
        stem, ext = splitext(root.file_name.removeprefix(FOLDER))
        if self._plain:
            return name, checked_name(name + ext)
        folder, slash, base = stem.rpartition("/")
        stem = f"{folder}{slash}{redo_id(base, ordinal)}"
        asked = None if "output_format" in root.dropped else root.output_format
        try:
            self._claim(checked_name(stem + ext), asked, mark)
        except NameTakenError:
            stem = f"{stem}-{key[:_SHORT]}"
            self._claim(checked_name(stem + ext), asked, mark)
        return name, checked_name(stem + ext)

    def _claim(self, file_name: str, asked: str | None, mark: int) -> None:
        """Take a file name for a job, its stem for pictures of one format or any; names have no //."""
        name = folded(file_name)
        stem, suffix = splitext(name)
        suffix = suffix if suffix in _SUFFIXES else ""
        of_any, of_one = f"{stem}//any", f"{stem}//one"
        if not suffix:
            rivals, taken = [name], [name]
        elif asked is None:
            rivals, taken = [of_any, of_one], [of_any]
        else:
            stored = name if suffix in _ENDS[asked] else stem + _ENDS[asked][0]
            rivals, taken = [of_any, stored], [of_one, stored]
        place = mark << 3 | _SUFFIXES.index(suffix)
        earlier = next((found for found in map(self._files.by, rivals) if found is not None), None)
        if earlier is not None:
            shown, at = quoted(file_name.removeprefix(FOLDER)), self._at(earlier >> 3)
            why = f"is used {at} too"
            if (earlier ^ place) & 7:
                why = f"differs only in its suffix from one used {at}, and the suffix follows the picture that comes"
            raise NameTakenError("file_name", f"the file name {shown} {why}; add {{{{ id }}}} to output.file_name")
        for one in taken:
            self._files.add(one, place)

    def _id(self, values: dict[str, Any], mark: int) -> str:
        given: str | None = values.get("id")
        name = given if given is not None else default_id(values["prompt"], values["key"])
        if self._ids.add(self._fold(name), mark):
            return name
        if given is not None:
            at = self._at(self._ids.by(self._fold(name)) or 0)
            case = ", and by more than upper and lower case" if self._plain else ""
            raise NameTakenError("id", f"the id {quoted(name)} is used {at} too; ids must differ{case}")
        # Among hundreds of thousands of jobs with one slug 8 digits meet by chance; the later job takes 16.
        name = default_id(values["prompt"], values["key"], long=True)
        self._ids.add(self._fold(name), mark)
        return name

    def _at(self, mark: int) -> str:
        entry = next(entry for entry in self._manifest.entries if entry.index == mark >> _LINE_BITS)
        if entry.source is not None:
            return f"by {self._manifest.beside(entry.source)}:{mark & ((1 << _LINE_BITS) - 1)}"
        return f"by jobs[{entry.index}] on line {entry.line}"


def _variables(values: dict[str, Any], variables: Mapping[str, Any], ext: str) -> dict[str, Any]:
    sources = [reference.source for reference in values["images"]]
    own = {"images": sources, "tags": dict(values["tags"]), "ext": ext}
    image = ImagePath(sources[0]) if sources else ""
    return {"image": image, **variables, **{name: values.get(name) for name in _OF_A_JOB}, **own}
