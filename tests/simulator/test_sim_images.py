from __future__ import annotations

import os
import subprocess
import sys
from hashlib import sha256
from io import BytesIO
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageStat

from batchflux.errors import UsageError
from batchflux.simulator.drawing import WIDEST, Recipe, draw, pixels
from batchflux.simulator.images import (
    NoPictureError,
    NotAPictureError,
    ReferenceCache,
    caption,
    decode,
    file_path,
    reduce,
)
from batchflux.simulator.requests import Upload

if TYPE_CHECKING:
    from pathlib import Path

    from tests.simulator.conftest import Client, Serve, Tools

RATIOS = ["1:1", "16:9", "9:16", "3:2", "2:3", "4:5", "21:9", "9:21", "7:5", "1.85:1"]


async def fetched(client: Client, prompt: str = "A mug", **fields: object) -> bytes:
    answer = await client.get((await client.standard(prompt, **fields)).url)
    assert answer.status == 200
    return answer.body


@pytest.mark.parametrize("size", [40, 256])
async def test_the_ratio_is_honoured(serve: Serve, tools: type[Tools], size: int) -> None:
    client = await serve(size=size)
    for ratio in RATIOS:
        picture = tools.opened(await fetched(client, aspect_ratio=ratio))
        wide, high = map(float, ratio.split(":"))
        assert max(picture.size) == size
        assert abs(picture.width / picture.height / (wide / high) - 1) <= 0.03, ratio


@settings(max_examples=60)
@given(st.floats(1 / WIDEST, WIDEST), st.integers(40, 2048))
def test_any_ratio_at_any_size_is_within_three_percent(ratio: float, size: int) -> None:
    width, height = pixels(ratio, size)
    assert max(width, height) == size
    assert abs(width / height / ratio - 1) <= 0.03


@pytest.mark.parametrize(
    ("asked", "kind", "suffix"),
    [(None, "JPEG", "jpg"), ("jpeg", "JPEG", "jpg"), ("png", "PNG", "png"), ("webp", "WEBP", "webp")],
)
async def test_the_format_is_honoured(
    serve: Serve, tools: type[Tools], asked: str | None, kind: str, suffix: str
) -> None:
    client = await serve()
    answer = await client.standard(**({"output_format": asked} if asked else {}))
    page = await client.get(answer.url)
    assert answer.url.endswith(f".{suffix}")
    assert page.headers["Content-Type"] == f"image/{kind.lower()}"
    assert tools.opened(page.body).format == kind


async def test_each_input_changes_the_picture_and_nothing_else_does(serve: Serve, tools: type[Tools]) -> None:
    client = await serve()
    base = await fetched(client)
    assert await fetched(client, safety_tolerance=3, prompt_upsampling=True) == base
    others = [
        await fetched(client, "A cup"),
        await fetched(client, seed=1),
        await fetched(client, seed=2),
        await fetched(client, aspect_ratio="3:2"),
        await fetched(client, output_format="png"),
        await fetched(client, "https://photos.example/a.png A mug"),
        await fetched(client, "https://photos.example/b.png A mug"),
        (await client.get((await client.chat("A mug", tools.photo())).url)).body,
        (await client.get((await client.chat("A mug", tools.photo(), tools.photo(80, 90, "red"))).url)).body,
        (await client.get((await client.chat("A mug", tools.photo(80, 90, "red"), tools.photo())).url)).body,
    ]
    assert len({base, *others}) == len(others) + 1


async def test_both_styles_draw_the_same(serve: Serve) -> None:
    client = await serve()
    prompt = "https://photos.example/a.png Blue"
    assert (await client.get((await client.chat(prompt)).url)).body == await fetched(client, prompt)


async def test_the_picture_shows_its_reference(serve: Serve, tools: type[Tools]) -> None:
    client = await serve(size=128)
    grey, seen = tools.photo(150, 100, "black"), []
    for colour in ("black", "white"):
        answer = await client.get((await client.chat("Same prompt", tools.photo(150, 100, colour))).url)
        picture = tools.opened(answer.body)
        assert picture.size == (128, 85)
        seen.append(sum(ImageStat.Stat(picture.crop((96, 20, 120, 50))).mean))
    assert grey != tools.photo(150, 100, "white")
    assert seen[1] - seen[0] > 250


