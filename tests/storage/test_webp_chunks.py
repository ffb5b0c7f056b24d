"""WEBPs whose chunks lie: each is refused for what is wrong with it."""

from __future__ import annotations

import io
import struct

import pytest
from PIL import Image

from batchflux.errors import JobError
from batchflux.output.webp import inspect


def encoded(**options: object) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((48, 32), 60).convert("RGB").save(out, "WEBP", **options)
    return out.getvalue()


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) & 1) for kind, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def canvas(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"VP8X", bytes([flags, 0, 0, 0]) + sizes


LOSSY = (b"VP8 ", encoded()[20:])
LOSSLESS = (b"VP8L", encoded(lossless=True)[20:])


@pytest.mark.parametrize("frame", [LOSSY, LOSSLESS])
def test_whole_ones_are_what_they_say(frame: tuple[bytes, bytes]) -> None:
    for data in (riff(frame), riff(canvas(48, 32), frame), riff(canvas(48, 32), (b"ICCP", b"odd"), frame)):
        shape = inspect(data)
        assert (shape.kind, shape.width, shape.height) == ("webp", 48, 32)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"RIFF\x04\0\0\0WE", "cut off after 10 bytes"),
        (riff(LOSSY)[:-1], "cut off after"),
        (riff((b"VP8X", b"\0" * 9), LOSSY), "the WEBP's header is damaged"),
        (riff(canvas(48, 32, flags=2), LOSSY), "the WEBP is animated; a still picture was asked for"),
        (riff(canvas(48, 31), LOSSY), "its canvas and its picture differ in size"),
        (riff(canvas(48, 32), LOSSY, LOSSY), "the WEBP holds more than one picture"),
        (riff(canvas(48, 32)), "the WEBP holds no picture"),
        (riff((b"ANIM", b"\0" * 6), LOSSY), "the WEBP is animated"),
        (riff((b"VP8 ", LOSSY[1][:9])), "the WEBP's frame is damaged"),
        (riff((b"VP8 ", b"\x01" + LOSSY[1][1:])), "the WEBP's frame is damaged"),
        (riff((b"VP8L", LOSSLESS[1][:5])), "the WEBP's frame is damaged"),
        (riff((b"VP8L", b"\0" + LOSSLESS[1][1:])), "the WEBP's frame is damaged"),
        (riff((b"VP8L", LOSSLESS[1][:4] + b"\xff" + LOSSLESS[1][5:])), "the WEBP's frame is damaged"),
        (riff(LOSSY) + b"<script>", "ends at byte"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_it_is_said(data: bytes, said: str) -> None:
    with pytest.raises(JobError, match=said):
        inspect(data)


def test_bytes_too_few_for_a_chunk_are_no_chunk() -> None:
    data = riff(LOSSY)
    longer = b"RIFF" + struct.pack("<I", len(data) - 8 + 4) + data[8:] + b"abcd"
    with pytest.raises(JobError, match="no chunk starts at byte"):
        inspect(longer)


def test_padding_behind_the_end_is_no_fault() -> None:
    assert inspect(riff(LOSSY) + b"\0\0").width == 48
