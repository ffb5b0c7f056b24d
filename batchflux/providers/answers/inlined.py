"""Pictures within an answer's text, taken out of it before anything is searched.

Of a long run of base64 that begins as a picture, its first and last characters are left, by which it is known as what
it is, and a mark that stands for those between. So JSON, streams and prose are read at the price of their words. A run
is found by samples, and decoded as it is followed. What is left of it is still longer than any link that is fetched,
and than any line that base64 is wrapped at: it is read as the whole run would be.
"""

from __future__ import annotations

import binascii
import io
import re
import secrets
from typing import NamedTuple

from batchflux.providers.answers.signs import is_picture
from batchflux.providers.answers.untrusted import DECODED_AT_ONCE, decode_base64, without_head

LONG = 1 << 16  # characters; shorter runs are left as they are
_STRIDE = LONG // 2  # of two of them that meet in a long run, the second is all of it
_LEFT, _END = 10_000, 16  # characters that are left of a run: where a link or `data:` follows, its first belong to it
_PROOF = 64  # characters by which a picture is known
_RUN = re.compile(rb"[A-Za-z0-9+/_-]*")
_FOREIGN = bytes(_RUN.fullmatch(bytes((byte,))) is None for byte in range(256))  # a table: 1 for what is in no run
_STANDARD = bytes.maketrans(b"-_", b"+/")
_MARK = secrets.token_hex(16)  # nobody else can have written it
_MARKED = re.compile(rf"{_MARK}(\d{{8}})")


class _Picture(NamedTuple):
    """A picture's base64 as it stands in a text, without its padding, and its bytes."""

    text: memoryview
    data: bytes


class Inlined:
    """What was cut out of one answer."""

    def __init__(self) -> None:
        self._pictures: list[_Picture] = []
        self._numbers: dict[str, int] = {}  # by what is left of them

    def cut(self, text: bytes) -> bytes:
        """Return the text with little left of each long picture."""
        view, kept, done, at = memoryview(text), list[bytes | memoryview](), 0, 0
        while len(text) >= LONG and at < len(text):
            ahead = _RUN.match(view, at, at + _STRIDE)
            if ahead is None or ahead.end() < at + _STRIDE:
                at += _STRIDE
                continue
            before = bytes(view[max(done, at - _STRIDE) : at])
            begin = at - len(before) + before.translate(_FOREIGN).rfind(b"\1") + 1
            at, number = self._taken(view, begin)
            if number is not None:
                kept += [view[done:begin], self._left_of(number)]
                done = at
        return b"".join([*kept, view[done:]]) if kept else text

    def shortened(self, text: str) -> str:
        """Return a text that may have been put together from cut ones, cut as a whole."""
        if len(text) < LONG:
            return text
        data = self.whole(text).encode(errors="surrogatepass")
        cut = self.cut(data)
        return text if cut is data else cut.decode(errors="surrogatepass")

    def whole(self, text: str) -> str:
        """Return a text with all that was cut out of it."""
        kept, done = list[str](), 0
        for mark in _MARKED.finditer(text) if self._pictures else ():
            picture = str(self._pictures[int(mark[1])].text[:-_END], "ascii")
            kept += [text[done : max(done, mark.start() - _LEFT)], picture]
            done = mark.end()
        return "".join([*kept, text[done:]]) if kept else text

    def decoded(self, text: str) -> bytes:
        """Return what base64, bare or in a `data:` URL, is in bytes; UnreadableError when it is none."""
        number = self._numbers.get(without_head(text).strip().rstrip("="))
        return decode_base64(self.whole(text)) if number is None else self._pictures[number].data

    def _taken(self, view: memoryview, begin: int) -> tuple[int, int | None]:
        """Return where the run that begins here ends, and the number of its picture, None when it is no long one."""
        for number, known in enumerate(self._pictures):  # streams end with all that they told, once more
            end = begin + len(known.text)
            alike = bytes(view[begin : begin + _PROOF]) == bytes(known.text[:_PROOF])
            if alike and bytes(view[begin:end]) == bytes(known.text) and not _RUN.fullmatch(view, end, end + 1):
                return end, number
        end, data = _followed(view, begin)
        if data is None or end - begin < LONG:
            return end, None
        self._pictures.append(_Picture(view[begin:end], data))
        return end, len(self._pictures) - 1

    def _left_of(self, number: int) -> bytes:
        text = self._pictures[number].text
        left = bytes(text[:_LEFT]) + f"{_MARK}{number:08d}".encode() + bytes(text[-_END:])
        self._numbers[left.decode()] = number
        return left


def _followed(view: memoryview, begin: int) -> tuple[int, bytes | None]:
    """Return where the run that begins here ends, and its bytes when they begin as a picture's.

    It is gone through in pieces, so that other threads have the interpreter in between.
    """
    start = _decoded(bytes(view[begin : begin + _PROOF]).translate(_STANDARD))
    pieces: io.BytesIO | None = io.BytesIO() if start is not None and is_picture(start) else None
    end, length = begin, DECODED_AT_ONCE
    while length == DECODED_AT_ONCE:
        piece = view[end : end + DECODED_AT_ONCE]
        plain = pieces is not None and len(piece) == DECODED_AT_ONCE and piece[-1:].tobytes() != b"="
        data = _decoded(piece) if plain else None
        if data is None:  # it ends here, or is written as in URLs, or is no picture
            run = bytes(piece)
            length = run.translate(_FOREIGN).find(b"\1")
            length = len(run) if length < 0 else length
            data = None if pieces is None else _decoded(run[:length].translate(_STANDARD))
        end += length
        if pieces is not None and data is not None:
            pieces.write(data)
        else:
            pieces = None
    return end, None if pieces is None else pieces.getvalue()


def _decoded(run: bytes | memoryview) -> bytes | None:
    """Return what a run without its padding is in bytes; None when it holds anything else."""
    try:
        return binascii.a2b_base64(run if len(run) % 4 == 0 else bytes(run) + b"=" * (-len(run) % 4), strict_mode=True)
    except binascii.Error:
        return None
