"""Checksums and inflating for pictures: Intel's ISA-L where its package has a build, zlib elsewhere; the answers agree.

Of 200 KB the checksum takes 4 microseconds instead of 48, inflating 0.7 ms instead of 1.7.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Protocol

_fast: Any = zlib
try:
    from isal import isal_zlib
except ImportError:  # no build for this machine, see pyproject.toml
    pass
else:
    _fast = isal_zlib

if TYPE_CHECKING:
    from collections.abc import Callable


class Inflater(Protocol):
    """What `inflater` makes; see the standard library's zlib.decompressobj."""

    unconsumed_tail: bytes
    unused_data: bytes
    eof: bool

    def decompress(self, data: bytes | memoryview, max_length: int = 0, /) -> bytes:
        """Return at most `max_length` bytes of what comes out."""
        ...

    def flush(self) -> bytes:
        """Return what is left of it."""
        ...


crc32: Callable[[bytes | memoryview], int] = _fast.crc32
inflater: Callable[[], Inflater] = _fast.decompressobj
ERRORS: tuple[type[Exception], ...] = (zlib.error, _fast.error)
