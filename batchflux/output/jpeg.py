"""The structure of a JPEG (ITU-T T.81 annex B): its segments, from SOI over frame and scans to EOI."""

from __future__ import annotations

import re

from batchflux.output.verify import Shape, bad, check_tail, sized

SIGNATURE = b"\xff\xd8\xff"
_SOI, _EOI, _SOS, _DQT, _DNL = 0xD8, 0xD9, 0xDA, 0xDB, 0xDC
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended and progressive Huffman: what decoders decode
_OTHER_FRAMES = frozenset({0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a body: TEM and the restarts
_COMPONENTS = frozenset({1, 3, 4})
_MOST_SCANS = (
    100  # encoders make ten or twenty; each costs the decoder a walk over all pixels, however few bytes it has
)
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # in scan data: neither a stuffed byte, a restart nor fill


def inspect(data: bytes) -> Shape:
    """Return the shape of a whole JPEG.

    Raises:
        JobError: `bad_image`, saying what is wrong.
    """
    shape: Shape | None = None
    seen: set[int] = set()
    scans = 0
    at = 2
    while True:
        marker, at = _marker(data, at)
        if marker == _EOI:
            break
        if marker in _ALONE:
            continue
        length = _length(data, at)
        if marker == _SOI or marker in _OTHER_FRAMES or (marker in _FRAMES and shape is not None):
            raise bad(f"the JPEG holds a marker that a still picture has not (0x{marker:02X} at byte {at - 1})")
        if marker in _FRAMES:
            shape = _frame(data[at : at + length])
        seen.add(marker)
        at += length
        if marker == _SOS:
            if shape is None or _DQT not in seen:
                raise bad("the JPEG's pixel data comes before its frame or its tables")
            at = _scan_end(data, at)
            scans += 1
            if scans > _MOST_SCANS:
                raise bad(f"the JPEG has more than {_MOST_SCANS} scans, which would take long to decode")
    if shape is None or _SOS not in seen:
        raise bad("the JPEG holds no picture")
    check_tail("jpeg", data, at)
    return shape


def _marker(data: bytes, at: int) -> tuple[int, int]:
    """Return the marker at `at` and the position behind it."""
    start = at
    while at < len(data) and data[at] == 0xFF:  # noqa: PLR2004  fill bytes may stand before a marker
        at += 1
    if at >= len(data):
        raise _cut(data)
    if at == start or data[at] == 0:
        raise bad(f"the JPEG is damaged: no segment starts at byte {start}")
    return data[at], at + 1


def _length(data: bytes, at: int) -> int:
    """Return the length of the segment whose body starts at `at`, its length field included."""
    if at + 2 > len(data):
        raise _cut(data)
    length = int.from_bytes(data[at : at + 2], "big")
    if length < 2:  # noqa: PLR2004  the field counts itself
        raise bad(f"the JPEG is damaged: the segment at byte {at} has no length")
    if at + length > len(data):
        raise _cut(data)
    return length


def _frame(segment: bytes) -> Shape:
    components = segment[7] if len(segment) > 7 else 0  # noqa: PLR2004  the fixed part of a frame header
    if components not in _COMPONENTS or len(segment) != 8 + 3 * components:
        raise bad("the JPEG's frame header is damaged")
    height, width = int.from_bytes(segment[3:5], "big"), int.from_bytes(segment[5:7], "big")
    return sized("jpeg", width, height)


def _scan_end(data: bytes, at: int) -> int:
    """Return where the scan data that starts at `at` ends: at the next marker."""
    match = _MARKER.search(data, at)
    if match is None:
        raise _cut(data)
    found = match.start()
    if found == at:
        raise bad(f"the JPEG holds an empty scan at byte {at}")
    return found


def _cut(data: bytes) -> Exception:
    return bad(f"the JPEG is cut off after {len(data)} bytes, before its end")
