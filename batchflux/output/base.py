"""The parts of an output folder by name, the suffixes of pictures, and the port to where finished pictures are kept."""

from __future__ import annotations

import re
from itertools import count
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from batchflux.models import Job, Stored

LEDGER = "ledger.db"
LOCK = ".lock"
RUN_LOG = "run.log"
MANIFEST = "manifest.yaml"
SUMMARY = "summary.json"
RESULTS = "results.csv"
REPORT = "report.html"
METADATA = "metadata.jsonl"
CARD = "README.md"
IMAGES = "images"
UPLOADS = "uploads"  # pictures that a gateway's clients sent, named by their bytes
REJECTED = "rejected"  # whole pictures that are not as ordered, or whose place is taken; never written over
ANSWERS = "answers"  # what an API answered, where no picture was found in it
THUMBS = "thumbs"
REFERENCES = f"{THUMBS}/references"
SPOOL = ".spool"
BATCHES = ".batches"  # the lines of batches that are about to leave, worthless after a crash
CACHE = ".cache"  # what is remembered of reference photos, and the copies that are sent; worthless when it is lost
REPLACED = ".replaced"  # holds pictures whose job was edited
_NOT_IN_NAMES = re.compile(r"[^\w.\-]")
FURTHER = "the answer had another picture, kept as "  # and its name: a remark on a job
NUMBERED = re.compile(r"(.+)_([2-9]|[1-9][0-9])", re.DOTALL)  # stems of further pictures of an answer
_LONGEST_ID = 180  # bytes of a name, which may have 255 in all
TEMPORARY = ".tmp-"  # begins the name of what is being written, which is worthless after a crash

Kind = Literal["jpeg", "png", "webp", "gif", "bmp", "tiff", "avif", "ico", "ppm", "jpeg2000"]
"""The kinds of pictures that are known: those that can be ordered (models.Format), and those that come instead."""

SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "jpeg": (".jpg", ".jpeg"),
    "png": (".png",),
    "webp": (".webp",),
    "gif": (".gif",),
    "bmp": (".bmp",),
    "tiff": (".tif", ".tiff"),
    "avif": (".avif",),
    "ico": (".ico",),
    "ppm": (".ppm", ".pgm", ".pbm", ".pnm"),
    "jpeg2000": (".jp2", ".j2k"),
}
"""The suffixes of each format; the first is given where a name has to change."""
ALL_SUFFIXES = tuple(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)


def variants(name: str) -> list[str]:
    """Return all file names that a picture planned as `name` may come to have: its suffix follows its bytes."""
    path = PurePosixPath(name)
    if path.suffix.lower() not in ALL_SUFFIXES:
        return [name]
    return list(dict.fromkeys((name, *(str(path.with_suffix(suffix)) for suffix in ALL_SUFFIXES))))


def next_names(name: str) -> Iterator[str]:
    """Yield, without end, the names that a file may have beside the one called so: `mug_2.png`, `mug_3.png`."""
    path = PurePosixPath(name)
    found = NUMBERED.fullmatch(path.stem)
    stem, last = (found[1], int(found[2])) if found else (path.stem, 1)
    return (str(path.with_name(f"{stem}_{number}{path.suffix}")) for number in count(last + 1))


def further_in(remarks: str | None) -> list[str]:
    """Return the names under which further pictures of a job's answer are kept, by what is said of the job.

    Remarks may quote a link of the answer, which may say anything: no other file of the folder is named so.
    """
    said = [PurePosixPath(one.removeprefix(FURTHER)) for one in (remarks or "").split("; ") if one.startswith(FURTHER)]
    return [str(name) for name in said if _is_further(name)]


def _is_further(name: PurePosixPath) -> bool:
    inside = name.parts[:1] == (IMAGES,) and ".." not in name.parts
    return inside and NUMBERED.fullmatch(name.stem) is not None


def place_of(job: Job, own: Stored | None) -> str:
    """Return the name beside which further pictures of a job's answer are kept: the job's own has it, or may have."""
    return job.file_name if own is None or own.refused is not None else own.file_name


def kept_name(folder: str, job_id: str, attempt: int, suffix: str) -> str:
    """Return the name below REJECTED or ANSWERS of what an attempt gave; no other attempt ever has the same."""
    plain = _NOT_IN_NAMES.sub("_", job_id).lstrip(".").encode()[:_LONGEST_ID].decode(errors="ignore")
    return f"{folder}/{plain}-{attempt}{suffix}"


def attempt_of(name: str) -> int:
    """Return the number of the attempt that gave what has this name; 0 when the name is another's."""
    number = PurePosixPath(name).stem.rpartition("-")[2]
    return int(number) if number.isascii() and number.isdecimal() else 0


class AssetStore(Protocol):
    """Keeps finished pictures by name: `images/x.png`, `.replaced/...`. Methods block, and may run in any thread.

    A name is relative, with `/` between its parts and without `..`. What a method did is durable when it returns, and
    an asset is there whole or not at all, whenever the process is killed. Every method raises StorageError when the
    store cannot do it; `put` and `move` raise JobError, `invalid_request`, when there can be no asset of this name.
    """

    def put(self, name: str, data: bytes | Path) -> None:
        """Store an asset, in place of one of the same name; a file given as `data` is gone afterwards."""

    def get(self, name: str) -> bytes | None:
        """Return an asset's bytes; None when there is no such asset."""

    def present(self, names: Iterable[str]) -> set[str]:
        """Return those of the names that have an asset."""

    def move(self, old: str, new: str) -> bool:
        """Rename an asset, in place of one called `new`; False when there is no asset called `old`."""

    def delete(self, name: str) -> None:
        """Remove an asset, if it is there."""
