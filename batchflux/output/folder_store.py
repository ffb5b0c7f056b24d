"""Pictures as files of the output folder. The rule: under its name a file is whole, or it is not there.

What is written goes to a temporary file in `.spool/` and is renamed into its place once its bytes are on the disk.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from batchflux.errors import Code, JobError
from batchflux.failpoints import reach
from batchflux.output import durable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class FolderStore:
    """An AssetStore in a folder, which must exist to be written to. Safe to use from several threads."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    def put(self, name: str, data: bytes | Path) -> None:
        """Store an asset; the folders of its name are made."""
        target = self._place(name)
        with durable.storing(target, named_by_job=True):
            if isinstance(data, bytes):
                temporary = durable.write_temporary(self._root, data)
                try:
                    self._move(temporary, target)
                except BaseException:
                    temporary.unlink(missing_ok=True)
                    raise
            else:
                durable.sync_file(data)
                self._move(data, target)
            reach("pictures.synced")

    def get(self, name: str) -> bytes | None:
        """Return an asset's bytes."""
        path = self.path(name)
        try:
            return None if path is None else path.read_bytes()
        except OSError as error:
            raise durable.unreadable(self._root / name, error) from error

    def present(self, names: Iterable[str]) -> set[str]:
        """Return the names that have an asset."""
        return {name for name in names if self.path(name) is not None}

    def move(self, old: str, new: str) -> bool:
        """Rename an asset; the folders of its new name are made."""
        source, target = self.path(old), self._place(new)
        if source is None:
            return False
        with durable.storing(target, named_by_job=True):
            self._move(source, target)
            durable.sync_folder(source.parent)
        return True

    def delete(self, name: str) -> None:
        """Remove an asset, if it is there."""
        path = self.path(name)
        if path is not None:
            with durable.storing(path):
                path.unlink(missing_ok=True)
                durable.sync_folder(path.parent)

    def path(self, name: str) -> Path | None:
        """Return the file of an asset, None when there is none; StorageError where the folder does not let us see."""
        try:
            place = self._place(name)
            return place if stat.S_ISREG(place.stat().st_mode) else None
        except (FileNotFoundError, JobError):
            return None
        except OSError as error:
            if error.errno in durable.NAME_FAULTS:
                return None
            raise durable.unreadable(self._root / name, error) from error

    def _move(self, source: Path, target: Path) -> None:
        reach("picture.moving")
        try:
            durable.move(source, target)
        except FileNotFoundError:
            durable.make_folders(self._root, target.parent)
            durable.move(source, target)
        reach("picture.moved")
        durable.sync_folder(target.parent)

    def _place(self, name: str) -> Path:
        if name.startswith("/") or ".." in name.split("/") or "\0" in name:
            raise JobError(Code.INVALID_REQUEST, f"{name!a} lies outside the output folder; change output.file_name")
        return self._root / name
