"""One address that is told how a run goes. It is a secret, and is never shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from batchflux.redaction import HIDDEN

Event = Literal["end", "stop", "budget", "provider"]
EVENTS: tuple[Event, ...] = get_args(Event)
Kind = Literal["webhook", "ping", "apprise"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LEFT_OUT = f"/{HIDDEN}"  # in place of an address, but for its scheme and host
_ONE: dict[str, Any] = {
    "type": "object",
    "properties": {**{kind: {"type": "string"} for kind in KINDS}, "on": {}},
    "additionalProperties": False,
    "oneOf": [{"required": [kind]} for kind in KINDS],
}
_ONE["properties"]["on"] = {"anyOf": [{"enum": [*EVENTS]}, {"type": "array", "items": {"enum": [*EVENTS]}}]}
_EITHER = {"anyOf": [{"type": "string"}, _ONE]}
SCHEMA: dict[str, Any] = {"anyOf": [{"type": ["string", "null"]}, _ONE, {"type": "array", "items": _EITHER}]}


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeTarget:
    """One address that is told of the events in `on`, and how it is spoken to. `url` is a secret; `place` is not."""

    kind: Kind
    url: str = field(repr=False)
    on: frozenset[Event] = frozenset(EVENTS)

    @property
    def place(self) -> str:
        """How a message calls it: by its kind and host; of apprise's by the service, whose host is often a secret."""
        parts = urlsplit(self.url)
        if self.kind == "apprise":
            return f"apprise ({parts.scheme})"
        return f"{self.kind} at {parts.netloc.rpartition('@')[2]}"

    @property
    def shown(self) -> str:
        """The address without what makes it a secret."""
        parts = urlsplit(self.url)
        host = "" if self.kind == "apprise" else parts.netloc.rpartition("@")[2]
        return f"{parts.scheme}://{host}{LEFT_OUT}"
