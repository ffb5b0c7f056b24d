"""The rule: a picture's suffix follows its bytes, so a planned file name stands for all that may come of it."""

from __future__ import annotations

from pathlib import PurePosixPath

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")  # those that follow a picture's bytes, see storage/images.py


def followed(planned: str, actual: str) -> str:
    """Return the planned file name with the suffix that the picture's bytes gave the actual one."""
    if planned == actual:
        return planned
    stem, dot, suffix = planned.rpartition(".")
    _, _, wanted = actual.rpartition(".")
    if stem and dot + suffix.lower() in SUFFIXES and dot + wanted.lower() in SUFFIXES:
        return f"{stem}.{wanted}"
    return planned


def variants(name: str) -> list[str]:
    """Return all file names that a picture planned as `name` may come to have."""
    path = PurePosixPath(name)
    if path.suffix.lower() not in SUFFIXES:
        return [name]
    return list({name, *(str(path.with_suffix(suffix)) for suffix in SUFFIXES)})
