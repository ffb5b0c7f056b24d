"""What counts as a picture: every way that bytes can fall short of one."""

from __future__ import annotations

import hashlib
import io
import random
import re
import struct
import warnings
import zlib
from itertools import product
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from batchflux.errors import Code, JobError
from batchflux.output.verify import Expected, Shape, check


def photo(width: int, height: int, seed: int = 1) -> Image.Image:
    noise = random.Random(seed).randbytes(8 * 6 * 3)
    return Image.frombytes("RGB", (8, 6), noise).resize((width, height), Image.Resampling.BICUBIC)


def encoded(picture: Image.Image, kind: str, **how: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, format=kind, **how)
    return out.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(width: int, height: int, pixels: bytes, *, header: bytes = b"\x08\x02\0\0\0", extra: bytes = b"") -> bytes:
    ihdr = chunk(b"IHDR", struct.pack(">II", width, height) + header)
    return b"\x89PNG\r\n\x1a\n" + ihdr + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


PHOTO = photo(64, 48)
PNG = encoded(PHOTO, "PNG")
JPEG = encoded(PHOTO, "JPEG")
WEBP = encoded(PHOTO, "WEBP")
KINDS = {
    "png": PNG,
    "png palette": encoded(PHOTO.convert("P"), "PNG"),
    "png grey": encoded(PHOTO.convert("L"), "PNG"),
    "png alpha": encoded(PHOTO.convert("RGBA"), "PNG"),
    "png 16 bit": encoded(PHOTO.convert("L").convert("I;16"), "PNG"),
    "jpeg": JPEG,
    "jpeg progressive": encoded(PHOTO, "JPEG", progressive=True),
    "jpeg restarts": encoded(PHOTO, "JPEG", restart_marker_blocks=2),
    "jpeg grey": encoded(PHOTO.convert("L"), "JPEG"),
    "jpeg cmyk": encoded(PHOTO.convert("CMYK"), "JPEG"),
    "jpeg exif": encoded(PHOTO, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0", comment=b"\xff\xd9 in a comment"),
    "webp": WEBP,
    "webp lossless": encoded(PHOTO, "WEBP", lossless=True),
    "webp alpha": encoded(PHOTO.convert("RGBA"), "WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"),
}
HOW = ("structure", "decode")
FOREIGN = {kind.lower(): encoded(PHOTO, kind) for kind in ("GIF", "BMP", "TIFF", "AVIF", "PPM", "JPEG2000")}
FOREIGN["ico"] = encoded(PHOTO, "ICO", sizes=[(64, 48)])


def refused(data: bytes, expect: Expected | None = None, how: str = "structure") -> str:
    with pytest.raises(JobError) as caught:
        check(data, expect or Expected(), how)  # type: ignore[arg-type]  # the two values of Verify
    assert caught.value.code is Code.BAD_IMAGE
    assert "\n" not in caught.value.message
    return caught.value.message


def differs(data: bytes, expect: Expected | None = None, how: str = "structure") -> dict[str, str]:
    return check(data, expect or Expected(), how).differs  # type: ignore[arg-type]  # the two values of Verify


@pytest.mark.parametrize(("name", "how"), list(product(KINDS, HOW)))
def test_a_whole_picture_of_each_kind_passes(name: str, how: Any) -> None:
    data = KINDS[name]
    shape, digest, _ = check(data, Expected(), how)
    assert shape == Shape(kind=name.split(maxsplit=1)[0], width=64, height=48)  # type: ignore[arg-type]  # a Kind by its name
    assert digest == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("name", KINDS)
def test_cut_off_anywhere_is_refused(name: str) -> None:
    data = KINDS[name]
    for length in range(len(data)):
        refused(data[:length])


@pytest.mark.parametrize(("name", "how"), list(product([*KINDS, "gif", "avif"], HOW)))
def test_bytes_behind_the_end_differ_but_padding_does_not(name: str, how: str) -> None:
    data = KINDS.get(name) or FOREIGN[name]
    whole = differs(data, how=how)
    assert differs(data + b"\0" * 7 + b"\r\n", how=how) == whole
    for more in (b"<script>alert(1)</script>", b"\0" * 100 + b"PK\3\4"):
        told = differs(data + more, how=how)
        assert told.keys() - whole.keys() == {"trailing"}
        assert f"{len(more)} bytes follow the end" in told["trailing"]


@pytest.mark.parametrize(("name", "how"), list(product(FOREIGN, HOW)))
def test_a_whole_picture_of_a_kind_that_nobody_orders_differs_in_format(name: str, how: str) -> None:
    data = FOREIGN[name]
    judged = check(data, Expected(), how)  # type: ignore[arg-type]  # the two values of Verify
    assert (judged.shape, judged.sha256) == (Shape(name, 64, 48), hashlib.sha256(data).hexdigest())  # type: ignore[arg-type]  # a Kind by its name
    assert list(judged.differs) == ["format"]
    assert differs(data, Expected(kind="png"), how)["format"] == f"a PNG was asked for and a {name.upper()} came"
    for length in range(12, len(data) - (2 if name == "tiff" else 0), max(1, len(data) // 60)):
        refused(data[:length], how=how)


def test_line_ends_before_a_picture_differ_as_bytes_behind_it_do() -> None:
    for start in (b"\n", b"\r\n\r\n"):
        told = differs(start + JPEG)["trailing"]
        assert told == f"{len(start)} bytes stand before the start of the JPEG, which are not its own"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\0\0\0\x18ftypheic" + b"\0" * 50, "cannot read"),
        (b"\xff\x0a" + b"\0" * 50, "cannot read"),
        (png_of(8001, 8001, zlib.compress(b"\0")), "8001x8001, over the 64 megapixels"),
    ],
)
def test_a_picture_that_cannot_be_read_is_not_asked_for_again(data: bytes, why: str) -> None:
    with pytest.raises(JobError, match=why) as caught:
        check(data, Expected(), "decode")
    assert (caught.value.code, caught.value.final) == (Code.BAD_IMAGE, True)


@pytest.mark.parametrize("how", HOW)
def test_any_flipped_bit_of_a_png_is_refused(how: str) -> None:
    for at in range(8, len(PNG), 3):
        broken = bytearray(PNG)
        broken[at] ^= 0x10
        refused(bytes(broken), how=how)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "nothing (0 bytes)"),
        (b"GIF89a" + b"\0" * 50, "the GIF is damaged"),
        (b"GIF89a", "the GIF is cut off"),
        (b"BM" + b"\0" * 50, "the BMP does not decode"),
        (b"II*\0" + b"\0" * 50, "the TIFF does not decode"),
        (b"\0\0\0\x1cftypavif" + b"\0" * 50, "the AVIF does not decode"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 50, "'HEIC' file"),
        (b"<!DOCTYPE html><title>502</title>", "an HTML page"),
        (b"\xef\xbb\xbf \n<html>", "an HTML page"),
        (b"<svg xmlns='x'/>", "an SVG"),
        (b"<?xml version='1.0'?><svg/>", "an SVG"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "an XML document"),
        (b'{"error": 1}', "JSON"),
        (b"data:image/png;base64,AAAA", "a data: URL"),
        (b"upstream timed out\n", "text"),
        (b"\x01\x02\x03", "no known picture"),
        (b"\x89PN", "cut off after 3 bytes"),
        (b"RIFF\0\0\0\0WAVE", "no known picture"),
    ],
)
def test_what_is_no_picture_is_named(data: bytes, found: str) -> None:
    assert found in refused(data)


