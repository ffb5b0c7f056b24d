"""The structure of a WEBP (RFC 9649): a RIFF of chunks, one of them a VP8 or VP8L frame."""

from __future__ import annotations

import struct

from batchflux.output.verify import Shape, bad, check_tail, sized

_RIFF = struct.Struct("<4sI4s")
_HEAD = struct.Struct("<4sI")
_ANIMATION = frozenset({b"ANIM", b"ANMF"})
_ANIMATED = 0x02
_VP8_START = b"\x9d\x01\x2a"
_VP8L_SIGNATURE = 0x2F
_SIDE = 0x3FFF  # sizes have 14 bits


def is_webp(data: bytes) -> bool:
    """Whether the bytes start as a WEBP does."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def inspect(data: bytes) -> Shape:
    """Return the shape of a whole WEBP.

    Raises:
        JobError: `bad_image`, saying what is wrong.
    """
    if len(data) < _RIFF.size:
        raise _cut(data)
    _, size, _ = _RIFF.unpack_from(data)
    end = size + 8
    if end > len(data):
        raise _cut(data)
    canvas: Shape | None = None
    frame: Shape | None = None
    at = _RIFF.size
    while at < end:
        kind, body, at = _chunk(data, at, end)
        if kind in _ANIMATION:
            raise bad("the WEBP is animated; a still picture was asked for")
        if kind == b"VP8X":
            canvas = _canvas(body)
        elif kind in _FRAMES:
            if frame is not None:
                raise bad("the WEBP holds more than one picture")
            frame = _FRAMES[kind](body)
    if frame is None:
        raise bad("the WEBP holds no picture")
    if canvas is not None and canvas != frame:
        raise bad("the WEBP is damaged: its canvas and its picture differ in size")
    check_tail("webp", data, end)
    return frame


def _chunk(data: bytes, at: int, end: int) -> tuple[bytes, memoryview, int]:
    if at + _HEAD.size > end:
        raise bad(f"the WEBP is damaged: no chunk starts at byte {at}")
    kind, length = _HEAD.unpack_from(data, at)
    start = at + _HEAD.size
    if start + length > end:
        raise bad(f"the WEBP is damaged: the chunk at byte {at} is longer than the file")
    return kind, memoryview(data)[start : start + length], min(start + length + (length & 1), end)


def _canvas(body: memoryview) -> Shape:
    if len(body) < 10:  # noqa: PLR2004  flags, reserved, two sizes of three bytes
        raise bad("the WEBP's header is damaged")
    if body[0] & _ANIMATED:
        raise bad("the WEBP is animated; a still picture was asked for")
    return sized("webp", int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1)


def _lossy(body: memoryview) -> Shape:
    """Read a VP8 key frame's header (RFC 6386 section 9.1)."""
    if len(body) < 10 or body[0] & 1 or bytes(body[3:6]) != _VP8_START:  # noqa: PLR2004  the header's length
        raise bad("the WEBP's frame is damaged")
    if int.from_bytes(body[:3], "little") >> 5 > len(body) - 10:
        raise bad("the WEBP's frame is cut off")
    width, height = int.from_bytes(body[6:8], "little") & _SIDE, int.from_bytes(body[8:10], "little") & _SIDE
    return sized("webp", width, height)


def _lossless(body: memoryview) -> Shape:
    if len(body) < 6 or body[0] != _VP8L_SIGNATURE or body[4] >> 5:  # noqa: PLR2004  signature, sizes, some data
        raise bad("the WEBP's frame is damaged")
    bits = int.from_bytes(body[1:5], "little")
    return sized("webp", (bits & _SIDE) + 1, (bits >> 14 & _SIDE) + 1)


def _cut(data: bytes) -> Exception:
    return bad(f"the WEBP is cut off after {len(data)} bytes, before its end")


_FRAMES = {b"VP8 ": _lossy, b"VP8L": _lossless}
