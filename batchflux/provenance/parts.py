"""What a file of pictures is to those who put marks into it, whatever its container."""

from __future__ import annotations

from typing import Protocol

SIGNED = "already signed by the provider (C2PA)"


class LeftError(Exception):
    """A picture is left as it is, or lacks one of the marks; the text says why, as what is true of the picture."""


class File(Protocol):
    """A picture's file in its parts."""

    signed: bool
    """Whether it has a C2PA manifest in it."""
    xmp: bytes | None
    """Its XMP packet."""
    room: int
    """How many bytes a packet in it may have."""
    told: bool
    """Whether it has a text on how it was made, in the place for `parameters`."""

    def fits(self, text: str) -> bool:
        """Whether a text has room in the place for `parameters`."""

    def tell(self, text: str) -> None:
        """Put a text into the place for `parameters`; LeftError: that is taken, or is broken."""

    def written(self, xmp: bytes | None) -> bytes:
        """Return the file with this XMP packet, if any, and with what was told."""
