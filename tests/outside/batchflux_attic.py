"""An attic, a store that batchflux does not know: objects as files of one folder, named by the hex of their keys."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from batchflux.errors import StorageError, UsageError
from batchflux.output.stores.base import Found

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchflux.output.stores.base import Address, StoreSettings


class Attic:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, key: str, data: bytes | Path, sha256: str, *, over: bool = False) -> bool:
        data = data if isinstance(data, bytes) else data.read_bytes()
        if self._at(key).exists() and not over:
            if hashlib.sha256(self._at(key).read_bytes()).hexdigest() != sha256:
                raise StorageError(f"{key} is in the attic already, with other bytes; move it away, then run again")
            return False
        self._at(key).write_bytes(data)
        return True

    def fetch(self, key: str, target: BinaryIO) -> bool:
        if not self._at(key).exists():
            return False
        target.write(self._at(key).read_bytes())
        return True

    def find(self, prefix: str) -> Iterator[Found]:
        keys = sorted(bytes.fromhex(path.name).decode() for path in self._folder.iterdir())
        yield from (Found(key, self._at(key).stat().st_size) for key in keys if key.startswith(prefix))

    def sign(self, key: str, seconds: int) -> str:
        raise StorageError("an attic signs no links; use a bucket in a cloud, or `url`")

    def copy(self, key: str, to: str) -> None:
        self._at(to).write_bytes(self._at(key).read_bytes())

    def delete(self, key: str) -> None:
        self._at(key).unlink(missing_ok=True)

    def _at(self, key: str) -> Path:
        return self._folder / key.encode().hex()


def open_attic(address: Address, settings: StoreSettings, look_up: Callable[[str], str | None]) -> Attic:
    """Open `attic://NAME`: the folder NAME in what the variable ATTICS names."""
    attics = look_up(settings.access_key or "ATTICS")
    if attics is None:
        raise UsageError(f"{address.root}: the variable ATTICS is not set; export ATTICS=..., or put it into .env")
    folder = Path(attics) / address.bucket
    folder.mkdir(parents=True, exist_ok=True)
    return Attic(folder)