async def test_the_same_link_serves_the_same_bytes_after_a_restart(serve: Serve, tools: type[Tools]) -> None:
    first = await serve(size=256)
    chat = await first.chat("Blue", tools.photo(300, 200), tools.photo(90, 160, "red"))
    standard = await first.standard("Blue", seed=4, aspect_ratio="4:3", output_format="png")
    before = [await first.get(answer.url) for answer in (chat, standard)]
    second = await serve(size=64, seed=9)  # while the first has its port: this one has another for sure
    await first.simulator.stop()
    assert second.base != first.base
    after = [await second.get(urlsplit(answer.url).path) for answer in (chat, standard)]
    assert [page.status for page in after] == [200, 200]
    assert [page.body for page in after] == [page.body for page in before]


async def test_the_download_link_serves_the_same_picture(serve: Serve) -> None:
    client = await serve()
    answer = await client.chat()
    other = answer.text.rpartition("](")[2].split(")")[0]
    assert other != answer.url
    page = await client.get(other)
    assert page.body == (await client.get(answer.url)).body
    assert page.headers["Content-Disposition"] == 'attachment; filename="picture.jpg"'


async def test_links_carry_the_name_the_client_called(serve: Serve) -> None:
    client = await serve()
    port = client.simulator.port
    body = {"model": "m", "prompt": "x"}
    answer = await client.post("/v1/images/generations", body, headers={"Host": f"relay.test:{port}"})
    assert answer.url.startswith(f"http://relay.test:{port}/v1/files/")


PROGRAM = """
import sys
from hashlib import sha256
from io import BytesIO
from batchflux.simulator.drawing import draw
from batchflux.simulator.images import decode
from batchflux.simulator.images import ReferenceCache
for path in sys.argv[2:]:
    print(sha256(draw(decode(path), ReferenceCache(sys.argv[1]).read)).hexdigest())
"""


async def test_another_process_draws_the_same_bytes(serve: Serve, tools: type[Tools], tmp_path: Path) -> None:
    client = await serve()
    asked = [await client.standard(f"A mug {index}", output_format="png") for index in range(6)]
    asked.append(await client.chat("Blue", tools.photo()))
    here = [sha256((await client.get(answer.url)).body).hexdigest() for answer in asked]
    paths = [answer.url.partition("/v1/files/")[2] for answer in asked]
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "uploads"), *paths]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    there = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)  # noqa: ASYNC221  nothing else runs
    assert there.stdout.split() == here


def path_of(**fields: object) -> str:
    """Return a link's path with fields that a recipe may not have."""
    return file_path(Recipe.model_construct(**{"digest": "0" * 32, "caption": "x", **fields}))  # type: ignore[arg-type]


BAD_PATHS = [
    *("x.jpg", ".jpg", "../../etc/passwd", "a" * 5000 + ".jpg"),
    path_of(output_format="png").replace(".png", ".jpg"),
    path_of(size=99_999),
    path_of(digest="0" * 31),
    path_of(ratio="100:1"),
    path_of(caption="x" * 400),
    path_of(references=("f../../etc/passwd",)),
    path_of(references=("u" + "0" * 16,) * 5),
    path_of(references=("f" + "0" * 64,)),
]


async def test_a_link_it_never_gave_is_not_found(serve: Serve) -> None:
    client = await serve()
    for path in BAD_PATHS:
        answer = await client.get(f"/v1/files/{path}")
        assert answer.status == 404, path
        assert answer.json["error"]["type"] == "invalid_request_error"


@settings(max_examples=60)
@given(st.binary(max_size=60))
def test_wild_tokens_are_refused_in_one_way(token: bytes) -> None:
    with pytest.raises(NoPictureError):
        decode(f"{token.decode('latin-1')}.jpg")


TEXT = st.text(max_size=100)


@settings(max_examples=20)
@given(TEXT, st.sampled_from(["", *RATIOS]), st.integers(40, 96))
def test_any_prompt_can_be_drawn(prompt: str, ratio: str, size: int) -> None:
    recipe = Recipe(
        digest=sha256(prompt.encode("utf-8", "replace")).hexdigest()[:32],
        caption=caption(prompt),
        ratio=ratio,
        size=size,
    )
    assert decode(file_path(recipe)) == recipe
    assert len(file_path(recipe)) < 1500
    assert draw(recipe, lambda _: b"")


