"""The parts of an output folder by name, the suffixes of pictures, and the port to where finished pictures are kept."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from batchflux.models import Format

LEDGER = "ledger.db"
LOCK = ".lock"
RUN_LOG = "run.log"
MANIFEST = "manifest.yaml"
SUMMARY = "summary.json"
RESULTS = "results.csv"
REPORT = "report.html"
IMAGES = "images"
THUMBS = "thumbs"
REFERENCES = f"{THUMBS}/references"
SPOOL = ".spool"
REPLACED = ".replaced"  # holds pictures whose job was edited
TEMPORARY = ".tmp-"  # begins the name of what is being written, which is worthless after a crash

SUFFIXES: dict[Format, tuple[str, ...]] = {"jpeg": (".jpg", ".jpeg"), "png": (".png",), "webp": (".webp",)}
"""The suffixes of each format; the first is given where a name has to change."""
ALL_SUFFIXES = tuple(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)


def variants(name: str) -> list[str]:
    """Return all file names that a picture planned as `name` may come to have: its suffix follows its bytes."""
    path = PurePosixPath(name)
    if path.suffix.lower() not in ALL_SUFFIXES:
        return [name]
    return list(dict.fromkeys((name, *(str(path.with_suffix(suffix)) for suffix in ALL_SUFFIXES))))


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
