"""What is proven of a PNG's pixels without decoding them is what Pillow finds when it decodes them."""

from __future__ import annotations

import io
import random
import struct
import zlib
from itertools import cycle
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from batchflux.errors import JobError
from batchflux.output import deflate, png
from batchflux.output.verify import Expected, check

if TYPE_CHECKING:
    from collections.abc import Iterable

WIDE = 67  # pixels; narrower pictures are left to Pillow
MODES = {"L": (0, 1), "RGB": (2, 3), "LA": (4, 2), "RGBA": (6, 4)}


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    return min((left, up, corner), key=lambda one: abs(guess - one))


def filtered(rows: list[bytes], pixel: int, kinds: Iterable[int]) -> bytes:
    """Return the rows as PNG writes them, each through its filter."""
    out, above = bytearray(), bytes(len(rows[0]))
    for row, kind in zip(rows, kinds, strict=False):
        out.append(kind)
        for at, byte in enumerate(row):
            left, corner = (row[at - pixel], above[at - pixel]) if at >= pixel else (0, 0)
            guess = (0, left, above[at], (left + above[at]) // 2, paeth(left, above[at], corner))[kind]
            out.append((byte - guess) & 255)
        above = row
    return bytes(out)


def written(picture: Image.Image, kinds: Iterable[int] = (0,), pieces: int = 1, behind: bytes = b"") -> bytes:
    """Return a picture as PNG, its rows through these filters in turn, its pixel data in so many chunks."""
    colour, pixel = MODES[picture.mode]
    width, height = picture.size
    raw = picture.tobytes()
    rows = [raw[at : at + width * pixel] for at in range(0, len(raw), width * pixel)]
    return assembled(width, height, colour, zlib.compress(filtered(rows, pixel, cycle(kinds))), pieces, behind=behind)


def assembled(  # noqa: PLR0913  the parts of a file
    width: int,
    height: int,
    colour: int,
    pixels: bytes,
    pieces: int = 1,
    *,
    behind: bytes = b"",
    interlaced: bool = False,
) -> bytes:
    size = -(-len(pixels) // pieces) or 1
    data = b"".join(chunk(b"IDAT", pixels[at : at + size]) for at in range(0, len(pixels), size))
    head = chunk(b"IHDR", struct.pack(">IIBB", width, height, 8, colour) + bytes([0, 0, interlaced]))
    return png.SIGNATURE + head + data + behind + chunk(b"IEND", b"")


def noise(mode: str, width: int = WIDE, height: int = 5, seed: int = 1) -> Image.Image:
    size = width * height * MODES[mode][1]
    return Image.frombytes(mode, (width, height), random.Random(seed).randbytes(size))


def decodes(data: bytes) -> bool:
    """Whether Pillow decodes it, to more than one colour."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            colours = picture.getcolors(1 << 20)
    except (OSError, SyntaxError, ValueError):
        return False
    return colours is not None and len(colours) > 1


@pytest.fixture(params=["as installed", "zlib"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "zlib":
        monkeypatch.setattr(deflate, "inflater", zlib.decompressobj)
        monkeypatch.setattr(deflate, "crc32", zlib.crc32)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pieces", [1, 3])
def test_pictures_of_all_filters_are_proven(mode: str, pieces: int) -> None:
    data = written(noise(mode), (4, 3, 2, 1, 0), pieces)
    with Image.open(io.BytesIO(data)) as again:
        assert again.tobytes() == noise(mode).tobytes(), "the test writes what it means to"
    png.inspect(data)
    assert png.proven(data)
    check(data, Expected(), "decode")


@pytest.mark.usefixtures("backend")
def test_a_picture_larger_than_what_is_held_at_once_is_proven() -> None:
    picture = noise("RGB", 600, 500)
    file = io.BytesIO()
    picture.save(file, "PNG")
    data = file.getvalue()
    assert png.proven(data)
    wrong = assembled(600, 501, 2, zlib.compress(filtered_plain(picture)))
    assert not png.proven(wrong)


def filtered_plain(picture: Image.Image) -> bytes:
    raw, row = picture.tobytes(), 3 * picture.width
    return b"".join(b"\0" + raw[at : at + row] for at in range(0, len(raw), row))


ROWS = filtered_plain(noise("RGB"))
ROW = 1 + 3 * WIDE
CUT = zlib.compress(ROWS)
FAULTS = {
    "a row too few": zlib.compress(ROWS[:-ROW]),
    "a byte too few": zlib.compress(ROWS[:-1]),
    "a row too many": zlib.compress(ROWS + ROWS[:ROW]),
    "a byte too many": zlib.compress(ROWS + b"\0"),
    "no such filter": zlib.compress(b"\5" + ROWS[1:]),
    "no such filter in the last row": zlib.compress(ROWS[:-ROW] + b"\xff" + ROWS[1 - ROW :]),
    "no checksum": CUT[:-4],
    "half a checksum": CUT[:-2],
    "a wrong checksum": CUT[:-1] + bytes([CUT[-1] ^ 1]),
    "bytes behind the stream": CUT + b"\0",
    "a window too large": bytes([0x88, 0x1C]) + CUT[2:],
    "not deflate": b"x\x9c" + b"\xff" * 40,
    "no zlib header": b"\0" * 40,
}


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_proven_of_pixels_with_a_fault(fault: str) -> None:
    assert png.proven(assembled(WIDE, 5, 2, CUT))
    for pieces in (1, 2):
        assert not png.proven(assembled(WIDE, 5, 2, FAULTS[fault], pieces))


def test_nothing_is_proven_where_chunks_follow_the_pixels_end() -> None:
    for extra in (b"\0", CUT, bytes(1000)):
        whole = assembled(WIDE, 5, 2, CUT)
        at = whole.index(chunk(b"IEND", b""))
        data = whole[:at] + chunk(b"IDAT", extra) + whole[at:]
        png.inspect(data)
        assert not png.proven(data)


def test_a_picture_that_is_of_one_colour_for_long_is_left_to_pillow() -> None:
    """Rows are looked at one by one, which for millions of them would take longer than decoding."""
    plain, last = Image.new("L", (WIDE, 6000)), noise("L", WIDE, 1)
    for rows, proven in ((4000, True), (4200, False)):
        picture = plain.crop((0, 0, WIDE, rows + 1))
        picture.paste(last, (0, rows))
        data = written(picture)
        assert png.proven(data) is proven
        check(data, Expected(), "decode")


@given(st.binary(min_size=1, max_size=300), st.integers(0, 9), st.data())
def test_what_the_installed_inflater_takes_zlib_takes(body: bytes, level: int, data: Any) -> None:
    stream = bytearray(zlib.compress(body, level))
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, len(stream) - 1), st.integers(1, 255)), max_size=3)):
        stream[at] ^= byte
    inflater = deflate.inflater()
    try:
        out = inflater.decompress(bytes(stream), 1 << 16)
    except deflate.ERRORS:
        return
    if inflater.eof:
        assert zlib.decompressobj().decompress(bytes(stream)) == out
    assert deflate.crc32(bytes(stream)) == zlib.crc32(bytes(stream))


def test_a_png_without_pixel_data_is_none() -> None:
    with pytest.raises(JobError, match="has no pixel data"):
        png.inspect(assembled(1, 1, 0, b""))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", range(5))
def test_a_picture_of_one_colour_is_never_proven(mode: str, kind: int) -> None:
    for colour in ((0, 0, 0, 0), (255, 254, 1, 9), (90, 91, 200, 128)):
        picture = Image.new(mode, (WIDE, 6), colour[: MODES[mode][1]] if mode != "L" else colour[0])
        data = written(picture, (kind,))
        assert not png.proven(data)
        with pytest.raises(JobError, match="blank"):
            check(data, Expected(), "decode")


@pytest.mark.parametrize(
    "way", ["stripes", "palette", "interlaced", "16 bit", "text behind the pixels", "narrow", "small chunks"]
)
def test_what_is_not_proven_is_decoded(way: str) -> None:
    file = io.BytesIO()
    if way == "stripes":
        data = written(Image.merge("L", [Image.linear_gradient("L").resize((WIDE, 30))]), (0,))
    elif way == "palette":
        noise("RGB").convert("P").save(file, "PNG")
        data = file.getvalue()
    elif way == "16 bit":
        noise("L").convert("I;16").save(file, "PNG")
        data = file.getvalue()
    elif way == "interlaced":  # of one pixel's width: its passes are its rows, so any reader agrees
        data = assembled(1, 1, 0, zlib.compress(b"\0\7"), interlaced=True)
    elif way == "narrow":
        data = written(noise("RGB", 63, 9))
    elif way == "small chunks":
        data = written(noise("RGB"), pieces=50)
    else:
        data = written(noise("RGB"), behind=chunk(b"tEXt", b"Comment\0behind"))
    png.inspect(data)
    assert not png.proven(data)
    if way != "interlaced":  # a pixel alone is blank
        check(data, Expected(), "decode")


@given(st.data())
def test_what_is_proven_decodes(data: Any) -> None:
    """Whatever the pixel data is made of: what is proven, Pillow decodes, to more than one colour."""
    mode = data.draw(st.sampled_from(sorted(MODES)))
    colour, pixel = MODES[mode]
    width, height = data.draw(st.integers(63, 66)), data.draw(st.integers(1, 5))
    row = st.builds(
        lambda kind, body: bytes([kind]) + body,
        st.sampled_from([0, 0, 1, 2, 3, 4, 4, 5]),
        st.one_of(
            st.binary(min_size=width * pixel, max_size=width * pixel),
            st.binary(min_size=pixel, max_size=pixel).map(lambda one: one * width),
            st.just(bytes(width * pixel)),
        ),
    )
    rows = b"".join(data.draw(st.lists(row, min_size=max(1, height - 1), max_size=height)))
    stream = bytearray(zlib.compress(rows, data.draw(st.integers(0, 9))))
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, len(stream) - 1), st.integers(1, 255)), max_size=1)):
        stream[at] ^= byte
    picture = assembled(width, height, colour, bytes(stream), data.draw(st.integers(1, 3)))
    if png.proven(picture):
        assert decodes(picture)