def test_captions_show_what_the_font_can() -> None:
    assert caption("Ein schöner  Becher, café") == "Ein schoner Becher, cafe"
    assert caption("杯子") == caption("杯子") != caption("桌子")
    assert caption("杯子").startswith("prompt ")
    assert len(caption("word " * 100)) <= 60


def upload(data: bytes) -> Upload:
    return Upload(sha256=sha256(data).hexdigest(), place="x", data=data)


def test_the_cache_is_private_and_bounded(tmp_path: Path, tools: type[Tools]) -> None:
    folder = tmp_path / "cache"
    one = len(reduce(tools.photo(60, 40, "red")))
    cache = ReferenceCache(str(folder), limit=one * 4)
    cache.prepare()
    assert folder.stat().st_mode & 0o777 == 0o700
    for index in range(20):
        cache.keep(upload(tools.photo(60, 40, f"hsl({index * 10}, 80%, 50%)")))
    assert sum(file.stat().st_size for file in folder.iterdir()) <= one * 5
    newest = upload(tools.photo(60, 40, "hsl(190, 80%, 50%)"))
    assert cache.read(newest.sha256)


def test_what_was_just_kept_stays_whatever_the_times_of_others_say(tmp_path: Path, tools: type[Tools]) -> None:
    cache = ReferenceCache(str(tmp_path), limit=len(reduce(tools.photo(60, 40, "red"))) * 4)
    for index in range(4):
        cache.keep(upload(tools.photo(60, 40, f"hsl({index * 10}, 80%, 50%)")))
    for file in tmp_path.iterdir():
        os.utime(file, (4e9, 4e9))
    newest = upload(tools.photo(60, 40, "hsl(190, 80%, 50%)"))
    cache.keep(newest)
    assert cache.read(newest.sha256)


def test_the_cache_reduces_large_uploads(tmp_path: Path, tools: type[Tools]) -> None:
    data = tools.photo(1600, 800)
    ReferenceCache(str(tmp_path)).keep(upload(data))
    assert tools.opened((tmp_path / f"{sha256(data).hexdigest()}.jpg").read_bytes()).size == (1024, 512)


def test_a_folder_that_others_may_write_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(UsageError, match="is not yours alone to write; name another as cache_dir"):
        ReferenceCache(str(folder)).prepare()


def test_a_folder_behind_a_symlink_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(UsageError, match="is not yours alone"):
        ReferenceCache(str(tmp_path / "link")).prepare()


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="cannot be used: File exists"):
        ReferenceCache(str(tmp_path / "file")).prepare()


def test_the_cache_survives_its_folder_being_cleaned_away(tmp_path: Path, tools: type[Tools]) -> None:
    cache = ReferenceCache(str(tmp_path / "cache"))
    first = upload(tools.photo())
    cache.keep(first)
    (tmp_path / "cache" / f"{first.sha256}.jpg").unlink()
    (tmp_path / "cache").rmdir()
    with pytest.raises(NoPictureError):
        cache.read(first.sha256)
    cache.keep(first)
    assert cache.read(first.sha256)


def test_transparency_becomes_white(tools: type[Tools]) -> None:
    out = BytesIO()
    Image.new("RGBA", (40, 30), (255, 0, 0, 0)).save(out, "PNG")
    assert tools.opened(reduce(out.getvalue())).getpixel((5, 5)) == (255, 255, 255)


def test_a_picture_beyond_measure_is_refused() -> None:
    out = BytesIO()
    Image.new("1", (9_500, 9_500)).save(out, "PNG")
    with pytest.raises(NotAPictureError):
        reduce(out.getvalue())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
async def test_every_kind_of_upload_is_taken(serve: Serve, tools: type[Tools], kind: str) -> None:
    out = BytesIO()
    tools.opened(tools.photo()).save(out, kind)
    part = {"type": "image_url", "image_url": {"url": tools.data_url(out.getvalue(), f"image/{kind.lower()}")}}
    content = [{"type": "text", "text": "Blue"}, part]
    client = await serve()
    answer = await client.chat("x", messages=[{"role": "user", "content": content}])
    assert (await client.get(answer.url)).status == 200


async def test_a_link_whose_upload_is_gone_is_not_found(serve: Serve, tools: type[Tools], tmp_path: Path) -> None:
    for faults in ({}, {"echoed_input": 1}):
        client = await serve(faults=faults)
        answer = await client.chat("Blue", tools.photo())
        for file in (tmp_path / "uploads").iterdir():
            file.unlink()
        assert (await client.get(answer.url)).status == 404
