"""The runs of output folders beside each other: those of the same name, as time went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchflux.errors import UsageError
from batchflux.ledger.connection import reading
from batchflux.ledger.nights.night import nights
from batchflux.output.base import LEDGER
from batchflux.output.folder import FolderLock, ledger_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from batchflux.ledger.nights.night import Night


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The runs of one name, each with its output folder."""

    name: str
    runs: tuple[tuple[Path, Night], ...]


def histories(places: Sequence[Path], now: float) -> list[History]:
    """Return the runs of output folders, or of those that lie in these folders, as of epoch second `now`.

    Raises UsageError: a place is no output folder and has none in it.
    """
    found: dict[str, list[tuple[Path, Night]]] = {}
    for folder in dict.fromkeys(folder for place in places for folder in folders_in(place)):
        with reading(ledger_of(folder)) as connection:
            for night in nights(folder, connection, now, running=FolderLock(folder).is_held()):
                found.setdefault(night.name, []).append((folder, night))
    return [
        History(name=name, runs=tuple(sorted(runs, key=lambda one: one[1].began)))
        for name, runs in sorted(found.items())
    ]


def folders_in(place: Path) -> list[Path]:
    """Return a place if it is an output folder, else the output folders in it; UsageError without any."""
    if (place / LEDGER).is_file():
        return [place]
    inside = sorted(ledger.parent for ledger in place.glob(f"*/{LEDGER}") if ledger.stat().st_size)
    if not inside:
        raise UsageError(f"{place} is no output folder and has none in it: name the folder that a run wrote to.")
    return inside
