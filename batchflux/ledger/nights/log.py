"""Reads run.log: what each run of a folder said of its waits, outages and faults.

The file is read a line at a time, however long it is, and of a line no more than LONGEST bytes: one that is longer, cut
off or no line of ours tells nothing. Most lines are of jobs and attempts, of which the ledger knows more; they are
counted, and not parsed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONGEST = 1 << 16
MOST_KEPT = 500  # notes, and stretches of time, of one run
CLOSE, _NEAR = 2.0, 8  # seconds between two stretches that are one; how many of the last ones are looked at for it
OUTAGE, WAIT, MIRROR = "outage", "wait", "mirror"
_BEGINS = {"away": OUTAGE, "key_away": OUTAGE, "waits": WAIT, "mirror_away": MIRROR}
_ENDS = {"back": OUTAGE, "goes_on": WAIT, "mirror_back": MIRROR}
_NOTES = frozenset(
    {"key_refused", "signal", "cut_off", "limits_changed", "limits_kept", "bug", "mirror_refused", "mirror_ended"}
    | {"batch_failed", "batch_refused", "webhook_keys_failed"}
)
_HEAD = re.compile(rb'\{"at": "([0-9T:.\-]{19,32}Z)", "event": "(\w{1,40})"')
_CAUSE = re.compile(
    r"(?:not reachable|not there, pictures are kept here meanwhile|not there): (.*?)(?:; probing, .*)?$", re.DOTALL
)
_ENDED = re.compile(rb'[,{] ?"status": "(done|failed|unknown)"')


@dataclass(slots=True, kw_only=True)
class Stretch:
    """A time in which something was waited for: `what` of a `kind` (OUTAGE, WAIT, MIRROR), and `why`.

    Times in epoch seconds; `until` is None while it lasts.
    """

    kind: str
    what: str
    why: str
    since: float
    until: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What happened at one moment, in epoch seconds: an event's name and a sentence."""

    at: float
    event: str
    text: str


@dataclass(slots=True, kw_only=True)
class Logged:
    """One run as the log has it; `ended` and what `end` holds (exit_code, reason, message) are of its last line.

    `made` counts the jobs that ended, by status; `waited` has the seconds of all stretches by kind and what it was,
    also of those that are too many to be kept one by one, and `times` how many there were.
    """

    began: float
    name: str
    last_at: float
    ended: float | None = None
    end: dict[str, Any] = field(default_factory=dict)
    made: dict[str, int] = field(default_factory=lambda: {"done": 0, "failed": 0, "unknown": 0})
    stretches: list[Stretch] = field(default_factory=list)
    waited: dict[tuple[str, str], float] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    more_notes: int = 0
    _lasting: dict[tuple[str, str], Stretch] = field(default_factory=dict)

    def begin(self, stretch: Stretch) -> None:
        """Let a stretch begin, if none of what it is lasts already."""
        self._lasting.setdefault((stretch.kind, stretch.what), stretch)

    def end_of(self, kind: str, what: str, at: float) -> None:
        """Let a stretch end; one that follows close upon another of what it is makes that one longer."""
        found = self._lasting.pop((kind, what), None)
        if found is None:
            return
        found.until = max(at, found.since)
        self.waited[kind, what] = self.waited.get((kind, what), 0.0) + found.until - found.since
        last = next((one for one in reversed(self.stretches[-_NEAR:]) if (one.kind, one.what) == (kind, what)), None)
        if last is not None and last.until is not None and found.since - last.until <= CLOSE:
            last.until = found.until
        elif len(self.stretches) < MOST_KEPT:
            self.stretches.append(found)

    def close(self, at: float) -> None:
        """End all that still lasts."""
        for kind, what in list(self._lasting):
            self.end_of(kind, what, at)
        self.stretches.sort(key=lambda one: one.since)


def logged(path: Path) -> list[Logged]:
    """Return the runs that a run.log tells of, as time went; none when there is no log.

    The last one may go on; `close` it to have what lasts.
    """
    runs: list[Logged] = []
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return runs
    with file:
        for line in _lines(file):
            if (head := _HEAD.match(line)) is not None:
                _take(runs, head[2].decode(), head[1].decode(), line)
    for run in runs[:-1]:
        run.close(run.last_at)
    return runs


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the whole lines of a file, without those that are longer than LONGEST."""
    whole = True
    while piece := file.readline(LONGEST):
        ends = piece.endswith(b"\n")
        if whole and ends:
            yield piece
        whole = ends


def _take(runs: list[Logged], event: str, at_text: str, line: bytes) -> None:
    """Let a line add to the last run, or begin another."""
    try:
        at = datetime.fromisoformat(at_text).timestamp()
    except ValueError:
        return
    if event == "run_started":
        fields = _parsed(line)
        runs.append(Logged(began=at, name=str(fields.get("name", "")), last_at=at))
        return
    if not runs:
        return
    run = runs[-1]
    run.last_at = max(run.last_at, at)
    if event == "job_ended":
        if (found := _ENDED.search(line)) is not None:
            run.made[found[1].decode()] += 1
    elif event == "run_ended":
        run.end, run.ended = _parsed(line), at
        run.close(at)
    elif event in _BEGINS or event in _ENDS or event in _NOTES:
        _happened(run, event, at, _parsed(line))


def _happened(run: Logged, event: str, at: float, fields: dict[str, Any]) -> None:
    kind = _BEGINS.get(event) or _ENDS.get(event)
    text = str(fields.get("message") or fields.get("signal") or fields.get("why") or "")
    if kind is not None:
        what = str(fields.get("reason" if kind == WAIT else "place") or kind)
        what = what.replace("provider", str(fields.get("provider") or "provider"), kind == OUTAGE)
        if event in _BEGINS:
            found = _CAUSE.search(text)
            run.begin(Stretch(kind=kind, what=what, why=found[1] if found else text, since=at))
        else:
            run.end_of(kind, what, at)
    elif len(run.notes) < MOST_KEPT:
        run.notes.append(Note(at=at, event=event, text=text))
    else:
        run.more_notes += 1


def _parsed(line: bytes) -> dict[str, Any]:
    """Return a line's fields; {} of what is no JSON object."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}
