"""Photos of every kind that people bring, made here."""

from __future__ import annotations

import io
import random
import struct
import zlib
from typing import Any

from PIL import Image

from batchflux.photos import heic

RED, BLUE = (200, 30, 40), (20, 90, 200)


def drawn(mode: str = "RGB", size: tuple[int, int] = (120, 80)) -> Image.Image:
    """Return a red picture with a blue corner at its upper left."""
    picture = Image.new("RGB", size, RED)
    picture.paste(BLUE, (0, 0, size[0] // 4, size[1] // 4))
    return picture.convert(mode)


def encoded(kind: str, picture: Image.Image | None = None, **more: Any) -> bytes:
    """Return a picture as a file of a kind, by Pillow's name for it."""
    assert kind != "HEIF" or heic.can_read()
    file = io.BytesIO()
    (picture or drawn()).save(file, kind, **more)
    return file.getvalue()


def turned(kind: str, orientation: int, **more: Any) -> bytes:
    """Return a file whose EXIF data wants it seen turned: upright, it is `drawn()`."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # what undoes the turn that an orientation asks for
    picture = drawn()
    if orientation in back:
        picture = picture.transpose(Image.Transpose(back[orientation]))
    return encoded(kind, picture, exif=exif, **more)


def deep_png() -> bytes:
    """Return a PNG of 16 bits a sample, in RGB, which Pillow cannot write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    wide, high = 24, 16
    rows = b"".join(b"\0" + random.Random(row).randbytes(wide * 6) for row in range(high))
    header = struct.pack(">IIBBBBB", wide, high, 16, 2, 0, 0, 0)
    end = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + end


def deep_grey() -> Image.Image:
    picture = Image.new("I;16", (64, 64))
    picture.putdata([at * 16 for at in range(4096)])
    return picture


def moving(kind: str) -> bytes:
    return encoded(kind, drawn(), save_all=True, append_images=[drawn().rotate(180)])


def clear(mode: str = "RGBA") -> Image.Image:
    """Return a picture whose right half lets through."""
    picture = drawn("RGBA")
    picture.putalpha(Image.new("L", picture.size, 255))
    picture.paste((0, 255, 0, 0), (60, 0, 120, 80))
    return picture if mode == "RGBA" else picture.quantize(16) if mode == "P" else picture.convert(mode)
