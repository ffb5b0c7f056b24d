"""Which encoding a text file is in: by its byte order mark, its zero bytes, by being UTF-8; else by what it would say.

Of what is none of these charset-normalizer finds the encodings that give text. One is certain where all others would
give a mess; where two would give words, the user is asked, and shown both.
"""

from __future__ import annotations

import codecs
import re
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from batchflux.errors import ReadError, quoted
from batchflux.tables.streams import CR, LF, TextFile, check_file, check_kind, chunks

if TYPE_CHECKING:
    from collections.abc import Iterator

_MARKS = (  # the longer ones first: that of UTF-16 begins that of UTF-32
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_WIDE = tuple(name for _, name in _MARKS[1:])
_ASIAN = "gb18030 big5 cp932 euc_jp cp949"
_LEGACY = f"{_ASIAN} cp1252 cp1250 cp1251 cp1253 cp1254 cp1255 cp1256 cp1257 mac_roman koi8_r cp850".split()
SHOWN_AS = {"gb18030": "gbk", "cp932": "shift_jis", "cp949": "euc_kr"}  # as people know them
_SAMPLE, _LINE = 32 << 10, 2 << 10  # bytes looked at in all, and of one line
_MESS, _SURE, _FAR = 0.5, 0.02, 0.2  # the share of a mess: where it is no text, text for sure, and how far the next is
_EVIDENCE = 24  # bytes that are not ASCII; of fewer any encoding may make words
_READINGS = 3
_DAMAGED = 10  # so many times more bytes are UTF-8 than are not, where a file of it is damaged
_UTF8 = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_HIGH = re.compile(rb"[\x80-\xff]")
_PARTS = frozenset("\r\n")


def named(encoding: str) -> str:
    """Return a codec's name for what the user wrote; a ValueError says that it is none for a table."""
    try:
        name = codecs.lookup(encoding.strip()).name
        plain = "a,\n".encode(name)
    except (LookupError, UnicodeError, ValueError):
        name, plain = "", b""
    if name in {"utf-16", "utf-32"}:
        return name
    if plain != b"a,\n" and name not in _WIDE:
        raise ValueError(
            f"found {quoted(encoding)}; allowed is an encoding, as utf-8, cp1252, gbk, shift_jis or utf-16"
        )
    return {"utf-8-sig": "utf-8", "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932"}.get(name, name)


def text_file(path: Path, *, zipped: bool, encoding: str | None) -> tuple[TextFile, bool]:
    """Return how a file is read, and whether its encoding was found out; a ReadError says that it must be told."""
    check_file(path)
    found = path.stat()
    made, guessed = _text_file(str(path), zipped, encoding, (found.st_size, found.st_mtime_ns))
    return made, guessed


@lru_cache(maxsize=64)
def _text_file(path: str, zipped: bool, encoding: str | None, _state: tuple[int, int]) -> tuple[TextFile, bool]:  # noqa: FBT001  a key of the cache
    file = TextFile(Path(path), zipped)
    head = next(chunks(file.path, zipped=zipped))
    check_kind(head)
    guessed = False
    if encoding is None:
        encoding = _marked(head) or _zeros(head)
        if encoding is None and (bad := _not_utf8(file)) is not None:
            encoding, guessed = _guessed(file, bad), True
    elif encoding in {"utf-16", "utf-32"}:
        encoding = _marked(head) or _zeros(head) or f"{encoding}-le"
    file = replace(file, encoding=encoding or "utf-8")
    return replace(file, end=_line_end(codecs.getincrementaldecoder(file.encoding)("replace").decode(head))), guessed


def _marked(head: bytes) -> str | None:
    return next((name for mark, name in _MARKS if head.startswith(mark)), None)


def _zeros(head: bytes) -> str | None:
    """Return the wide encoding that zero bytes show: in one of them they are delimiters, line ends and letters."""
    if b"\0" not in head:
        return None
    for name in _WIDE:
        with suppress(UnicodeDecodeError):
            text = codecs.getincrementaldecoder(name)().decode(head)
            if "\0" not in text and not _PARTS.isdisjoint(text):
                return name
    return None


def _line_end(head: str) -> str:
    """Return what ends the first line: CR where no LF follows; some programs write CRCRLF."""
    inside = False
    for at, char in enumerate(head):
        inside ^= char == '"'
        if char in {CR, LF} and not inside:
            return CR if char == CR and head[at:].lstrip(CR)[:1] not in {LF, ""} else LF
    return CR if CR in head and LF not in head else LF


def _not_utf8(file: TextFile) -> ReadError | None:
    decode = codecs.getincrementaldecoder("utf-8")().decode
    for chunk in chunks(file.path, zipped=file.zipped):
        try:
            decode(chunk, final=not chunk)
        except UnicodeDecodeError:
            break
    else:
        return None
    try:
        for _ in file.lines():
            pass
    except ReadError as error:
        return error
    return None


def _guessed(file: TextFile, bad: ReadError) -> str:
    sample = b"".join(_telling(file))
    wrong = len(_HIGH.findall(_UTF8.sub(b"", sample)))
    if len(_HIGH.findall(sample)) > _DAMAGED * wrong:
        raise ReadError(bad.line, f"{bad.message}, as all others are; mend that line, or save the file as UTF-8 again")
    readings = _readings(sample) if b"\0" not in sample else []  # which no text has
    (best, _, mess), *others = readings or [("", "", 1.0)]
    evidence = len(_HIGH.findall(sample)) >= _EVIDENCE
    if evidence and mess <= _SURE and all(other - mess >= _FAR for _, _, other in others):
        return best
    shown = _shown(readings)
    remedy = "save the file as UTF-8, or add encoding: to the job"
    if shown:
        ways = " or ".join(f"{quoted(_part(text))} with {name}" for name, text in shown)
        remedy = f"say how the file is encoded: {ways}; {remedy}, as encoding: {shown[0][0]}"
    raise ReadError(bad.line, f"{bad.message}; {remedy}")


def _telling(file: TextFile) -> Iterator[bytes]:
    """Yield lines that are not ASCII: as many as are looked at, and every further one that has a new byte."""
    seen: set[bytes] = set()
    size, rest = 0, b""
    for chunk in chunks(file.path, zipped=file.zipped):
        *lines, rest = re.split(rb"[\r\n]", rest[-_LINE:] + chunk)
        for line in lines if chunk else [rest]:
            high = set(_HIGH.findall(line))
            if high and (size <= _SAMPLE or not high <= seen):
                seen |= high
                cut = line[:_LINE]
                cut = cut if cut == line else cut.rstrip(bytes(range(128, 256)))
                size += len(cut)
                yield cut + b"\n"


def _readings(sample: bytes) -> list[tuple[str, str, float]]:
    """Return what the sample would say in each encoding that gives text: its name, the text and how much of a mess."""
    from charset_normalizer import from_bytes  # noqa: PLC0415  only what is not UTF-8 needs it

    matches = from_bytes(sample, cp_isolation=list(_LEGACY), threshold=_MESS, preemptive_behaviour=False)
    made: dict[str, tuple[str, str, float]] = {}
    for match in matches:
        names = {match.encoding, *match.could_be_from_charset}
        name = next((one for one in ("cp1252", *_LEGACY) if one in names), match.encoding)
        text = str(match)
        if text not in made:
            made[text] = (name, text, match.chaos)
    return sorted(made.values(), key=lambda reading: reading[2])


def _shown(readings: list[tuple[str, str, float]]) -> list[tuple[str, str]]:
    """Return the readings that are shown: the best, and the commonest encodings among the others."""
    common = ("cp1252", "gb18030", "cp932", "big5", "cp949", "cp1250", "cp1251")
    rank = {name: at for at, name in enumerate(common)}
    likely = [one for one in readings if one[2] - readings[0][2] < _FAR]  # none of no readings
    ordered = sorted(likely, key=lambda one: rank.get(one[0], len(rank)))[:_READINGS]
    return [(SHOWN_AS.get(name, name), text) for name, text, _ in ordered]


def _part(text: str) -> str:
    """Return the words around the first letter that is not ASCII."""
    line = next((one for one in text.split("\n") if not one.isascii()), "")
    at = next((at for at, char in enumerate(line) if not char.isascii()), 0)
    return line[max(0, at - 10) : at + 14].strip()
