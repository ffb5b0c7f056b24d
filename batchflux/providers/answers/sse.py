"""Server-sent events of a whole stream.

The rule is the WHATWG parsing algorithm, with one leniency: an event without its closing blank line at the end of the
stream is still an event, because relays forget that line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


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
