"""Pictures within an answer's text, taken out of it before anything is searched.

A long run of base64 is cut down to a short one: its first characters, by which it is known as what it is, and a mark
that stands for the rest. So JSON, streams and prose are read at the price of their words, whatever is between them. A
run is found by samples, and decoded as it is followed. What is left of it is still longer than any link that is
fetched, and than any line that base64 is wrapped at: it is read as the whole run would be.
"""

from __future__ import annotations

import binascii
import re
import secrets
from typing import NamedTuple

from batchflux.providers.answers.signs import is_picture
from batchflux.providers.answers.untrusted import DECODED_AT_ONCE, decode_base64, without_head

LONG = 1 << 16  # characters; shorter runs are left as they are
_STRIDE = LONG // 2  # of two of them that meet in a long run, the second is all of it
_LEFT = 10_000  # characters that are left of a run
_PROOF = 64  # characters by which a picture is known
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_"
_RUN = re.compile(rb"[A-Za-z0-9+/_-]*")
_STANDARD = bytes.maketrans(b"-_", b"+/")
_MARK = secrets.token_hex(16)  # nobody else can have written it
_MARKED = re.compile(rf"{_MARK}(\d{{8}})")


class _Run(NamedTuple):
    """A run as it stands in a text, and decoded where it begins as a picture does."""

    text: memoryview
    data: bytes | None


class Inlined:
    """What was cut out of one answer."""

    def __init__(self) -> None:
        self._runs: list[_Run] = []
        self._marks: dict[str, int] = {}  # by what is left of a run

    def cut(self, text: bytes | bytearray) -> bytes | bytearray:
        """Return the text with little left of each long run; it must not be changed from now on."""
        view, kept, done, at = memoryview(text), list[bytes | memoryview](), 0, 0
        while len(text) >= LONG and at < len(text):
            ahead = _RUN.match(view, at, at + _STRIDE)
            if ahead is None or ahead.end() < at + _STRIDE:
                at += _STRIDE
                continue
            before = bytes(view[max(done, at - _STRIDE) : at])
            begin = at - len(before) + len(before.rstrip(_ALPHABET))
            run = self._known(view, begin) or _followed(view, begin)
            at = max(at + _STRIDE, end := begin + len(run.text))
            if len(run.text) >= LONG:
                kept += [view[done:begin], self._left_of(run)]
                done = at = end
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
        for mark in _MARKED.finditer(text) if _MARK in text else ():
            kept += [text[done : max(done, mark.start() - _LEFT)], str(self._runs[int(mark[1])].text, "ascii")]
            done = mark.end()
        return "".join([*kept, text[done:]]) if kept else text

    def decoded(self, text: str) -> bytes:
        """Return what base64, bare or in a `data:` URL, is in bytes; UnreadableError when it is none."""
        number = self._marks.get(without_head(text).strip().rstrip("="))
        data = None if number is None else self._runs[number].data
        return decode_base64(self.whole(text)) if data is None else data

    def _known(self, view: memoryview, begin: int) -> _Run | None:
        """Return a run that came before and comes again: streams end with all that they told."""
        for run in self._runs:
            end = begin + len(run.text)
            alike = bytes(view[begin : begin + _PROOF]) == bytes(run.text[:_PROOF])
            if alike and bytes(view[begin:end]) == bytes(run.text) and bytes(view[end : end + 1]) not in _ALPHABET:
                return run
        return None

    def _left_of(self, run: _Run) -> bytes:
        number = next((number for number, known in enumerate(self._runs) if known is run), len(self._runs))
        if number == len(self._runs):
            self._runs.append(run)
        left = bytes(run.text[:_LEFT]) + f"{_MARK}{number:08d}".encode()
        self._marks[left.decode()] = number
        return left


def _followed(view: memoryview, begin: int) -> _Run:
    """Return the run that begins here, decoded in pieces, so that other threads have the interpreter in between."""
    pieces: list[bytes] | None = [] if _is_picture(view[begin : begin + _PROOF]) else None
    end, goes_on = begin, True
    while goes_on:
        piece = view[end : end + DECODED_AT_ONCE]
        data = None if pieces is None or piece[-1:].tobytes() == b"=" else _decoded(piece)
        length = len(piece)
        if data is None or length < DECODED_AT_ONCE:  # it ends here, or is written as in URLs
            run = _RUN.match(piece)
            length = run.end() if run is not None else 0
            data = None if pieces is None else _decoded(bytes(piece[:length]).translate(_STANDARD))
        if data is None:
            pieces = None
        if pieces is not None and data is not None:
            pieces.append(data)
        end += length
        goes_on = length == DECODED_AT_ONCE
    return _Run(view[begin:end], None if pieces is None else b"".join(pieces))


def _is_picture(start: memoryview) -> bool:
    return is_picture(_decoded(bytes(start).translate(_STANDARD)) or b"")


def _decoded(run: bytes | memoryview) -> bytes | None:
    """Return what a run without its padding is in bytes; None when it holds anything else."""
    try:
        return binascii.a2b_base64(run if len(run) % 4 == 0 else bytes(run) + b"=" * (-len(run) % 4), strict_mode=True)
    except binascii.Error:
        return None
