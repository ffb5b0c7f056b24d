"""What becomes of a picture for a shop, whatever it was, and that one which is so already is left as it is."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageDraw

from batchflux.exports.shop.pictures import Finish, finished, look_at

PLAIN = Finish(max_side=2048, max_bytes=10_000_000)


def encoded(picture: Image.Image, kind: str = "JPEG", **more: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **more)
    return file.getvalue()


def decoded(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    assert (picture.format, picture.mode) == ("JPEG", "RGB")
    return picture


def colour(picture: Image.Image, x: int, y: int) -> tuple[int, ...]:
    found = picture.getpixel((x, y))
    assert isinstance(found, tuple)
    return tuple(int(value) for value in found)


def near(one: tuple[int, ...], other: tuple[int, ...], by: int = 6) -> bool:
    return all(abs(left - right) <= by for left, right in zip(one, other, strict=True))


def halves(size: tuple[int, int] = (80, 40), mode: str = "RGB") -> Image.Image:
    """Red at the left, blue at the right."""
    picture = Image.new("RGB", size, "red")
    ImageDraw.Draw(picture).rectangle((size[0] // 2, 0, *size), fill="blue")
    return picture.convert(mode)


def swapped_profile() -> bytes:
    """A profile in which red and green have each other's place."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = data.replace("sRGB".encode("utf-16-be"), "wild".encode("utf-16-be"))
    head, table, rest = data[:128], data[128:400], data[400:]
    for one, other in ((b"rXYZ", b"?XYZ"), (b"gXYZ", b"rXYZ"), (b"?XYZ", b"gXYZ")):
        table = table.replace(one, other, 1)
    return head + table + rest


def test_what_conforms_keeps_its_bytes() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for more in ({}, {"progressive": True}, {"icc_profile": srgb}, {"comment": b"signed by somebody"}):
        data = encoded(halves(), **more)
        assert finished(data, PLAIN) == data
    square = encoded(halves((40, 40)))
    assert finished(square, Finish(max_side=40, max_bytes=len(square), ratio=(1, 1))) == square


def test_colours_are_converted_and_the_profile_goes() -> None:
    for kind in ("JPEG", "PNG"):
        picture = decoded(
            finished(encoded(Image.new("RGB", (64, 64), "red"), kind, icc_profile=swapped_profile()), PLAIN)
        )
        assert near(colour(picture, 32, 32), (0, 255, 0), 12)
        assert "icc_profile" not in picture.info
    broken = encoded(halves(), icc_profile=b"no profile at all")
    assert near(colour(decoded(finished(broken, PLAIN)), 2, 2), (254, 0, 0))


@pytest.mark.parametrize(
    ("mode", "kind", "expected"),
    [
        ("L", "JPEG", (76, 76, 76)),
        ("CMYK", "JPEG", (254, 0, 0)),
        ("CMYK", "TIFF", (254, 0, 0)),
        ("P", "PNG", (254, 0, 0)),
        ("P", "GIF", (254, 0, 0)),
        ("LA", "PNG", (76, 76, 76)),
        ("1", "PNG", (0, 0, 0)),
        ("RGBA", "WEBP", (254, 0, 0)),
        ("I;16", "PNG", (76, 76, 76)),
    ],
)
def test_pictures_of_all_kinds_come_to_rgb(mode: str, kind: str, expected: tuple[int, ...]) -> None:
    picture = halves(mode="L").convert("I").point(lambda value: value * 256) if mode == "I;16" else None
    source = halves(mode=mode) if picture is None else Image.frombytes("I;16", picture.size, _low_halves(picture))
    made = decoded(finished(encoded(source, kind), PLAIN))
    assert near(colour(made, 3, 3), expected)


def _low_halves(picture: Image.Image) -> bytes:
    data = picture.tobytes()
    return b"".join(data[at : at + 2] for at in range(0, len(data), 4))


