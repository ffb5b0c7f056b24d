"""An answer that lists several pictures: the first is the job's, the others are kept beside it, and said."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
from typing import TYPE_CHECKING, Any

from aiohttp import web
from PIL import Image

from batchflux.planner import load_manifest
from batchflux.runner import RunOptions, run
from batchflux.testing.serving import serving

if TYPE_CHECKING:
    from pathlib import Path


def picture(shade: int) -> bytes:
    file = io.BytesIO()
    image = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    image.putpixel((0, 0), (shade, 0, 0))
    image.save(file, "PNG")
    return file.getvalue()


def test_further_pictures_are_kept_and_never_written_over(tmp_path: Path) -> None:
    first, second, third = (picture(shade) for shade in (1, 2, 3))
    front: list[str] = []
    both = asyncio.Barrier(2)

    async def answer(request: web.Request) -> web.Response:
        inside = base64.b64encode(third).decode()
        links = [{"url": f"{front[0]}/{name}.png"} for name in ("first", "second", "second", "gone")]
        body: Any = {"images": [base64.b64encode(first).decode(), inside]}
        return web.json_response({"data": links} if "links" in await request.text() else body)

    async def file(request: web.Request) -> web.Response:
        if request.match_info["name"] in {"second.png", "gone.png"}:
            await asyncio.wait_for(both.wait(), 20)  # none comes before the other was asked for
        kept = {"first.png": first, "second.png": second}.get(request.match_info["name"])
        return web.Response(body=kept, content_type="image/png") if kept else web.Response(status=404)

    app = web.Application()
    app.router.add_post("/v1/images/generations", answer)
    app.router.add_get("/{name}", file)
    with serving(app) as url:
        front.append(url)
        path = tmp_path / "m.yaml"
        path.write_text(
            f"version: 1\nprovider: {{name: tuzi, base_url: {url}, keys: [K]}}\njobs:\n"
            "  - {id: mug, prompt: links, output_format: png}\n  - {id: cup, prompt: inside, output_format: png}\n"
        )
        manifest = load_manifest(path, out=str(tmp_path / "new"))
        ended = asyncio.run(run(manifest, RunOptions(environ={"K": "sk-test"})))
    assert ended.jobs["done"] == 2
    images = tmp_path / "new" / "images"
    assert {one.name: one.read_bytes() for one in images.iterdir()} == {
        "mug.png": first,
        "mug_2.png": second,
        "cup.png": first,
        "cup_2.png": third,
    }
    with (tmp_path / "new" / "results.csv").open(newline="") as rows:
        remarks = {row["id"]: row["remarks"] for row in csv.DictReader(rows)}
    assert remarks["cup"] == "the answer had another picture, kept as images/cup_2.png"
    assert remarks["mug"].startswith("the answer had another picture, kept as images/mug_2.png; ")
    assert "could not be kept" in remarks["mug"]
