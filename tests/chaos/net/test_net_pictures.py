"""Answers that are no picture, or none that was ordered: each has its code, and none of them lands in images/."""

from __future__ import annotations

import base64
import io
import json
import struct
import zipfile
import zlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

if TYPE_CHECKING:
    from tests.chaos.net.conftest import Net, Program

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
HTML = b"<!DOCTYPE html><html><body>Just a moment...</body></html>"


def still(size: tuple[int, int] = (32, 32), shift: int = 0) -> Image.Image:
    image = Image.new("RGB", size)
    image.putdata([((x * 7 + shift) % 256, x * 13 % 256, x % 256) for x in range(size[0] * size[1])])
    return image


def saved(image: Image.Image, kind: str, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def moving(kind: str) -> bytes:
    return saved(
        still(), kind, save_all=True, append_images=[still(shift=90)], **({"duration": 50} if kind != "MPO" else {})
    )


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, pixels: bytes, *before: bytes) -> bytes:
    """A PNG of true colour with right checksums, whatever its pixel data is."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *before, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def many_scans() -> bytes:
    """A JPEG of 36 megapixels whose last scan comes 30,000 times: 2 MB that take minutes to decode."""
    image = saved(Image.new("L", (6000, 6000), 90), "JPEG", progressive=True)
    last = image.rindex(b"\xff\xda")
    return image[:last] + image[last:-2] * 30_000 + image[-2:]


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("evil.exe", b"MZ")
    return file.getvalue()


def no_pictures() -> dict[str, bytes]:
    """What comes in place of a PNG."""
    right, jpeg, webp = saved(still(), "PNG"), saved(still(), "JPEG"), saved(still(), "WEBP")
    flat = Image.new("RGB", (32, 32), (7, 7, 7))
    row = zlib.compress(bytes(1 + 3 * 32))
    return {
        "nothing": b"",
        "html": HTML,
        "svg": SVG,
        "svgxml": b'<?xml version="1.0"?>\n' + SVG,
        "json": b'{"error": "expired"}',
        "text": b"not found",
        "pdf": b"%PDF-1.7\n",
        "zip": zipped(),
        "gif": saved(still(), "GIF"),
        "bmp": saved(still(), "BMP"),
        "tiff": saved(still(), "TIFF"),
        "icon": saved(still(), "ICO"),
        "signature": right[:8],
        "half": right[: len(right) // 2],
        "noend": right[:-12],
        "lastbyte": right[:-1],
        "bitflip": right[:60] + bytes([right[60] ^ 1]) + right[61:],
        "animatedpng": moving("PNG"),
        "trailingzip": right + zipped(),
        "trailinghtml": right + b"<script>alert(1)</script>",
        "twopngs": right + right,
        "htmlfirst": HTML + right,
        "jpeg": jpeg,  # the right thing in the wrong kind
        "webp": webp,
        "pixels": png(60_000, 60_000, row),
        "fewpixels": png(4000, 4000, row),
        "nopixels": png(0, 32, row),
        "nozlib": png(32, 32, b"x" * 200),
        "blank": saved(flat, "PNG"),
        "wide": saved(still((64, 32)), "PNG"),
        "huge": right + b"\0" * (5 << 20),  # padding is harmless, but not by the megabyte
    }


WHOLE = {
    "gif",
    "icon",
    "bmp",
    "tiff",
    "jpeg",
    "png",
    "webp",
    "blank",
    "wide",
    "mpo",
    "twopngs",
    "trailingzip",
    "trailinghtml",
} | {
    "animatedpng",
    "animatedwebp",
}  # pictures all the same, which are not as ordered
CANARY_OFF = ("--set", "limits.canary=0")


def no_jpegs() -> dict[str, bytes]:
    """What comes in place of a JPEG."""
    jpeg, right = saved(still(), "JPEG"), saved(still(), "PNG")
    return {
        "half": jpeg[: len(jpeg) // 2],
        "noend": jpeg[:-2],
        "trailinghtml": jpeg + HTML,
        "mpo": moving("MPO"),
        "png": right,
        "animatedwebp": moving("WEBP"),
        "blank": saved(Image.new("RGB", (32, 32), (0, 0, 0)), "JPEG"),
        "scans": many_scans(),
        "svginjpeg": b"\xff\xd8\xff" + SVG,
    }


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_what_lies_behind_a_link_and_is_no_picture_lands_nowhere(net: Net, program: Program, kind: str) -> None:
    program.apart, cases = True, no_pictures() if kind == "png" else no_jpegs()
    for name, data in cases.items():
        net.gives(name, data)
    jobs = [{"prompt": f"#{name} cat", "output_format": kind, "aspect_ratio": "1:1"} for name in cases]
    ended = program.run(net.url, jobs, "--set", "output.max_bytes=4MB", *CANARY_OFF, attempts=1)
    assert ended.code == 1, ended.err
    found = {name: row["error_code"] for name, row in zip(cases, program.rows(), strict=True)}
    expected = dict.fromkeys(cases, "bad_image") | dict.fromkeys(WHOLE & cases.keys(), "differs")
    assert found == expected | ({"huge": "download"} if "huge" in cases else {})
    assert {(row["status"], row["attempts"], row["cost"]) for row in program.rows()} == {("failed", "1", "0.14")}
    assert program.images() == []
    kept = [path.read_bytes() for path in (program.folder / "out/m/rejected").iterdir()]
    assert sorted(kept) == sorted(cases[name] for name in WHOLE & cases.keys())
    assert not list((program.folder / "out/m/.spool").iterdir())
    assert ended.peak < 400


def test_what_comes_with_the_answer_and_is_no_picture_lands_nowhere_either(net: Net, program: Program) -> None:
    cases = no_pictures()
    del cases["huge"], cases["nothing"]
    for name, data in cases.items():
        body = json.dumps({"data": [{"b64_json": base64.b64encode(data).decode()}]})
        net.origin.answers[name] = net.framed(body.encode())
    jobs = [{"prompt": f"#{name} cat", "aspect_ratio": "1:1"} for name in cases]
    assert program.run(net.url, jobs, *CANARY_OFF, attempts=1).code == 1
    codes = Counter(row["error_code"] for row in program.rows())
    assert set(codes) <= {"bad_image", "differs", "no_image", "bad_answer"}
    assert codes["differs"] == len(WHOLE & cases.keys())
    assert program.images() == []


def test_structure_alone_takes_what_only_pixels_tell(net: Net, program: Program) -> None:
    cases = no_pictures()
    for name, data in cases.items():
        net.gives(name, data)
    jobs = [{"prompt": f"#{name} cat", "aspect_ratio": "1:1"} for name in cases]
    ended = program.run(
        net.url, jobs, "--set", "output.verify=structure", "--set", "output.max_bytes=4MB", *CANARY_OFF, attempts=1
    )
    assert ended.code == 1
    done = {name for name, row in zip(cases, program.rows(), strict=True) if row["status"] == "done"}
    assert done == {"blank", "nozlib"}, "what `verify: structure` cannot see, as the README says"


def test_a_reference_sent_back_is_not_a_result(net: Net, program: Program) -> None:
    photo = saved(still(), "JPEG")
    (program.folder / "photo.jpg").write_bytes(photo)
    net.origin.files["back"] = photo
    link, inline = f"{net.url}/files/back", f"data:image/jpeg;base64,{base64.b64encode(photo).decode()}"
    for name, target in (("link", link), ("inline", inline)):
        net.origin.answers[name] = net.chunked([net.frame(f"![image]({target})"), b"data: [DONE]\n\n"])
    jobs = [{"prompt": f"#{name} cat", "image": "photo.jpg"} for name in ("link", "inline")]
    assert program.run(net.url, jobs, style="chat").code == 1
    assert {(row["error_code"], row["attempts"], row["cost"]) for row in program.rows()} == {
        ("echoed_input", "1", "0.14")
    }
    assert program.images() == []