@pytest.mark.parametrize(("kind", "how"), list(product(["PNG", "WEBP", "GIF", "AVIF", "TIFF"], HOW)))
def test_animations_differ(kind: str, how: str) -> None:
    frames = [photo(64, 48, seed) for seed in range(3)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert "animated" in differs(data, Expected(kind="jpeg"), how)
    assert list(differs(data, Expected(kind="jpeg", ratio="9:16"), how)) == ["format", "ratio", "animated"]


def test_a_picture_that_is_cut_off_is_never_filled_up() -> None:
    """Pillow can be told to do so, for the whole process."""
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


PIXELS = zlib.compress(b"\0\1\2\3\4\5\6" * 2)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (png_of(0, 2, PIXELS), "no pixels"),
        (png_of(2, 0, PIXELS), "no pixels"),
        (png_of(8001, 8001, PIXELS), "over the 64 megapixels"),
        (png_of(2**31, 1, PIXELS), "megapixels"),
        (png_of(4000, 4000, PIXELS), "too few for 4000x4000"),
        (png_of(2, 2, PIXELS, header=b"\x08\x03\0\0\0"), "no palette"),
        (png_of(2, 2, PIXELS, header=b"\x07\x02\0\0\0"), "header is damaged"),
        (png_of(2, 2, PIXELS, header=b"\x08\x02\0\0\x02"), "values that no PNG has"),
        (png_of(2, 2, PIXELS, header=b"\x08\x02\0\0"), "the PNG"),
        (png_of(2, 2, PIXELS, extra=chunk(b"IHDR", b"\0" * 13)), "one IHDR"),
        (png_of(2, 2, PIXELS, extra=chunk(b"IDAT", b"x") + chunk(b"tEXt", b"a\0b")), "torn apart"),
        (b"\x89PNG\r\n\x1a\n" + chunk(b"IDAT", PIXELS), "one IHDR"),
        (b"\x89PNG\r\n\x1a\n" + chunk(b"IEND", b""), "one IHDR"),
    ],
)
def test_a_png_that_lies_in_its_chunks_is_refused(data: bytes, found: str) -> None:
    assert found in refused(data)


