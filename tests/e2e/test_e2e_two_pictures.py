"""An answer that holds several pictures: one is the job's, the others are kept beside it, and said."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import web
from PIL import Image

from batchflux.planner import load_manifest
from batchflux.runner import RunOptions, run
from batchflux.testing.serving import serving
from tests.program import program

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping
    from pathlib import Path

    from batchflux.ledger.summary import Summary
    from batchflux.testing.program import Program

__all__ = ["program"]

IMAGES, CHAT = "/v1/images/generations", "/v1/chat/completions"


async def at_once(_name: str) -> None:
    """Wait for nothing."""


def picture(shade: int) -> bytes:
    file = io.BytesIO()
    image = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    image.putpixel((0, 0), (shade, 0, 0))
    image.save(file, "PNG")
    return file.getvalue()


@contextmanager
def relay(
    path: str,
    body: Callable[[str, str], Any],
    files: Mapping[str, bytes],
    arrives: Callable[[str], Awaitable[None]] = at_once,
) -> Iterator[str]:
    """Serve a relay whose `body` answers its URL and a request's text; `files` are given once they have arrived."""

    async def answer(request: web.Request) -> web.Response:
        said = body(f"http://{request.host}", await request.text())
        return (
            web.Response(text=said, content_type="text/event-stream")
            if isinstance(said, str)
            else web.json_response(said)
        )

    async def file(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        await arrives(name)
        return web.Response(body=files[name], content_type="image/png") if name in files else web.Response(status=404)

    app = web.Application()
    app.router.add_post(path, answer)
    app.router.add_get("/{name}", file)
    with serving(app) as url:
        yield url


def streamed(words: str) -> str:
    """Return the stream of a chat that says these words."""
    chunk = json.dumps({"choices": [{"index": 0, "delta": {"content": words}}]})
    return f"data: {chunk}\n\ndata: [DONE]\n\n"


def made(folder: Path, url: str, jobs: str, style: str = "standard") -> Summary:
    """Run a manifest of these jobs."""
    path = folder / "m.yaml"
    path.write_text(f"version: 1\nprovider: {{name: tuzi, base_url: {url}, keys: [K], style: {style}}}\njobs:\n{jobs}")
    manifest = load_manifest(path, out=str(folder / "new"))
    return asyncio.run(run(manifest, RunOptions(environ={"K": "sk-test"})))


def rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "new/results.csv").open(newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def test_further_pictures_are_kept_and_never_written_over(tmp_path: Path) -> None:
    first, second, third = (picture(shade) for shade in (1, 2, 3))
    both = asyncio.Barrier(2)

    async def together(name: str) -> None:
        if name in {"second.png", "gone.png"}:
            await asyncio.wait_for(both.wait(), 60)  # none comes before the other was asked for

    def body(base: str, asked: str) -> Any:
        links = [{"url": f"{base}/{name}.png"} for name in ("first", "second", "second", "gone")]
        inside = [base64.b64encode(one).decode() for one in (first, third)]
        return {"data": links} if "links" in asked else {"images": inside}

    with relay(IMAGES, body, {"first.png": first, "second.png": second}, together) as url:
        jobs = "  - {id: mug, prompt: links, output_format: png}\n  - {id: cup, prompt: inside, output_format: png}\n"
        ended = made(tmp_path, url, jobs)
    assert ended.jobs["done"] == 2
    images = tmp_path / "new" / "images"
    assert {one.name: one.read_bytes() for one in images.iterdir()} == {
        "mug.png": first,
        "mug_2.png": second,
        "cup.png": first,
        "cup_2.png": third,
    }
    remarks = {name: row["remarks"] for name, row in rows(tmp_path).items()}
    assert remarks["cup"] == "the answer had another picture, kept as images/cup_2.png"
    assert remarks["mug"].startswith("the answer had another picture, kept as images/mug_2.png; ")
    assert "could not be kept" in remarks["mug"]


def test_further_pictures_are_kept_and_said_whatever_becomes_of_the_jobs_own(tmp_path: Path) -> None:
    one, photo, white = picture(1), picture(2), io.BytesIO()
    (tmp_path / "photo.png").write_bytes(photo)
    Image.new("RGB", (64, 64), "white").save(white, "PNG")

    def body(base: str, asked: str) -> str:
        own = next(name for name in ("same", "gone", "white", "photo") if f"job {name}" in asked)
        last = own if own != "same" else "one.png?again=1"
        links = ("one.png", f"two.png?sig={'5' * 40}", last)
        return streamed("\n".join(f"![image]({base}/{link})" for link in links) + f"\n[点击下载]({base}/load)")

    with relay(CHAT, body, {"one.png": one, "white": white.getvalue(), "photo": photo}) as url:
        jobs = [f"  - {{id: {name}, prompt: job {name}}}\n" for name in ("same", "gone", "white")]
        jobs.append("  - {id: photo, prompt: job photo, images: [photo.png]}\n")
        made(tmp_path, url, "".join(jobs), style="chat")
    folder = tmp_path / "new"
    lost = f"the answer had another picture, which could not be kept from {url}/two.png ("
    found = rows(tmp_path)
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

    def body(_base: str, _asked: str) -> str:
        inside = (f"![image](data:image/png;base64,{base64.b64encode(data).decode()})" for data in (two, one))
        return streamed("\n".join(inside))

    with relay(CHAT, body, {}) as url:
        program.manifest(url, "  - {id: mug, prompt: a mug, style: chat}\n")
        assert program.finish(program.start("run", "m.yaml", BATCHFLUX_KILL_AT="answer.recorded")).code == -9
    assert (program.out / "images/mug_2.png").read_bytes() == two
    assert program.run().code == 0
    assert (program.out / "images/mug.png").read_bytes() == one


def test_links_of_further_pictures_outlive_the_process(program: Program) -> None:
    one, two = (picture(shade) for shade in (1, 2))
    asked: list[str] = []

    def body(base: str, text: str) -> Any:
        asked.append(text)
        return {"data": [{"url": f"{base}/{name}?sig={'5' * 40}"} for name in ("one.png", "two.png")]}

    with relay(IMAGES, body, {"one.png": one, "two.png": two}) as url:
        program.manifest(url, "  - {id: mug, prompt: a mug}\n")
        for moment in ("answer.recorded", "picture.moved"):
            assert program.finish(program.start("run", "m.yaml", BATCHFLUX_KILL_AT=moment)).code == -9
        assert program.run().code == 0
    assert len(asked) == 1
    images = program.out / "images"
    assert {file.name: file.read_bytes() for file in images.iterdir()} == {"mug.png": one, "mug_2.png": two}
    assert ("5" * 40).encode() not in (program.out / "ledger.db").read_bytes()
