"""A notice, and what takes it to one address."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

SECONDS = 10.0  # of one try
START = "start"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One thing to tell: of `event` (`start` is one that only pings have), with a sentence for people.

    `body` is what a webhook gets, JSON; `text` is for people, `lines` are the last ones of the run; `number` tells
    notices apart, and is the same each time that one is tried. `exit_code` is there at a run's end.
    """

    event: str
    title: str
    text: str
    body: bytes
    number: str
    exit_code: int | None = None
    lines: str = ""


class NotToldError(Exception):
    """A notice did not arrive; the message is one for people, without the address. `again`: another try may help."""

    def __init__(self, message: str, *, again: bool) -> None:
        super().__init__(message)
        self.again = again


class Channel(Protocol):
    """Takes notices to one address, which `place` names in messages; `starts`: also that the run begins."""

    place: str
    starts: bool

    async def send(self, notice: Notice) -> None:
        """Try once; NotToldError: it did not arrive."""