def test_pixel_data_that_is_not_zlib_needs_a_decode_to_be_seen() -> None:
    data = png_of(2, 2, b"not zlib at all")
    check(data, Expected(), "structure")
    assert "does not decode" in refused(data, how="decode")


def jpeg_frame() -> int:
    return JPEG.index(b"\xff\xc0")


@pytest.mark.parametrize(
    ("patch", "found"),
    [
        ({5: b"\0\0"}, "no pixels"),
        ({7: b"\0\0"}, "no pixels"),
        ({5: b"\xff\xff\xff\xff"}, "megapixels"),
        ({1: b"\xc3"}, "a marker that a still picture has not"),
        ({1: b"\xc9"}, "a marker that a still picture has not"),
        ({9: b"\x02"}, "header is damaged"),
        ({2: b"\0\x01"}, "has no length"),
        ({2: b"\xff\xff"}, "cut off"),
        ({0: b"\0"}, "no segment starts"),
    ],
)
def test_a_jpeg_that_lies_in_its_frame_is_refused(patch: dict[int, bytes], found: str) -> None:
    broken = bytearray(JPEG)
    for offset, value in patch.items():
        at = jpeg_frame() + offset
        broken[at : at + len(value)] = value
    assert found in refused(bytes(broken))


def test_a_jpeg_without_scan_tables_or_with_two_frames_is_refused() -> None:
    frame = JPEG[jpeg_frame() : jpeg_frame() + 19]
    tables = JPEG.index(b"\xff\xdb")
    scan = JPEG.index(b"\xff\xda")
    assert "holds no picture" in refused(JPEG[:scan] + b"\xff\xd9")
    assert "before its frame" in refused(JPEG[:tables] + JPEG[scan:])
    assert "has not" in refused(JPEG[: jpeg_frame()] + frame + JPEG[jpeg_frame() :])
    assert "empty scan" in refused(JPEG[: scan + 14] + b"\xff\xd9")


def test_broken_jpeg_tables_need_a_decode_to_be_seen() -> None:
    table = JPEG.index(b"\xff\xc4")
    broken = JPEG[: table + 5] + b"\xff" * 16 + JPEG[table + 21 :]
    check(broken, Expected(), "structure")
    assert "does not decode" in refused(broken, how="decode")


