"""What is remembered for the user from folder to folder: where a manifest was run to, and which providers are proven.

It lies in `$XDG_STATE_HOME/batchflux`, by default `~/.local/state/batchflux`: one small JSON file a fact, each written
whole, so processes need not wait for each other. It only saves questions and first tries: where it cannot be read or
written, nothing else changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

PROVEN_SECONDS = 7 * 86_400.0  # a relay that worked a week ago may be another today


def proven(provider: str, model: str, style: str, base_url: str) -> bool:
    """Whether a picture of this provider, model and style was kept in the last seven days, in any folder."""
    at = _recall("proven", provider, model, style, base_url)
    return isinstance(at, float) and abs(time.time() - at) < PROVEN_SECONDS


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


def _remember(value: float | str, *name: str) -> None:
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
