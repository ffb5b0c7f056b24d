"""Multipart bodies → their parts: whole in memory, as the guard reads and bounds them."""

from __future__ import annotations

from email.message import Message
from email.parser import HeaderParser

from batchflux.gateway.orders import RefusalError
from batchflux.gateway.reading.images import Part

MOST_PARTS = 100
_MOST_HEAD = 8192  # bytes of a part's headers
_LONGEST = 200  # characters of a boundary
_AS_IT_IS = frozenset({"", "binary", "8bit", "7bit"})
_LINE, _BLANK = b"\r\n", b"\r\n\r\n"


def parts_of(content_type: str, body: bytes) -> list[Part]:
    """Split a body of multipart/form-data. RefusalError: it is none, is cut off, or has too many parts."""
    said = Message()
    said["Content-Type"] = content_type
    boundary = said.get_boundary() or ""
    if not 0 < len(boundary) <= _LONGEST or not boundary.isascii():
        raise _refused("its Content-Type names no boundary")
    pieces = (_LINE + body).split(f"\r\n--{boundary}".encode(), MOST_PARTS + 2)
    if len(pieces) > MOST_PARTS + 2:
        raise _refused(f"it has more than {MOST_PARTS} parts")
    if len(pieces) == 1 or not pieces[-1].startswith(b"--"):
        raise _refused("its end is missing")
    return [_part(piece) for piece in pieces[1:-1]]


def _part(piece: bytes) -> Part:
    blanks, line, rest = piece.partition(_LINE)
    head, blank, data = (_LINE + rest).partition(_BLANK)
    if blanks.strip(b" \t") or not line or not blank or len(head) > _MOST_HEAD:
        raise _refused("a part of it has no end of its headers")
    said = HeaderParser().parsestr(head.removeprefix(_LINE).decode("utf-8", "replace"))
    name = said.get_param("name", header="content-disposition")
    if said.get_content_disposition() != "form-data" or not isinstance(name, str):
        raise _refused("a part of it has no name")
    if said.get("Content-Encoding") or said.get("Content-Transfer-Encoding", "").strip().lower() not in _AS_IT_IS:
        raise _refused("a part of it is encoded; send files as they are")
    return Part(name=name, data=data, filename=said.get_filename())


def _refused(why: str) -> RefusalError:
    return RefusalError(400, "invalid_form", f"The body must be multipart/form-data: {why}.")
