"""Chance that repeats: every number drawn is a pure function of what it is drawn for, in every process."""

from __future__ import annotations

from hashlib import blake2b

_RANGE = 1 << 64


def fraction(*parts: object) -> float:
    """Return a number in [0, 1) that depends on `parts` and on nothing else."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()) / _RANGE


def between(low: float, high: float, *parts: object) -> float:
    """Return a number in [low, high) that depends on `parts` only."""
    return low + (high - low) * fraction(*parts)
