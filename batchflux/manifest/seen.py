"""Which ids, keys and file names were met, in memory that a million of them do not notice.

The rule: only 64-bit hashes are kept, in an open-addressing table of 8 bytes a slot (16 MiB for a million entries,
as much again where the place is kept too). Two different values meet in one hash with a chance of 3 in 100 million
for a million entries; the hash of text is Python's own, keyed anew in each process, so nobody can aim at it.
"""

from __future__ import annotations

from array import array
from operator import lt

_EMPTY = 0
_FIRST_SLOTS = 1 << 10
_FULL = (1 << 64) - 1
_AT_ONCE = 500_000


class Seen:
    """A set of 64-bit hashes that only grows; with `places`, each keeps the number it was first added with."""

    __slots__ = ("_count", "_limit", "_mask", "_places", "_slots")

    def __init__(self, *, places: bool = False) -> None:
        self._mask = _FIRST_SLOTS - 1
        self._slots = array("Q", [0]) * _FIRST_SLOTS
        self._places = array("Q", [0]) * _FIRST_SLOTS if places else None
        self._count = 0
        self._limit = _FIRST_SLOTS * 5 // 8

    def __len__(self) -> int:
        return self._count

    def add(self, value: int, place: int = 0) -> int | None:
        """Add a hash (taken modulo 2**64; 0 counts as 1).

        Returns:
            None when it is new, else the place it was first added with (0 when places are not kept).
        """
        value = value & _FULL or 1
        slots, mask = self._slots, self._mask
        at = value & mask
        while (there := slots[at]) != _EMPTY:
            if there == value:
                return 0 if self._places is None else self._places[at]
            at = (at + 1) & mask
        slots[at] = value
        if self._places is not None:
            self._places[at] = place
        self._count += 1
        if self._count > self._limit:
            self._grow()
        return None

    def _grow(self) -> None:
        old, old_places = self._slots, self._places
        size = 2 * len(old)
        self._mask = mask = size - 1
        self._limit = size * 5 // 8
        self._slots = slots = array("Q", [0]) * size
        self._places = places = None if old_places is None else array("Q", [0]) * size
        for index, value in enumerate(old):
            if value == _EMPTY:
                continue
            at = value & mask
            while slots[at] != _EMPTY:
                at = (at + 1) & mask
            slots[at] = value
            if places is not None and old_places is not None:
                places[at] = old_places[index]


class Distinct:
    """Whether many texts all differ, told at the end: each is greater than the one before it, or all hashes differ.

    It holds 8 bytes a text, and 50 MB for a while at the end.
    """

    __slots__ = ("_hashes", "_last")

    def __init__(self) -> None:
        self._hashes = array("q")
        self._last: str | None = ""  # None once one was not greater

    def add(self, texts: list[str]) -> None:
        """Add texts, at least one."""
        if self._last is not None:
            rises = self._last < texts[0] and all(map(lt, texts, texts[1:]))
            self._last = texts[-1] if rises else None
        self._hashes.extend(map(hash, texts))

    def are(self) -> bool:
        """Whether all differ; two with one hash count as the same."""
        parts = len(self._hashes) // _AT_ONCE + 1
        return self._last is not None or all(self._part_differs(part, parts) for part in range(parts))

    def _part_differs(self, part: int, parts: int) -> bool:
        some = [value for value in self._hashes if value % parts == part]
        return len(set(some)) == len(some)
