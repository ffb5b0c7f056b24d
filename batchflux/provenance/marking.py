"""Puts marks into a picture's file, and says which it carries."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from batchflux.provenance import xmp
from batchflux.provenance.about import parameters
from batchflux.provenance.jpeg import START as JPEG
from batchflux.provenance.jpeg import Jpeg
from batchflux.provenance.parts import SIGNED, LeftError
from batchflux.provenance.png import START as PNG
from batchflux.provenance.png import Png
from batchflux.provenance.webp import WebP, is_webp

if TYPE_CHECKING:
    from collections.abc import Collection

    from batchflux.provenance.about import About
    from batchflux.provenance.parts import File

C2PA = "c2pa"  # what a picture carries beside MARKS: its provider's signature


class Marked(NamedTuple):
    """A picture's file with its marks; `why` it lacks some of them, or all, as what is true of the picture."""

    data: bytes
    why: str | None = None


def marked(data: bytes, marks: Collection[str], about: About) -> Marked:
    """Return a picture with these of MARKS; what it carries already stays as it is. The same gives the same bytes."""
    if not marks:
        return Marked(data)
    try:
        file = _opened(data)
        if file.signed:
            return Marked(data, SIGNED)
        packet = xmp.add(file.xmp, xmp.properties(about, marks), file.room)
    except LeftError as error:
        return Marked(data, str(error))
    new, why = packet if packet and packet != file.xmp else None, None
    tells = "parameters" in marks and not file.told
    if tells:
        try:
            file.tell(parameters(about, file.fits))
        except LeftError as error:
            tells, why = False, str(error)
    return Marked(file.written(new) if tells or new else data, why)


def kept(drawn: bytes, received: bytes) -> bytes:
    """Return a picture that was drawn anew, with what the XMP of the one that was received says of its origin.

    A signature is of the bytes that were received, and cannot be kept.
    """
    try:
        packet = _opened(received).xmp
        said = {} if packet is None else xmp.read(packet).properties
        file = _opened(drawn)
        new = xmp.add(file.xmp, {name: said[name] for name in xmp.ORIGIN if name in said}, file.room)
    except LeftError:  # nothing that could be understood
        return drawn
    return file.written(new) if new and new != file.xmp else drawn


def carries(data: bytes) -> frozenset[str]:
    """Return what a picture says of its origin: some of MARKS, and C2PA where it is signed; none where it is broken."""
    try:
        file = _opened(data)
    except LeftError:
        return frozenset()
    found = {C2PA} if file.signed else set()
    found |= {"parameters"} if file.told else set()
    try:
        properties = xmp.read(file.xmp).properties if file.xmp is not None else {}
    except LeftError:
        properties = {}
    said = {"iptc": xmp.SOURCE, "tc260": xmp.AIGC, C2PA: xmp.REMOTE}
    return frozenset(found | {name for name, one in said.items() if one in properties})


def _opened(data: bytes) -> File:
    if data.startswith(PNG):
        return Png(data)
    if data.startswith(JPEG):
        return Jpeg(data)
    if is_webp(data):
        return WebP(data)
    raise LeftError("neither PNG, JPEG nor WebP")
