"""An answer that holds several pictures: one is the job's, the others are kept beside it, and said."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import json
from typing import TYPE_CHECKING, Any

from aiohttp import web
from PIL import Image

from batchflux.planner import load_manifest
from batchflux.runner import RunOptions, run
from batchflux.testing.serving import serving
from tests.program import program

if TYPE_CHECKING:
    from pathlib import Path

    from batchflux.testing.program import Program

__all__ = ["program"]


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


def test_further_pictures_are_kept_and_said_whatever_becomes_of_the_jobs_own(tmp_path: Path) -> None:
    one, photo = picture(1), picture(2)
    (tmp_path / "photo.png").write_bytes(photo)
    front: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        text = await request.text()
        own = next(name for name in ("same", "gone", "white", "photo") if f"job {name}" in text)
        last = own if own != "same" else "one.png?again=1"
        words = (
            f"![image]({front[0]}/one.png)\n![image]({front[0]}/two.png?sig={'5' * 40})\n![image]({front[0]}/{last})"
        )
        chunk = json.dumps({"choices": [{"index": 0, "delta": {"content": f"{words}\n[点击下载]({front[0]}/load)"}}]})
        return web.Response(text=f"data: {chunk}\n\ndata: [DONE]\n\n", content_type="text/event-stream")

    async def file(request: web.Request) -> web.Response:
        white = io.BytesIO()
        Image.new("RGB", (64, 64), "white").save(white, "PNG")
        kept = {"one.png": one, "white": white.getvalue(), "photo": photo}
        body = kept.get(request.match_info["name"])
        return web.Response(body=body, content_type="image/png") if body else web.Response(status=404)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    app.router.add_get("/{name}", file)
    with serving(app) as url:
        front.append(url)
        path = tmp_path / "m.yaml"
        path.write_text(
            f"version: 1\nprovider: {{name: tuzi, base_url: {url}, keys: [K], style: chat}}\njobs:\n"
            + "".join(f"  - {{id: {name}, prompt: job {name}}}\n" for name in ("same", "gone", "white"))
            + "  - {id: photo, prompt: job photo, images: [photo.png]}\n"
        )
        manifest = load_manifest(path, out=str(tmp_path / "new"))
        asyncio.run(run(manifest, RunOptions(environ={"K": "sk-test"})))
    folder = tmp_path / "new"
    lost = f"the answer had another picture, which could not be kept from {front[0]}/two.png ("
    with (folder / "results.csv").open(newline="") as rows:
        found = {row["id"]: row for row in csv.DictReader(rows)}
    assert {name: row["error_code"] for name, row in found.items()} == {
        "same": "", "gone": "download", "white": "differs", "photo": "echoed_input"
    }  # fmt: skip
    assert {one.name: one.read_bytes() for one in (folder / "images").iterdir()} == {
        "same.png": one, "gone_2.png": one, "white_2.png": one, "photo_2.png": one
    }  # fmt: skip
    assert found["same"]["remarks"].startswith(lost)
    for name, column in (("gone", "error"), ("white", "remarks"), ("photo", "error")):
        said = found[name][column]
        assert f"the answer had another picture, kept as images/{name}_2.png; {lost}" in said
    assert "5" * 40 not in (folder / "results.csv").read_text()


def test_further_pictures_that_came_inside_are_kept_before_anything_can_end_the_run(program: Program) -> None:
    one, two = (picture(shade) for shade in (1, 2))

    async def answer(_: web.Request) -> web.Response:
        words = "\n".join(f"![image](data:image/png;base64,{base64.b64encode(data).decode()})" for data in (two, one))
        chunk = json.dumps({"choices": [{"index": 0, "delta": {"content": words}}]})
        return web.Response(text=f"data: {chunk}\n\ndata: [DONE]\n\n", content_type="text/event-stream")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    with serving(app) as url:
        program.manifest(url, "  - {id: mug, prompt: a mug, style: chat}\n")
        assert program.finish(program.start("run", "m.yaml", BATCHFLUX_KILL_AT="answer.recorded")).code == -9
    assert (program.out / "images/mug_2.png").read_bytes() == two
    assert program.run().code == 0
    assert (program.out / "images/mug.png").read_bytes() == one


def test_links_of_further_pictures_outlive_the_process(program: Program) -> None:
    one, two = (picture(shade) for shade in (1, 2))
    asked: list[str] = []
    front: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(await request.text())
        return web.json_response(
            {"data": [{"url": f"{front[0]}/{name}.png?sig={'5' * 40}"} for name in ("one", "two")]}
        )

    async def file(request: web.Request) -> web.Response:
        return web.Response(body={"one.png": one, "two.png": two}[request.match_info["name"]], content_type="image/png")

    app = web.Application()
    app.router.add_post("/v1/images/generations", answer)
    app.router.add_get("/{name}", file)
    with serving(app) as url:
        front.append(url)
        program.manifest(url, "  - {id: mug, prompt: a mug}\n")
        for moment in ("answer.recorded", "picture.moved"):
            assert program.finish(program.start("run", "m.yaml", BATCHFLUX_KILL_AT=moment)).code == -9
        assert program.run().code == 0
    assert len(asked) == 1
    images = program.out / "images"
    assert {file.name: file.read_bytes() for file in images.iterdir()} == {"mug.png": one, "mug_2.png": two}
    assert ("5" * 40).encode() not in (program.out / "ledger.db").read_bytes()
