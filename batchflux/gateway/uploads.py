"""Pictures that came with requests: files of the output folder, named by their bytes.

They are written before it is known whether their order is carried out, for what is wrong with it is found by reading
them. Those of orders that are refused are removed again, or who asks for nothing could fill the disk.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections import Counter
from typing import TYPE_CHECKING

from batchflux.engine.shutdown import STORAGE
from batchflux.errors import StorageError
from batchflux.gateway.answering import errors
from batchflux.gateway.orders import RefusalError
from batchflux.output.base import TEMPORARY, UPLOADS
from batchflux.output.durable import PRIVATE, storing, write_new
from batchflux.photos.facts import kind_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_LOGGER = logging.getLogger("batchflux.gateway")
_HEAD = 64  # bytes that tell what kind of picture a file is


class Uploads:
    """The uploads of an output folder; for threads."""

    def __init__(self, folder: Path) -> None:
        self._place = folder / UPLOADS
        self._lock = threading.Lock()
        self._orders: Counter[Path] = Counter()  # that use a file, and are not decided on
        self._fresh: set[Path] = set()  # files that no call on record has
        for left in self._place.glob(f"{TEMPORARY}*"):  # was being written when a gateway was killed
            left.unlink(missing_ok=True)

    def keep(self, data: bytes, param: str) -> Path:
        """Keep a picture for an order; `settle` says what became of it.

        Raises RefusalError: it is none, or cannot be kept.
        """
        kind = kind_of(data[:_HEAD])
        if kind is None:
            message = "This is no PNG, JPEG, WEBP or GIF picture; send it as one of them."
            raise RefusalError(400, "invalid_image", message, param=param)
        path = self._place / f"{hashlib.sha256(data).hexdigest()[:32]}.{kind}"
        with self._lock:
            try:
                self._write(path, data)
            except StorageError as error:
                _LOGGER.error("%s", error)  # noqa: TRY400  it says all, and its frames nothing
                raise errors.refusal(STORAGE, billed=False) from error
            self._orders[path] += 1
        return path

    def _write(self, path: Path, data: bytes) -> None:
        with storing(path):
            if not path.is_file():
                self._place.mkdir(mode=PRIVATE, exist_ok=True)
                beside = path.with_name(f"{TEMPORARY}{os.urandom(8).hex()}")
                try:
                    write_new(beside, data)
                    beside.replace(path)
                finally:
                    beside.unlink(missing_ok=True)
                self._fresh.add(path)

    def settle(self, paths: Iterable[Path], *, called: bool) -> None:
        """End an order's use of files: `called`, a call on record has them; else they go, unless others use them."""
        with self._lock:
            for path in paths:
                self._orders[path] -= 1
                if called:
                    self._fresh.discard(path)
                if self._orders[path] <= 0:
                    del self._orders[path]
                    if path in self._fresh:
                        self._fresh.discard(path)
                        path.unlink(missing_ok=True)
