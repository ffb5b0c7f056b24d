"""What a photo is found to be, and the copy of it that is sent."""

from __future__ import annotations

import contextlib
import io
import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageCms

from batchflux.photos.facts import Facts, inspect, kind_of
from batchflux.photos.prepare import prepare
from batchflux.photos.steps import Settings, steps_of, too_large
from tests.photos.conftest import BLUE, RED, clear, deep_grey, deep_png, drawn, encoded, moving, turned

MOST = 20 << 20
NEAR = 12  # of 255: what a JPEG at quality 95 may be off by


def sent(data: bytes, asked: Settings | None = None, most: int = MOST) -> tuple[tuple[str, ...], Image.Image]:
    """Return what is done to a photo, and the picture that is sent."""
    asked = asked or Settings()
    kind = kind_of(data)
    assert kind is not None
    facts = inspect(data, kind)
    assert facts.fault is None
    steps = steps_of(facts, asked)
    if not steps:
        return steps, Image.open(io.BytesIO(data))
    made, made_kind = prepare(data, facts, asked, most)
    assert kind_of(made) == made_kind
    again = inspect(made, made_kind)
    assert steps_of(again, Settings(max_side=asked.max_side, flatten=asked.flatten)) == ()
    return steps, Image.open(io.BytesIO(made))


def off(one: Image.Image, other: Image.Image) -> int:
    """Return how far two pictures are apart at most, in one channel of one pixel."""
    assert one.size == other.size
    extrema = ImageChops.difference(one.convert("RGB"), other.convert("RGB")).getextrema()
    return max(int(high) for _, high in extrema)  # type: ignore[misc]  # of RGB: a pair a channel


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_photos_are_sent_upright(kind: str, orientation: int) -> None:
    lossless = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    steps, picture = sent(turned(kind, orientation, **lossless))
    assert ("upright" in steps) == (orientation != 1)
    assert picture.getexif().get(0x0112, 1) == 1
    assert off(picture, drawn()) <= (NEAR if kind == "JPEG" else 0)


