"""Server-sent events of a whole stream.

The rule is the WHATWG parsing algorithm, with one leniency: an event without its closing blank line at the end of the
stream is still an event, because relays forget that line.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from batchflux.providers.answers.signs import TEXT_KEYS

if TYPE_CHECKING:
    from collections.abc import Iterator

_SOON = 1 << 17  # bytes of a stream, in which its first seam is looked for
_RUN = rb"[A-Za-z0-9+/_-]{64}"
_SEAM = re.compile(
    rb'("(?<=%b")[]}]{1,9}\r?\n\r?\n)(data:[^\r\n]{0,500}"(?:%b)":[ ]?")(?=%b)'
    % (_RUN, "|".join(sorted(TEXT_KEYS)).encode(), _RUN)
)


class Event(NamedTuple):
    """One event: its data, its name, and whether the stream went on behind it."""

    data: str
    name: str = "message"
    closed: bool = True


def events(text: str) -> Iterator[Event]:
    """Yield the events of a stream, which starts without BOM."""
    name, data = "", list[str]()
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    for line, ended in _lines(text):
        field, _, value = line.partition(":")
        if field == "data":
            data.append(value.removeprefix(" "))
        elif field == "event":
            name = value.removeprefix(" ")
        elif not line:
            if data:
                yield Event(name=name or "message", data="\n".join(data), closed=ended)
            name, data = "", []


def _lines(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the lines, an empty one at last, and whether each ended: one by one, since a stream may have megabytes."""
    at = 0
    while (end := text.find("\n", at)) >= 0:
        yield text[at:end], True
        at = end + 1
    yield text[at:], False
    yield "", False


def joined(stream: bytes) -> bytes:
    """Return a stream with base64 whose frames are alike but for the next piece of one text, with these in one frame.

    A seam is the end of a frame and the beginning of the next, within base64. It stays where the next frame begins
    with all that the last one told, and where JSON that cannot be read would take another with it.
    """
    seam = _SEAM.search(stream, 0, _SOON)
    if seam is None:
        return stream
    end, begin = seam.groups()
    closed = stream.rfind(end) + len(end)
    pieces = stream[:closed].split(seam[0])
    kept = pieces[:1]
    for former, piece in pairwise(pieces):
        before = former if _is_plain(former) else former.rpartition(begin)[2]
        after = piece if _is_plain(piece) else piece.partition(end)[0]
        follows = _is_plain(before) and _is_plain(after) and not after.startswith(before)
        kept += [piece] if follows else [seam[0], piece]
    return b"".join([*kept, stream[closed:]])


def _is_plain(text: bytes) -> bool:
    return b'"' not in text and b"\\" not in text
