"""The pictures that the servers give: a photograph of about 200 KB, free of grain as models make them; a tiny one."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image
from tools import ROOT, BenchError

if TYPE_CHECKING:
    from pathlib import Path

PHOTO = ROOT / "jobs" / "photos" / "dahlia.jpg"
TARGET = 200_000
TINY = 64


def write_photo(path: Path) -> int:
    """Write a square PNG of about 200 KB; return its size in bytes."""
    low, high = 128, 1024
    data = b""
    while high - low > 1:
        side = (low + high) // 2
        data = _png(side)
        low, high = (side, high) if len(data) < TARGET else (low, side)
    if abs(len(data) - TARGET) > TARGET // 20:
        raise BenchError(f"a picture of {len(data)} bytes came out where {TARGET} were wanted")
    path.write_bytes(data)
    return len(data)


def write_tiny(path: Path) -> int:
    """Write a valid PNG of 64 x 64 pixels; return its size in bytes."""
    data = _png(TINY)
    path.write_bytes(data)
    return len(data)


def _png(side: int) -> bytes:
    with Image.open(PHOTO) as photo:
        square = photo.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    square.save(file, "PNG")
    return file.getvalue()
