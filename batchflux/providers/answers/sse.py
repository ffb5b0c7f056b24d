"""Server-sent events from bytes cut anywhere: the same events, whatever the packets.

The rule is the WHATWG parsing algorithm (CR, LF and CRLF end a line; one BOM; comments; a field without a colon;
data lines joined by LF), with one leniency: an event without its closing blank line at the end of the stream is
still an event, because relays forget that line. Lines are cut as bytes, which is safe since no byte of a multi-byte
UTF-8 character equals CR or LF; each byte is looked at once, so a 100 MB data URL costs linear work.
"""

from __future__ import annotations

from dataclasses import dataclass

LONGEST_EVENT = 100_000_000
_BOM = b"\xef\xbb\xbf"


class EventTooLongError(ValueError):
    """An event is longer than the parser holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event: its name (`message` when unnamed) and its data."""

    name: str
    data: str


class SSEParser:
    """Turns packets into events; `feed` each packet, then `close` once.

    Args:
        longest: bytes of one event that are held before `EventTooLongError` is raised.
    """

    def __init__(self, longest: int = LONGEST_EVENT) -> None:
        self._longest = longest
        self._held = 0
        self._line: list[bytes] = []
        self._after_cr = False
        self._at_start = True
        self._name = ""
        self._data: list[str] = []

    def feed(self, packet: bytes) -> list[Event]:
        """Return the events that this packet completes.

        Raises:
            EventTooLongError: an event grew beyond the bound.
        """
        if not packet:
            return []
        if self._after_cr:
            # A CR ended the line at once; the LF of a CRLF may only come with this packet.
            self._after_cr = False
            packet = packet.removeprefix(b"\n")
        events: list[Event] = []
        for piece in packet.splitlines(keepends=True):
            line = piece.rstrip(b"\r\n")
            self._hold(line)
            if len(line) == len(piece):
                break
            event = self._end_line()
            if event is not None:
                events.append(event)
        self._after_cr = packet.endswith(b"\r")
        return events

    def close(self) -> list[Event]:
        """Return the event that stood unfinished at the end of the stream, if any."""
        last = self._end_line() if self._line else None
        left = self._dispatch()
        return [event for event in (last, left) if event is not None]

    def _hold(self, line: bytes) -> None:
        if not line:
            return
        self._held += len(line)
        if self._held > self._longest:
            raise EventTooLongError(f"an event of the stream is longer than {self._longest} bytes")
        self._line.append(line)

    def _end_line(self) -> Event | None:
        line = b"".join(self._line)
        self._line.clear()
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if not line:
            return self._dispatch()
        if not self._field(line):
            self._held -= len(line)
        return None

    def _field(self, line: bytes) -> bool:
        """Take a field; return whether it has to be held."""
        name, _, value = line.partition(b":")
        text = value.removeprefix(b" ").decode("utf-8", "replace")
        if name == b"data":
            self._data.append(text)
            return True
        if name == b"event":
            self._name = text
        return False

    def _dispatch(self) -> Event | None:
        name, data = self._name, self._data
        self._name, self._data, self._held = "", [], 0
        return Event(name=name or "message", data="\n".join(data)) if data else None
