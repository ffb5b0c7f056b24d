"""Photos as they reach the provider: upright, in RGB, and never a broken one."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from PIL import Image, ImageChops

from tests.photos.conftest import drawn, encoded, turned

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.testing.bank import Bank
    from batchflux.testing.program import Program


def received(bank: Bank) -> dict[str, Image.Image]:
    """Return the photo that each prompt came with."""
    made: dict[str, Image.Image] = {}
    for seen in bank.seen:
        text, image = seen.body["messages"][0]["content"]
        head, _, data = image["image_url"]["url"].partition(";base64,")
        picture = Image.open(io.BytesIO(base64.b64decode(data)))
        assert head == f"data:image/{(picture.format or '').lower()}"
        made[text["text"].rpartition(" ")[2]] = picture
    return made


def test_the_provider_gets_what_it_can_read(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    photos = {
        "up.jpg": turned("JPEG", 6, quality=95, subsampling=0),
        "print.jpg": encoded("JPEG", drawn("CMYK")),
        "phone.HEIC": encoded("HEIF"),
        "plain.png": encoded("PNG"),
        "half.jpg": encoded("JPEG")[:400],
    }
    (program.folder / "p").mkdir()
    for name, data in photos.items():
        (program.folder / "p" / name).write_bytes(data)
    jobs = "".join(f"  - {{id: {name}, prompt: 'job {name} #data {name}', image: p/{name}}}\n" for name in photos)
    name = manifest(jobs + "  - {id: gone, prompt: gone, image: p/gone.jpg}\n")
    planned = program("plan", name)
    assert planned.code == 1
    assert "turned upright 1, colours to RGB 1, format converted 1" in planned.out
    assert planned.out.count("half.jpg: the reference p/half.jpg is a JPEG that is cut off") == 1
    ended = program("run", name)
    assert ended.code == 1, ended.err
    seen = received(bank)
    assert {name: picture.format for name, picture in seen.items()} == {
        "up.jpg": "JPEG",
        "print.jpg": "JPEG",
        "phone.HEIC": "JPEG",
        "plain.png": "PNG",
    }
    for picture in seen.values():
        difference = ImageChops.difference(picture.convert("RGB"), drawn()).resize((12, 8), Image.Resampling.BOX)
        assert max(high for _, high in difference.getextrema()) < 40  # type: ignore[misc]  # of RGB: a pair a channel
    codes = {row["id"]: row["error_code"] for row in program.rows()}
    assert codes == dict.fromkeys(photos, "") | {"half.jpg": "reference", "gone": "reference"}
    assert (program("run", name).code, len(bank.seen)) == (1, 4)
