"""What is remembered for the user from folder to folder: where a manifest was run to, and what providers are like.

It lies in `$XDG_STATE_HOME/batchflux`, by default `~/.local/state/batchflux`: one small JSON file a fact, each written
whole, so processes need not wait for each other. It only saves questions and first tries: where it cannot be read or
written, nothing else changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HOLDS = 7 * 86_400.0  # seconds; a relay that worked a week ago may be another today
MOST_ACTIVE = 1_000_000  # requests at once; what says more is damaged
SLOWEST = 1e-3  # requests a second; no provider allows less, and what says so is damaged


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What a key was found to allow at epoch second `at`: `rate` requests a second, `active` at once.

    None: no limit was met.
    """

    rate: float | None
    active: int | None
    at: float

    def as_data(self) -> dict[str, Any]:
        """Return it as `read_lesson` reads it."""
        return asdict(self)


def read_lesson(data: object) -> Lesson | None:
    """Return what was written of a lesson; None where it is none, or holds no more."""
    if not isinstance(data, dict):
        return None
    rate, active, at = (data.get(name) for name in ("rate", "active", "at"))
    sound = (
        (rate is None or (isinstance(rate, float) and SLOWEST <= rate < math.inf))
        and (active is None or (type(active) is int and 0 < active <= MOST_ACTIVE))
        and _holds(at)
    )
    return Lesson(rate=rate, active=active, at=at) if sound and isinstance(at, float) else None


def lesson(base_url: str, model: str, key: str) -> Lesson | None:
    """Return what the key of that name was found to allow in the last seven days, in any folder."""
    return read_lesson(_recall("lesson", base_url, model, key))


def note_lesson(base_url: str, model: str, key: str, found: Lesson) -> None:
    """Remember what the key of that name was found to allow."""
    _remember(found.as_data(), "lesson", base_url, model, key)


def _holds(at: object) -> bool:
    return isinstance(at, float) and abs(time.time() - at) < HOLDS


def proven(provider: str, model: str, style: str, base_url: str) -> bool:
    """Whether a picture of this provider, model and style was kept in the last seven days, in any folder."""
    return _holds(_recall("proven", provider, model, style, base_url))


def note_proven(provider: str, model: str, style: str, base_url: str) -> None:
    """Remember that a picture of this provider, model and style was kept just now."""
    _remember(time.time(), "proven", provider, model, style, base_url)


def folder_of(manifest: Path) -> Path | None:
    """Return the output folder that this manifest was last run to, absolute; None when none is known."""
    folder = _recall("folder", str(manifest.resolve()))
    return Path(folder) if isinstance(folder, str) else None


def note_folder(manifest: Path, folder: Path) -> None:
    """Remember that this manifest is run to that output folder."""
    _remember(str(folder.absolute()), "folder", str(manifest.resolve()))


def _recall(*name: str) -> object:
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # none, unreadable, no home, or not as we write it
        kept = json.loads(_file(name).read_text(encoding="utf-8"))
        if isinstance(kept, dict) and kept.get("name") == list(name):
            return kept.get("value")
    return None


def _remember(value: float | str | dict[str, Any], *name: str) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        path = _file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps({"name": name, "value": value}), encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _file(name: tuple[str, ...]) -> Path:
    """Return where a fact is kept; RuntimeError when the user has no home."""
    told = os.environ.get("XDG_STATE_HOME", "")
    base = Path(told) if Path(told).is_absolute() else Path.home() / ".local" / "state"
    digest = hashlib.sha256(json.dumps(name).encode()).hexdigest()[:32]
    return base / "batchflux" / f"{name[0]}-{digest}.json"
