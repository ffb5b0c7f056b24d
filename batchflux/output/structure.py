"""What the bytes of a picture are, told from their structure alone. The rule: a whole still PNG, JPEG or WEBP.

`inspect` walks the container from its first byte to its last without decoding a pixel: signature, segments or chunks
with sane lengths, checksums where there are some, sizes within bounds, the end where the end belongs. Bytes behind the
end are refused unless they are padding: they make files that are two things at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from batchflux.errors import Code, JobError

Kind = Literal["jpeg", "png", "webp"]

MAX_PIXELS = 64_000_000  # four times what the largest image API makes; a decoded one takes 256 MB
NAMES: dict[Kind, str] = {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}
_PADDING = b"\0\r\n"
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"GIF87a", "a GIF"),
    (b"GIF89a", "a GIF"),
    (b"BM", "a BMP"),
    (b"II*\0", "a TIFF"),
    (b"MM\0*", "a TIFF"),
    (b"%PDF", "a PDF"),
    (b"PK\3\4", "a ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"\0\0\1\0", "an icon"),
    (b"\xff\x0a", "a JPEG XL"),
)
_TEXTS: tuple[tuple[bytes, str], ...] = (
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<svg", "an SVG"),
    (b"<?xml", "an XML document"),
    (b"{", "JSON"),
    (b"[", "JSON"),
    (b"data:", "a data: URL"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a picture is: its kind, and its size in pixels."""

    kind: Kind
    width: int
    height: int


def bad(message: str) -> JobError:
    """Return the error for bytes that are no whole picture of the promised kind."""
    return JobError(Code.BAD_IMAGE, message)


def sized(kind: Kind, width: int, height: int) -> Shape:
    """Return the shape, once its size is known to be sane.

    Raises:
        JobError: `bad_image` for an empty picture, or one of more than MAX_PIXELS.
    """
    if width < 1 or height < 1:
        raise bad(f"the {NAMES[kind]} has no pixels: its size is {width}x{height}")
    if width * height > MAX_PIXELS:
        cap = MAX_PIXELS // 1_000_000
        raise bad(f"the {NAMES[kind]} is {width}x{height}, over the {cap} megapixels that are decoded")
    return Shape(kind=kind, width=width, height=height)


def check_tail(kind: Kind, data: bytes, end: int) -> None:
    """Refuse what follows the picture's end, unless it is padding.

    Raises:
        JobError: `bad_image`.
    """
    if end < len(data) and data[end:].strip(_PADDING):
        raise bad(f"the {NAMES[kind]} ends at byte {end} but {len(data) - end} bytes follow, which are not its own")


def foreign(data: bytes) -> str:
    """Say what bytes are that are no PNG, JPEG or WEBP."""
    if not data:
        return "nothing (0 bytes)"
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            return name
    if data[4:8] == b"ftyp":
        return f"a {data[8:12].decode('ascii', 'replace').strip().upper()!a} file"
    head = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for start, name in _TEXTS:
        if head.startswith(start):
            return "an SVG" if start == b"<?xml" and b"<svg" in head else name
    return "text" if head.isascii() and head.decode("ascii").replace("\n", " ").isprintable() else "no known picture"
