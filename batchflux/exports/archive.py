"""An export as one file, to be handed to somebody: DEST.zip beside the folder, the same bytes for the same export.

Pictures are compressed already, so nothing is compressed again. Hidden files, which are how an export knows itself
again, are not in it. A zip says in its comment that it is one of these; another of this name is somebody's.
"""

from __future__ import annotations

import shutil
import zipfile
from typing import TYPE_CHECKING, BinaryIO

from batchflux.errors import UsageError
from batchflux.exports.places.folder import writing
from batchflux.output.durable import storing
from batchflux.output.stores.base import Address

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_COMMENT = b"batchflux export"
_BEGINNING = (1980, 1, 1, 0, 0, 0)  # of time, in a zip
_PLAIN_FILE = 0o100644 << 16
_CHUNK = 1 << 20


def zip_of(folder: Path | Address) -> Path:
    """Return the path of an export's zip; UsageError where something else has it, or there is no folder."""
    if isinstance(folder, Address):
        raise UsageError(
            f"--zip: {folder} is a bucket, and a zip lies beside a folder: export to one, then copy the zip."
        )
    named = folder if folder.name not in ("", "..") else folder.resolve()
    path = named.with_name(f"{named.name}.zip")
    try:
        with zipfile.ZipFile(path) as there:
            ours = there.comment == _COMMENT
    except FileNotFoundError:
        return path
    except (OSError, zipfile.BadZipFile):
        ours = False
    if not ours:
        raise UsageError(f"{path} is there, and no export's zip: move it away, or export to a folder of another name.")
    return path


def write_zip(folder: Path, path: Path) -> None:
    """Put all files of an export into a zip, whole or not at all; StorageError."""
    with writing(path) as file, zip_file(file) as made:
        made.comment = _COMMENT
        for one in _files(folder):
            with storing(one), one.open("rb") as source, made.open(entry(str(one.relative_to(folder))), "w") as member:
                shutil.copyfileobj(source, member, _CHUNK)


def zip_file(file: BinaryIO) -> zipfile.ZipFile:
    """Open a zip to be written, of any size."""
    return zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True)


def entry(name: str) -> zipfile.ZipInfo:
    """Return what a zip says of a file: nothing that another time or user would change."""
    info = zipfile.ZipInfo(name.replace("\\", "_"), _BEGINNING)
    info.external_attr, info.create_system = _PLAIN_FILE, 3
    return info


def _files(folder: Path) -> Iterator[Path]:
    with storing(folder):
        found = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in found:
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path
