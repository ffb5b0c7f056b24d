"""An asset store without a disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchflux.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class MemoryStore:
    """An AssetStore in memory; `assets` holds the bytes by name, `full` makes it refuse what is put."""

    def __init__(self) -> None:
        self.assets: dict[str, bytes] = {}
        self.full = False

    def put(self, name: str, data: bytes | Path) -> None:
        """Store an asset."""
        if self.full:
            raise StorageError(f"cannot keep {name}: the store is full; free space, then run again")
        if isinstance(data, bytes):
            self.assets[name] = data
        else:
            self.assets[name] = data.read_bytes()
            data.unlink()

    def get(self, name: str) -> bytes | None:
        """Return an asset's bytes."""
        return self.assets.get(name)

    def present(self, names: Iterable[str]) -> set[str]:
        """Return the names that have an asset."""
        return {name for name in names if name in self.assets}

    def move(self, old: str, new: str) -> bool:
        """Rename an asset."""
        if old not in self.assets:
            return False
        self.assets[new] = self.assets.pop(old)
        return True

    def delete(self, name: str) -> None:
        """Remove an asset."""
        self.assets.pop(name, None)
