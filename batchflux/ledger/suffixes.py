"""The rule: a picture's suffix follows its bytes, so a planned file name stands for all that may come of it."""

from __future__ import annotations

from batchflux.output.base import ALL_SUFFIXES


def followed(planned: str, actual: str) -> str:
    """Return the planned file name with the suffix that the picture's bytes gave the actual one."""
    if planned == actual:
        return planned
    stem, dot, suffix = planned.rpartition(".")
    _, _, wanted = actual.rpartition(".")
    if stem and dot + suffix.lower() in ALL_SUFFIXES and dot + wanted.lower() in ALL_SUFFIXES:
        return f"{stem}.{wanted}"
    return planned