def test_a_webp_that_lies_in_its_chunks_is_refused() -> None:
    def with_bytes(data: bytes, at: int, value: bytes) -> bytes:
        return data[:at] + value + data[at + len(value) :]

    lossless = KINDS["webp lossless"]
    alpha = KINDS["webp alpha"]
    assert "cut off" in refused(with_bytes(WEBP, 4, struct.pack("<I", len(WEBP))))
    assert "longer than the file" in refused(with_bytes(WEBP, 16, b"\xff\xff\0\0"))
    assert "does not decode" in refused(with_bytes(WEBP, 23, b"\0"))
    assert "does not decode" in refused(with_bytes(WEBP, 21, b"\xff\xff"))
    assert "does not decode" in refused(with_bytes(WEBP, 26, b"\0\0"))
    assert "does not decode" in refused(with_bytes(lossless, 20, b"\0"))
    assert "does not decode" in refused(with_bytes(alpha, 24, b"\x09"))
    assert "holds no picture" in refused(b"RIFF\x16\0\0\0WEBP" + alpha[12:30])
    assert "holds no picture" in refused(b"RIFF\x04\0\0\0WEBP")
    frame = WEBP[12:]
    twice = b"WEBP" + frame + frame
    assert "more than one" in refused(b"RIFF" + struct.pack("<I", len(twice)) + twice)


@pytest.mark.parametrize(
    ("asked", "data", "found"),
    [
        ("png", JPEG, "a PNG was asked for and a JPEG came"),
        ("jpeg", PNG, "a JPEG was asked for and a PNG came"),
        ("png", WEBP, "a PNG was asked for and a WEBP came"),
        ("webp", PNG, "a WEBP was asked for and a PNG came"),
    ],
)
def test_another_kind_than_asked_for_differs(asked: Any, data: bytes, found: str) -> None:
    assert differs(data, Expected(kind=asked)) == {"format": found}


@pytest.mark.parametrize(
    ("size", "ratio", "fits"),
    [
        ((1392, 752), "16:9", True),
        ((1392, 752), "9:16", False),
        ((1024, 1024), "1:1", True),
        ((1024, 1024), "16:9", False),
        ((107, 100), "1:1", True),
        ((109, 100), "1:1", False),
        ((93, 100), "1:1", True),
        ((91, 100), "1:1", False),
        ((1568, 672), "21:9", True),
        ((64, 48), None, True),
        ((64, 48), "", True),
    ],
)
def test_the_ratio_asked_for_has_eight_percent_of_room(size: tuple[int, int], ratio: str | None, fits: bool) -> None:  # noqa: FBT001  a table's column
    data = encoded(photo(*size), "JPEG")
    told = differs(data, Expected(ratio=ratio))
    assert list(told) == ([] if fits else ["ratio"])
    assert fits or told["ratio"].endswith(f"which is not the {ratio} asked for")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(("orientation", "told"), [(1, ["ratio"]), (3, ["ratio"]), (6, []), (8, []), (99, ["ratio"])])
