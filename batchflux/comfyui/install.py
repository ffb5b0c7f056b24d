"""Copies the node pack into a ComfyUI, and brings it up to date there.

`installed.txt` in its folder lists what was put there: only those files are ever changed or removed, and a folder
without it is somebody else's.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from batchflux.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

PACK = Path(__file__).parent / "pack"
NAME, NODES, LIST = "batchflux", "custom_nodes", "installed.txt"
_KINDS = frozenset({".py", ".toml", ".md"})


def install(given: Path) -> Path:
    """Put the pack below a ComfyUI's folder, or its custom_nodes, and return where; UsageError."""
    place = _nodes(given) / NAME
    files = {path.name: path.read_bytes() for path in sorted(PACK.iterdir()) if path.suffix in _KINDS}
    had = _listed(place)
    foreign = [name for name in files if name not in had and os.path.lexists(place / name)]
    if foreign:
        raise UsageError(f"{place / foreign[0]} was not put there by batchflux: move it away, then install again.")
    try:
        place.mkdir(exist_ok=True)
        _write(place / LIST, "".join(f"{name}\n" for name in {**dict.fromkeys(had), **files}).encode())
        for name, data in files.items():
            _write(place / name, data)
        for name in had - files.keys():
            (place / name).unlink(missing_ok=True)
        _write(place / LIST, "".join(f"{name}\n" for name in files).encode())
    except OSError as error:
        raise UsageError(f"{place} cannot be written: {error.strerror}.") from None
    return place


def _nodes(given: Path) -> Path:
    """Return the folder of ComfyUI's that has its custom nodes."""
    for place in (given, given / NODES):
        if place.name == NODES and place.is_dir():
            return place
    raise UsageError(f"{given} has no {NODES}: name the folder that ComfyUI lies in, or its {NODES}.")


def _listed(place: Path) -> frozenset[str]:
    """Return the names of the files that were put there before; UsageError where the folder is not ours."""
    if not os.path.lexists(place):
        return frozenset()
    try:
        lines = (place / LIST).read_text(encoding="utf-8").splitlines() if not place.is_symlink() else None
    except (OSError, ValueError):
        lines = None
    if lines is None:
        raise UsageError(f"{place} was not put there by batchflux: move it away, then install again.")
    return frozenset(_names(lines))


def _names(lines: list[str]) -> Iterator[str]:
    yield from (line for line in lines if Path(line).name == line and Path(line).suffix in _KINDS)


def _write(path: Path, data: bytes) -> None:
    """Write a file so that ComfyUI, which may be starting, finds the old one or the new one whole."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)
