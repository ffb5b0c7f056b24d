"""The bytes of a text file as lines of text, one at a time, packed or not, in any encoding.

Lines end in LF or CRLF, and stay as they are; in a file whose first line ends in CR alone all do, and end in LF here.
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchflux.errors import ReadError

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator
    from pathlib import Path

MAX_LINE = 16 << 20
BOMB_BYTES, BOMB_RATIO = 32 << 20, 200  # from so many bytes on, no table of rows that differ packs so well
LINE_COSTS = 16  # bytes that a line counts for besides its own: empty ones take time too
CHUNK = 1 << 18
_OTHERS = (  # the first bytes of files that are often named like tables, and what to do with them
    (b"PK\x03\x04", "is a packed file, as Excel's are; name it .xlsx where it is one, or save it as .csv"),
    (b"\xd0\xcf\x11\xe0", "is an old Excel file (.xls), or one with a password; save it as .xlsx without one"),
    (b"PAR1", "is a Parquet file; name it .parquet"),
    (b"\x1f\x8b", "is packed by gzip; name it so, as .csv.gz"),
    (b"%pdf", "is a PDF; save the table as .csv"),
    (b"{\\rtf", "is a formatted text (RTF); save it as plain text"),
    *((mark, "is a web page or XML and no table; open it, and save the table as .csv")
      for mark in (b"<!doctype", b"<html", b"<head", b"<meta", b"<table", b"<?xml")),
)  # fmt: skip
CR, LF = "\r", "\n"


@dataclass(frozen=True, slots=True)
class TextFile:
    """A text file of one encoding (a codec's name); `end` is what ends its lines."""

    path: Path
    zipped: bool
    encoding: str = "utf-8"
    end: str = LF

    def texts(self) -> Iterator[str]:
        """Yield the text piece by piece; a ReadError behind the last sound one says where it cannot be read further."""
        number, first = 1, True
        decode = codecs.getincrementaldecoder(self.encoding)().decode
        for chunk in chunks(self.path, zipped=self.zipped):
            try:
                text, bad = decode(chunk, final=not chunk), None
            except UnicodeDecodeError as error:
                text, bad = error.object[: error.start].decode(self.encoding, errors="replace"), error
            if first and text:
                text, first = text.removeprefix("\ufeff"), False
            number += text.count(self.end)
            yield text
            if bad is not None:
                name = "UTF-8" if self.encoding == "utf-8" else self.encoding
                raise ReadError(number, f"the byte 0x{bad.object[bad.start]:02x} is not {name}")

    def lines(self) -> Iterator[str]:
        """Yield the lines; a ReadError says which of them cannot be read."""
        number, rest = 1, ""
        for text in self.texts():
            *whole, rest = (rest + text).split(self.end)
            if len(rest) > MAX_LINE or (whole and len(whole[0]) > MAX_LINE):  # a piece is shorter than that
                raise ReadError(number, f"the line has more than {MAX_LINE} bytes")
            number += len(whole)
            for line in whole:
                yield line + LF
        if rest:
            yield rest


def check_file(path: Path) -> None:
    """Raise ReadError when there is no such file."""
    try:
        if not path.is_file():
            raise ReadError(None, "is not a file" if path.exists() else "does not exist")
    except OSError as error:
        raise ReadError(None, f"cannot be read: {error.strerror}") from None


def check_kind(head: bytes) -> None:
    """Raise ReadError when a file begins like one of another kind."""
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()[:16].lower()
    if says := next((says for mark, says in _OTHERS if start.startswith(mark.lower())), None):
        raise ReadError(None, says)


def _open(path: Path, *, zipped: bool) -> io.BufferedReader | gzip.GzipFile:
    try:
        check_file(path)
        return gzip.open(path, "rb") if zipped else path.open("rb")
    except OSError as error:
        raise ReadError(None, f"cannot be read: {error.strerror}") from None


def chunks(path: Path, *, zipped: bool) -> Iterator[bytes]:
    """Yield a file's bytes, unpacked, and at last none; a ReadError says that it is damaged or a bomb."""
    number, size = 1, 0
    with _open(path, zipped=zipped) as stream:
        most = max(BOMB_BYTES, BOMB_RATIO * path.stat().st_size) if zipped else None
        while True:
            try:
                chunk = stream.read1(CHUNK)
            except gzip.BadGzipFile:
                raise ReadError(number, "cannot be read further: it is not gzipped; take .gz from its name") from None
            except (OSError, EOFError, zlib.error) as error:
                raise ReadError(number, f"cannot be read further: {error}") from None
            lines = chunk.count(b"\n")
            number += lines
            size += len(chunk) + lines * LINE_COSTS
            if most is not None and size > most:
                message = f"the file unpacks to more than {BOMB_RATIO} times its size, as no table does"
                raise ReadError(number, f"{message}; unpack it first")
            yield chunk
            if not chunk:
                return