def test_the_ratio_is_that_of_the_picture_as_it_is_shown(kind: str, orientation: int, told: list[str]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert list(differs(encoded(photo(64, 128), kind, exif=exif), Expected(ratio="2:1"))) == told


def test_a_reference_sent_back_is_told_apart_from_a_bad_image() -> None:
    with pytest.raises(JobError, match="reference image, unchanged") as caught:
        check(JPEG, Expected(references=frozenset({hashlib.sha256(JPEG).hexdigest()}), kind="png"), "decode")
    assert caught.value.code is Code.ECHOED_INPUT
    check(JPEG, Expected(references=frozenset({hashlib.sha256(PNG).hexdigest()})), "decode")
    assert check(WEBP, Expected(kind="webp"), "decode")[0].kind == "webp"


@pytest.mark.parametrize(("mode", "colour"), [("RGB", (255, 255, 255)), ("L", 0), ("RGBA", (1, 2, 3, 4)), ("P", 5)])
def test_a_picture_of_one_colour_is_blank(mode: str, colour: Any) -> None:
    data = encoded(Image.new(mode, (64, 48), colour), "PNG")
    assert differs(data) == {}
    assert differs(data, how="decode") == {"colour": "every pixel of the PNG has the same colour"}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("where", [(0, 0), (63, 47), (31, 17)])
def test_one_odd_spot_is_enough_for_a_picture(kind: str, where: tuple[int, int]) -> None:
    plate = Image.new("RGB", (64, 48), (200, 200, 200))
    plate.paste((0, 0, 0), (*where, where[0] + 2, where[1] + 2))
    assert differs(encoded(plate, kind), how="decode") == {}


def test_a_pattern_finer_than_the_blocks_of_a_jpeg_is_no_single_colour() -> None:
    tile = Image.frombytes("L", (2, 2), b"\0\xff\xff\0")
    board = Image.new("L", (64, 48))
    for at in product(range(0, 64, 2), range(0, 48, 2)):
        board.paste(tile, at)
    assert differs(encoded(board, "JPEG", quality=100), how="decode") == {}


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_a_png_is_judged_without_its_pixels_as_with_them(data: st.DataObject) -> None:
    """Any rows under any filters, with a fault now and then: bytes are whole and of many colours, or they are not."""
    channels, depth = {"L": (0, 8), "RGB": (2, 8), "LA": (4, 8), "RGBA": (6, 8)}[
        data.draw(st.sampled_from(["L", "RGB", "LA", "RGBA"]))
    ]
    pixel = {0: 1, 2: 3, 4: 2, 6: 4}[channels]
    width, height = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    body = st.sampled_from([b"\0", b"\x07"]).flatmap(lambda byte: st.just(byte * width * pixel)) | st.binary(
        min_size=width * pixel, max_size=width * pixel
    )
    rows = [bytes([data.draw(st.sampled_from([0, 0, 1, 2, 3, 4, 4, 7]))]) + data.draw(body) for _ in range(height)]
    png = png_of(
        width,
        height,
        zlib.compress(b"".join(rows)[: data.draw(st.integers(-1, 0)) or None]),
        header=bytes([depth, channels, 0, 0, 0]),
    )
    with Image.open(io.BytesIO(png)) as picture:
        try:
            picture.load()
            extrema = picture.getextrema()
        except (OSError, SyntaxError):
            refused(png, how="decode")
            return
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    assert list(differs(png, how="decode")) == ["colour"] * all(low == high for low, high in bands)


def test_a_compression_bomb_is_refused_before_it_is_decoded() -> None:
    bomb = png_of(30000, 30000, zlib.compress(b"\0" * 3_000_000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "over the 64 megapixels" in refused(bomb, how="decode")


@pytest.mark.parametrize("name", KINDS)
def test_mutations_give_a_picture_or_a_job_error_and_nothing_else(name: str) -> None:
    rng = random.Random(name)
    outcomes = set()
    for number in range(150):
        data = bytearray(KINDS[name])
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data))
            match rng.randrange(4):
                case 0:
                    data[at] = rng.randrange(256)
                case 1:
                    del data[at : at + rng.randint(1, 20)]
                case 2:
                    data[at:at] = rng.randbytes(rng.randint(1, 20))
                case _:
                    data[at : at + 4] = rng.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"])
        try:
            shape, _, _ = check(bytes(data), Expected(), "decode" if number % 2 else "structure")
        except JobError as error:
            outcomes.add((error.code, re.sub(r"\d+", "N", error.message)))
        else:
            with Image.open(io.BytesIO(data)) as picture:
                assert picture.size == (shape.width, shape.height)
    assert len(outcomes) > 1
    assert {code for code, _ in outcomes} == {Code.BAD_IMAGE}


@settings(max_examples=300, deadline=None)
@example(PNG[:33], PNG[-12:])  # a small picture without any pixel data
@given(st.sampled_from([b"", PNG[:8], PNG[:33], JPEG[:3], JPEG[:200], WEBP[:12], WEBP[:30]]), st.binary(max_size=200))
def test_any_bytes_behind_a_true_start_are_judged(start: bytes, rest: bytes) -> None:
    with pytest.raises(JobError):
        check(start + rest, Expected(), "structure")
