"""Inputs by chance: the seeds of a target, changed. The same seed number gives the same inputs everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

LONGEST = 200_000


def mutated(chance: Random, seeds: list[bytes], words: tuple[bytes, ...]) -> bytes:
    """One of the seeds with a few changes: bytes dropped, changed, put in, repeated, taken from another seed, cut."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((1, 1, 2, 3, 5, 8))):
        at, length = chance.randrange(len(data) + 1), chance.choice((1, 1, 2, 4, 12, 60))
        match chance.randrange(9):
            case 0:
                data[at : at + length] = b""
            case 1:
                data[at : at + length] = chance.randbytes(length)
            case 2 | 3:
                data[at:at] = chance.choice(words)
            case 4:
                data[at : at + length] = chance.choice(words)
            case 5:
                data[at:at] = data[at : at + length * 4] * chance.choice((1, 1, 3, 50))
            case 6:
                other = chance.choice(seeds)
                start = chance.randrange(len(other) + 1)
                data[at:at] = other[start : start + length * 4]
            case 7:
                data[at:at] = chance.choice(words) * chance.choice((2, 100, 2000))
            case _:
                del data[at:]
    return bytes(data[:LONGEST])