def test_photos_stay_as_they_are_where_that_is_asked() -> None:
    assert sent(turned("JPEG", 6), Settings(orient=False))[0] == ()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encoded("JPEG"), ()),
        (encoded("JPEG", progressive=True), ()),
        (encoded("JPEG", drawn("L")), ()),
        (encoded("PNG", drawn("1")), ()),
        (encoded("PNG", drawn(size=(1, 1))), ()),
        (encoded("PNG", clear()), ()),
        (encoded("PNG", clear("P")), ()),
        (encoded("WEBP", clear(), lossless=True), ()),
        (moving("MPO"), ()),
        (encoded("JPEG", drawn("CMYK"), quality=100), ("rgb",)),
        (encoded("TIFF", drawn("CMYK")), ("rgb", "format")),
        (deep_png(), ("eight_bit",)),
        (encoded("PNG", deep_grey()), ("eight_bit",)),
        (encoded("TIFF", deep_grey()), ("eight_bit", "format")),
        (moving("GIF"), ("still", "format")),
        (moving("WEBP"), ("still",)),
        (moving("PNG"), ("still",)),
        (encoded("GIF"), ("format",)),
        (encoded("BMP"), ("format",)),
        (encoded("AVIF"), ("format",)),
        (encoded("JPEG2000"), ("format",)),
        (encoded("HEIF"), ("format",)),
    ],
)
def test_what_every_kind_of_photo_comes_to(data: bytes, expected: tuple[str, ...]) -> None:
    steps, picture = sent(data)
    assert steps == expected
    assert picture.format in {"JPEG", "PNG", "WEBP", "MPO"}
    if picture.size == (120, 80) and picture.mode not in {"1", "L", "RGBA"} and "transparency" not in picture.info:
        corner, ground = picture.convert("RGB").getpixel((5, 5)), picture.convert("RGB").getpixel((100, 60))
        assert all(abs(a - b) < 30 for a, b in zip((*corner, *ground), (*BLUE, *RED), strict=True))  # type: ignore[misc]


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    picture = sent(encoded("PNG", deep_grey()))[1]
    assert picture.mode == "L"
    assert picture.getextrema() == (0, 4095 * 16 // 256)


def test_colours_of_print_follow_their_profile() -> None:
    """A profile that says what CMYK means is used, and a broken one is not in the way."""
    assert sent(encoded("JPEG", drawn("CMYK"), icc_profile=b"broken"))[1].mode == "RGB"
    wide = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert sent(turned("PNG", 6, icc_profile=wide))[1].info["icc_profile"] == wide


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGBA"), ("PNG", "P"), ("PNG", "LA"), ("WEBP", "RGBA"), ("TIFF", "RGBA")]
)
def test_transparency_stays_unless_it_is_flattened(kind: str, mode: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    data = encoded(kind, clear(mode), exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    assert sent(data)[1].convert("RGBA").getchannel("A").getextrema() == (0, 255)
    flat = sent(data, Settings(flatten="#ffffff"))[1]
    assert flat.mode in {"RGB", "L"}
    assert flat.getpixel((5, 5)) in {(255, 255, 255), 255}  # upside down: what let through is now at the left


def test_large_photos_are_scaled_on_request() -> None:
    noise = Image.frombytes("RGB", (64, 48), random.Random(1).randbytes(64 * 48 * 3)).resize((400, 300))
    data = encoded("JPEG", noise, quality=98)
    assert sent(data, Settings(max_side=400))[0] == ()
    steps, picture = sent(data, Settings(max_side=200))
    assert (steps, picture.size) == (("scaled",), (200, 150))
    made, kind = prepare(data, inspect(data, "jpeg"), Settings(max_bytes=5_000), MOST)
    assert (kind, len(made) <= 5_000) == ("jpeg", True)
    # What lets through stays a PNG, and is scaled.
    soft = noise.convert("RGBA")
    soft.putalpha(Image.linear_gradient("L").resize(soft.size))
    png = encoded("PNG", soft)
    made, kind = prepare(png, inspect(png, "png"), Settings(max_bytes=50_000), MOST)
    assert (kind, len(made) <= 50_000) == ("png", True)
    assert Image.open(io.BytesIO(made)).mode == "RGBA"
    with pytest.raises(ValueError, match="at most 300 can be sent"):
        prepare(deep_png(), inspect(deep_png(), "png"), Settings(), 300)


def test_metadata_goes_and_pixels_stay() -> None:
    exif = Image.Exif()
    exif[0x010F] = "the camera"
    data = encoded("JPEG", exif=exif, comment=b"at home")
    assert sent(data)[0] == ()
    steps, picture = sent(data, Settings(strip_metadata=True))
    assert steps == ("stripped",)
    assert not picture.getexif()
    assert "comment" not in picture.info
    assert off(picture, Image.open(io.BytesIO(data))) == 0


def test_copies_are_the_same_each_time() -> None:
    data = turned("JPEG", 6)
    facts = inspect(data, "jpeg")
    assert prepare(data, facts, Settings(), MOST) == prepare(data, facts, Settings(), MOST)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        *((kind.lower(), encoded(kind)) for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000")),
        ("jpeg", encoded("JPEG", progressive=True)),
        ("heic", encoded("HEIF")),
        ("png", encoded("PNG", clear())),
    ],
)
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_what_is_cut_off_is_broken(kind: str, data: bytes, part: float) -> None:
    cut = data[: int(len(data) * part)]
    assert kind_of(cut) == kind
    assert "does not decode" in (inspect(cut, kind).fault or "")


def test_a_png_whose_pixels_are_damaged_is_broken() -> None:
    """No byte of it is missing, and the look for its EXIF data meets the fault first."""
    damaged = bytearray(encoded("PNG"))
    damaged[damaged.index(b"IDAT") + 30] ^= 0xFF
    assert "does not decode" in (inspect(bytes(damaged), "png").fault or "")


@pytest.mark.parametrize(
    ("kind", "size", "said"),
    [
        ("PNG", (30_000, 30_000), "is a PNG of more than the 89 megapixels that are decoded"),
        ("PNG", (9_500, 9_500), "is a PNG of more than the 89 megapixels that are decoded"),
        ("JPEG", (17_000, 17_000), "is a JPEG of 17000x17000 pixels, more than the 250 megapixels that are decoded"),
    ],
)
def test_a_bomb_is_not_decoded(kind: str, size: tuple[int, int], said: str) -> None:
    small = bytearray(encoded(kind, drawn("L", (8, 8))))
    at = small.index(b"IHDR") + 4 if kind == "PNG" else small.index(b"\xff\xc0") + 5
    small[at : at + 8 if kind == "PNG" else at + 4] = (
        size[0].to_bytes(4) + size[1].to_bytes(4) if kind == "PNG" else size[1].to_bytes(2) + size[0].to_bytes(2)
    )
    if kind == "PNG":
        small[at + 13 : at + 17] = zlib.crc32(small[at - 4 : at + 13]).to_bytes(4)
    assert (inspect(bytes(small), kind.lower()).fault or "").startswith(said)  # type: ignore[arg-type]  # a kind


def test_what_is_too_large_to_be_converted_is_known_before() -> None:
    phone = Facts("jpeg", 9_000_000, width=12_000, height=9_000, mode="RGB")
    turned_phone = phone._replace(orientation=6)
    assert too_large(phone, Settings()) is None
    assert "12000x9000 pixels; at most 89 megapixels" in (too_large(turned_phone, Settings()) or "")
    assert too_large(turned_phone, Settings(max_side=8_000)) is not None
    assert too_large(turned_phone, Settings(max_side=2_048)) is None
    assert too_large(phone._replace(personal=True), Settings(strip_metadata=True)) is None


@pytest.mark.slow
def test_a_large_photo_is_decoded_small() -> None:
    data = encoded("JPEG", Image.new("L", (12_000, 8_000), 99))
    facts = inspect(data, "jpeg")
    assert (facts.fault, facts.width, facts.height) == (None, 12_000, 8_000)
    assert Image.open(io.BytesIO(prepare(data, facts, Settings(max_side=600), MOST).data)).size == (600, 400)


def test_colours_that_nobody_shows_are_refused() -> None:
    assert "colours of the kind LAB" in (inspect(encoded("TIFF", drawn("LAB")), "tiff").fault or "")


SEEDS = [encoded(kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "HEIF")]
SEEDS += [turned("JPEG", 6), turned("TIFF", 5), deep_png(), moving("WEBP"), encoded("JPEG", drawn("CMYK"))]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), max_size=6))
def test_damaged_bytes_are_judged_or_sent(data: bytes, damage: list[tuple[int, int]]) -> None:
    """Whatever a file holds is a photo or the end of a sentence, and never another exception."""
    damaged = bytearray(data)
    for at, value in damage:
        damaged[at % len(damaged)] = value
    kind = kind_of(bytes(damaged))
    facts = None if kind is None else inspect(bytes(damaged), kind)
    if facts is None or facts.fault is not None:
        return
    with contextlib.suppress(ValueError):
        made = prepare(bytes(damaged), facts, Settings(max_side=60, strip_metadata=True), MOST)
        assert kind_of(made.data) in {made.kind, facts.kind}


def test_a_grey_of_32_bits_is_refused_for_it_would_turn_black() -> None:
    facts = inspect(encoded("TIFF", Image.new("I", (9, 9), 200)), "tiff")
    assert facts.fault == "is a TIFF with 32 bits a sample; save it with 8 or 16"
