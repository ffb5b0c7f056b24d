"""Pictures that look the same: told by how brightness runs over them, and by their colours, with Pillow alone.

A picture has 64 bits, each whether it gets brighter from one place to the next (a difference hash), and the colours of
16 fields. Two look the same where at most NEAR bits differ and no field's colour by more than SHADE: so one that was
scaled, or encoded anew, is found, and a mug in another colour is another mug. Of bits that differ in at most three
places, one of four groups is equal, and mean colours are as near as those of fields: so what may be near is looked up.
"""

from __future__ import annotations

import contextlib
import io
import sqlite3
import struct
import zlib
from typing import NamedTuple, Self

from PIL import Image

NEAR, SHADE = 3, 12
_GROUPS, _GROUP_BITS = 4, 16
_WIDE, _HIGH, _FIELDS = 9, 8, 4
_MEANS = ("red", "green", "blue")
_BETWEEN = " AND ".join(f"{mean} BETWEEN ? AND ?" for mean in _MEANS)
_SAME = " UNION ".join(f"SELECT number FROM looks WHERE g{one} = ? AND {_BETWEEN}" for one in range(_GROUPS))  # noqa: S608  constants
_NEARBY = f"SELECT id, bits, colours FROM looks WHERE number IN ({_SAME}) ORDER BY number"  # noqa: S608  constants
_BROKEN = (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, SyntaxError, TypeError)
_BROKEN_TOO = (ValueError, Warning, Image.DecompressionBombError, struct.error, zlib.error)


class Look(NamedTuple):
    """What a picture looks like: `bits`, and the colours of its fields, three bytes each."""

    bits: int
    colours: bytes

    @classmethod
    def of(cls, data: bytes) -> Self | None:
        """Look at a picture; None where it cannot be decoded."""
        with contextlib.suppress(*_BROKEN, *_BROKEN_TOO), Image.open(io.BytesIO(data)) as picture:
            picture.draft("RGB", (_WIDE * 8, _HIGH * 8))
            small = picture.convert("RGB").resize((_WIDE * 4, _HIGH * 4), Image.Resampling.BOX, reducing_gap=2.0)
            grey = small.convert("L").resize((_WIDE, _HIGH), Image.Resampling.BOX).tobytes()
            bits = 0
            for row in range(_HIGH):
                for at in range(row * _WIDE, row * _WIDE + _WIDE - 1):
                    bits = bits << 1 | (grey[at] < grey[at + 1])
            return cls(bits, small.resize((_FIELDS, _FIELDS), Image.Resampling.BOX).tobytes())
        return None

    def is_near(self, other: Look) -> bool:
        """Whether two pictures look the same."""
        if (self.bits ^ other.bits).bit_count() > NEAR:
            return False
        return all(abs(one - two) <= SHADE for one, two in zip(self.colours, other.colours, strict=True))

    @property
    def groups(self) -> list[int]:
        """The bits in groups, each of bits from all over the picture."""
        found = [0] * _GROUPS
        for place in range(_GROUPS * _GROUP_BITS):
            found[place % _GROUPS] = found[place % _GROUPS] << 1 | (self.bits >> place & 1)
        return found

    @property
    def means(self) -> list[int]:
        """The mean of red, green and blue."""
        return [sum(self.colours[one::3]) // _FIELDS**2 for one in range(3)]


class Looks:
    """The looks of the pictures that were met, by the id of each; on disk where they are many."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect("", isolation_level=None)
        groups = [f"g{one}" for one in range(_GROUPS)]
        columns = ", ".join(["number INTEGER PRIMARY KEY", "id", "bits", "colours", *_MEANS, *groups])
        self._connection.execute(f"CREATE TABLE looks ({columns})")
        for group in groups:
            self._connection.execute(f"CREATE INDEX by_{group} ON looks ({group}, {', '.join(_MEANS)})")
        self._connection.execute("BEGIN")

    def first_like(self, look: Look) -> str | None:
        """Return the id of the first picture that looks the same."""
        means = [bound for mean in look.means for bound in (mean - SHADE - 1, mean + SHADE + 1)]
        values = [value for group in look.groups for value in (group, *means)]
        for name, bits, colours in self._connection.execute(_NEARBY, values):
            if look.is_near(Look(int.from_bytes(bits), colours)):
                return str(name)
        return None

    def add(self, name: str, look: Look) -> None:
        """Remember a picture."""
        values = (name, look.bits.to_bytes(8), look.colours, *look.means, *look.groups)
        marks = ", ".join("?" * len(values))
        self._connection.execute(f"INSERT INTO looks VALUES (NULL, {marks})", values)  # noqa: S608  marks

    def close(self) -> None:
        """Forget them."""
        self._connection.close()