def test_what_lets_through_comes_to_stand_on_white() -> None:
    picture = halves(mode="RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size).point(lambda value: 255 if value > 127 else 0))
    for source in (encoded(picture, "PNG"), encoded(picture, "WEBP", lossless=True)):
        made = decoded(finished(source, PLAIN))
        assert colour(made, 3, 3) == (255, 255, 255)
        assert near(colour(made, 3, 36), (254, 0, 0))
    palette = halves(mode="P")
    made = decoded(finished(encoded(palette, "PNG", transparency=palette.getpixel((2, 2))), PLAIN))
    assert colour(made, 3, 3) == (255, 255, 255)


def test_turned_pictures_are_set_upright_and_photos_lose_what_they_tell() -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    made = decoded(finished(encoded(halves(), exif=exif), PLAIN))
    assert made.size == (40, 80)
    assert near(colour(made, 20, 3), (254, 0, 0))
    assert "exif" not in made.info
    exif = Image.Exif()
    exif[0x10F] = "a camera, and a place"
    data = encoded(halves(), exif=exif)
    assert finished(data, PLAIN) == data
    assert b"a place" not in finished(data, PLAIN, private=True)
    plain = encoded(halves())
    assert finished(plain, PLAIN, private=True) == plain


def test_ratios_are_padded_or_cropped() -> None:
    data = encoded(halves((80, 40)), quality=95)
    padded = decoded(finished(data, Finish(max_side=2048, max_bytes=10**6, ratio=(1, 1), pad=(0, 255, 0))))
    assert padded.size == (80, 80)
    assert near(colour(padded, 40, 4), (0, 255, 0))
    assert near(colour(padded, 4, 40), (254, 0, 0))
    cropped = decoded(finished(data, Finish(max_side=2048, max_bytes=10**6, ratio=(1, 1), crop=True)))
    assert cropped.size == (40, 40)
    assert near(colour(cropped, 4, 4), (254, 0, 0))
    assert near(colour(cropped, 36, 4), (0, 0, 254))
    portrait = decoded(finished(data, Finish(max_side=50, max_bytes=10**6, ratio=(4, 5))))
    assert portrait.size == (40, 50)


def test_too_many_bytes_lower_the_quality_and_then_the_size() -> None:
    noise = Image.effect_noise((400, 300), 90).convert("RGB")
    data = encoded(noise, "PNG")
    sizes = []
    for most in (10_000_000, 100_000, 20_000, 2_000):
        made = finished(data, Finish(max_side=2048, max_bytes=most))
        assert len(made) <= most
        sizes.append(decoded(made).size)
    assert sizes[:2] == [(400, 300)] * 2
    assert sizes[1] > sizes[2] > sizes[3]
    with pytest.raises(ValueError, match=r"has [0-9,]+ bytes even at [0-9x]+: raise --max-bytes"):
        finished(data, Finish(max_side=2048, max_bytes=100))
    with pytest.raises(ValueError, match="damaged"):
        finished(encoded(noise)[:900], Finish(max_side=100, max_bytes=10**6))
    with pytest.raises(ValueError, match="no picture of a kind"):
        finished(b"words", PLAIN)


def test_borders_are_looked_at_as_they_are_in_the_file() -> None:
    check = Finish(max_side=2048, max_bytes=10**6, check_white=True, thumbnail=True)
    white = Image.new("RGB", (300, 200), "white")
    ImageDraw.Draw(white).ellipse((60, 40, 240, 160), fill="navy")
    look = look_at(finished(encoded(white, "PNG"), check), check)
    assert (look.width, look.height, look.border) == (300, 200, "yes")
    assert max(decoded(look.thumbnail).size) == 96
    white.putpixel((299, 100), (80, 80, 80))
    ImageDraw.Draw(white).line((0, 199, 290, 199), fill=(250, 250, 250))
    said = look_at(encoded(white, quality=100, subsampling=0), check).border
    assert said.startswith("no: right ")
    assert ", bottom 2" in said
    assert "top" not in said
    assert look_at(encoded(white), PLAIN).border == ""


MODES = {"RGB": "PNG", "RGBA": "PNG", "L": "JPEG", "CMYK": "JPEG", "P": "GIF", "LA": "WEBP"}
SIDES = st.integers(1, 70)


@settings(max_examples=60, deadline=None)
@given(
    mode=st.sampled_from(sorted(MODES)),
    size=st.tuples(SIDES, SIDES),
    ratio=st.none() | st.tuples(st.integers(1, 9), st.integers(1, 9)),
    crop=st.booleans(),
    side=st.integers(16, 80),
    turned=st.integers(1, 8),
)
def test_whatever_it_was_it_fits_and_is_then_left_alone(
    mode: str, size: tuple[int, int], ratio: tuple[int, int] | None, *, crop: bool, side: int, turned: int
) -> None:
    finish = Finish(max_side=side, max_bytes=100_000, ratio=ratio, crop=crop)
    exif = Image.Exif()
    exif[0x112] = turned
    source = Image.effect_noise(size, 60).convert("RGB").convert(mode)
    made = finished(
        encoded(source, MODES[mode], exif=exif) if MODES[mode] == "JPEG" else encoded(source, MODES[mode]), finish
    )
    width, height = decoded(made).size
    assert max(width, height) <= side
    if ratio is not None:
        assert abs(width * ratio[1] - height * ratio[0]) < max(ratio) or 1 in (width, height)
    if ratio is None or 1 not in (width, height):
        assert finished(made, finish) == made
