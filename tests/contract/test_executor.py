"""What every executor keeps to: steps over the wire, pictures in their place, and the key where it belongs.

Its data can travel to another process: what it takes and gives is picklable.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import pickle
import warnings
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from PIL import Image

from batchflux.errors import Code, JobError
from batchflux.models import Bytes, Finished, HttpRequest, Inline, Json, Link, Pending, Submitted
from batchflux.providers import providers
from tests.workers import KEY_NAME, MARK, local_for, near_workers, remote_for, settings_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
    from pathlib import Path

    from batchflux.engine.ports import Executor
    from batchflux.models import Job
    from tests.conftest import MakeJob

KEY = "sk-of-the-suite-000"
BFL = providers()["bfl", "bfl"]


def png(colour: tuple[int, int, int]) -> bytes:
    image = Image.new("RGB", (32, 32), colour)
    image.putpixel((0, 0), (1, 2, 3))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


class Api:
    """BFL's API and a host of pictures; `seen` are the requests: method, path and key."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str | None]] = []
        self.url = ""
        self.sent = b""

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/flux-kontext-pro", self.submit)
        app.router.add_get("/v1/get_result", self.result)
        app.router.add_get("/files/{name}", self.file)
        app.router.add_put("/lines", self.put_lines)
        app.router.add_get("/lines", self.lines)
        return app

    def note(self, request: web.Request) -> None:
        self.seen.append((request.method, request.path, request.headers.get("x-key")))

    async def submit(self, request: web.Request) -> web.StreamResponse:
        self.note(request)
        prompt = (await request.json())["prompt"]
        if prompt == "lost" and request.transport is not None:
            request.transport.abort()
        return web.json_response({"id": "t", "polling_url": "http://203.0.113.9/v1/get_result?id=t"})

    async def result(self, request: web.Request) -> web.StreamResponse:
        self.note(request)
        if request.query["id"] == "cut" and request.transport is not None:
            request.transport.abort()
        ready = {"status": "Ready", "result": {"sample": f"{self.url}/files/a.png"}}
        return web.json_response({"id": "t", **(ready if len(self.seen) > 2 else {"status": "Pending"})})

    async def put_lines(self, request: web.Request) -> web.StreamResponse:
        self.note(request)
        self.sent = await request.read()
        return web.json_response({})

    async def lines(self, request: web.Request) -> web.StreamResponse:
        self.note(request)
        return web.Response(body=self.sent)

    async def file(self, request: web.Request) -> web.StreamResponse:
        self.note(request)
        if request.match_info["name"] == "gone.png":
            return web.Response(status=404)
        return web.Response(body=png((9, 9, 9)) if request.match_info["name"] == "a.png" else b"<html>")


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    server = Api()
    runner = web.AppRunner(server.app(), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


async def local(stack: AsyncExitStack, folder: Path, url: str) -> Executor:
    return await local_for(stack, folder, url, KEY)


async def in_workers(stack: AsyncExitStack, folder: Path, url: str, *, mark: str = MARK) -> Executor:
    (folder / ".spool").mkdir()
    (folder / MARK).touch()
    workers = await near_workers(stack, settings_for(folder, url, mark))
    return await remote_for(stack, folder, url, KEY, workers)


async def on_ray(stack: AsyncExitStack, folder: Path, url: str, *, mark: str = MARK) -> Executor:
    from batchflux.engine.executors.ray_cluster import ray_workers  # noqa: PLC0415  an extra

    (folder / ".spool").mkdir()
    (folder / MARK).touch()
    settings = settings_for(folder, url, mark)
    workers = await stack.enter_async_context(ray_workers("ray", 2, settings, lambda *_, **__: None))
    return await remote_for(stack, folder, url, KEY, workers)


EXECUTORS: dict[str, Callable[..., Awaitable[Executor]]] = {
    "local": local,
    "workers": in_workers,
    "workers, no shared folder": partial(in_workers, mark="elsewhere"),
    "ray": on_ray,
    "ray, no shared folder": partial(on_ray, mark="elsewhere"),
}
"""Every executor; a new one is one more line."""


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """Ray on this machine."""
    import ray  # noqa: PLC0415  an extra

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_NAME, KEY)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        with warnings.catch_warnings(action="ignore"):
            ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


class Anything:
    """Reads an answer of any kind."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        assert status == 200

    def feed(self, data: bytes) -> bool:
        return False

    def finish(self, *, complete: bool) -> Pending:
        return Pending()


@dataclass
class Place:
    executor: Executor
    folder: Path
    job: Job

    async def ask(self, request: HttpRequest, on_sent: Callable[[], None] | None = None) -> object:
        exchanged = await self.executor.exchange(
            pickle.loads(pickle.dumps(request)),  # noqa: S301  our own, as another process would get it
            provider=pickle.loads(pickle.dumps(BFL)),  # noqa: S301  our own
            secret=KEY,
            at=("bfl", ""),
            on_sent=on_sent,
        )
        assert pickle.loads(pickle.dumps(exchanged)) == exchanged  # noqa: S301  our own
        assert exchanged.seconds >= 0
        return exchanged.reply

    async def fails(self, request: HttpRequest) -> JobError:
        with pytest.raises(JobError) as caught:
            await self.ask(request)
        assert KEY not in str(caught.value)
        return caught.value


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.ray] if name.startswith("ray") else []) for name in EXECUTORS]
)
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, api: Api, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    monkeypatch.setenv(KEY_NAME, KEY)
    if request.param.startswith("ray"):
        request.getfixturevalue("ray_here")
    async with AsyncExitStack() as stack:
        (tmp_path / "out").mkdir()
        executor = await EXECUTORS[request.param](stack, tmp_path / "out", api.url)
        yield Place(executor, tmp_path / "out", make_job(style="bfl", provider="bfl", output_format="png"))


async def test_a_task_is_submitted_and_polled_at_the_providers_own_address(place: Place, api: Api) -> None:
    """Its answer names another host, which BFL does not vouch for: neither key nor poll goes there."""
    sent: list[bool] = []
    reply = await place.ask(BFL.submit(place.job, 1), lambda: sent.append(True))
    assert isinstance(reply, Submitted)
    assert sent == [True]
    assert isinstance(await place.ask(BFL.poll(place.job, reply.handle)), Pending)
    finished = await place.ask(BFL.poll(place.job, reply.handle))
    assert isinstance(finished, Finished)
    assert isinstance(finished.asset, Link)
    collected = await place.executor.collect(place.job, finished.asset, 7)
    assert (collected.stored.file_name, collected.stored.width) == ("images/mug.png", 32)
    assert (place.folder / "images/mug.png").read_bytes() == png((9, 9, 9))
    assert collected.seconds is not None
    assert [(method, path, key is not None) for method, path, key in api.seen] == [
        ("POST", "/v1/flux-kontext-pro", True),
        ("GET", "/v1/get_result", True),
        ("GET", "/v1/get_result", True),
        ("GET", "/files/a.png", False),
    ]


async def test_a_lost_answer_is_unknown_only_where_it_may_cost(place: Place) -> None:
    lost = await place.fails(BFL.submit(replace(place.job, prompt="lost"), 1))
    assert (lost.code, lost.billed) == (Code.UNKNOWN, True)
    cut = await place.fails(BFL.poll(place.job, json.dumps({"id": "cut"})))
    assert (cut.code, cut.billed) == (Code.NETWORK, False)


async def test_bytes_that_came_with_an_answer_are_kept_and_collected(place: Place) -> None:
    data = png((7, 7, 7))
    name = await place.executor.keep(place.job, Inline(data=data))
    assert (place.folder / name).read_bytes() == data
    collected = await place.executor.collect(place.job, name, 7)
    assert collected.stored.sha256 == hashlib.sha256(data).hexdigest()
    assert collected.seconds is None
    assert (place.folder / "images/mug.png").read_bytes() == data


@pytest.mark.parametrize(
    ("name", "code", "dead"), [("gone.png", Code.DOWNLOAD, True), ("b.png", Code.BAD_IMAGE, False)]
)
async def test_what_is_no_picture_is_not_put_in_place(
    place: Place, api: Api, name: str, code: Code, *, dead: bool
) -> None:
    with pytest.raises(JobError) as caught:
        await place.executor.collect(place.job, Link(url=f"{api.url}/files/{name}"), 7)
    assert (caught.value.code, caught.value.dead) == (code, dead)
    assert list((place.folder / "images").iterdir()) == []


async def test_the_lines_of_a_batch_are_written_sent_and_answered(place: Place, api: Api) -> None:
    written = await place.executor.write_lines("a1", [("k", Json(value={"key": "k", "prompt": "a mug"}))])
    path = place.folder / ".batches/a1.jsonl"
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b'{"key":"k","prompt":"a mug"}\n', 0o600)
    upload = HttpRequest(
        method="PUT", url="/lines", content=Bytes(image=written.file), reader=Anything, repeatable=True
    )
    await place.ask(upload)
    await place.executor.drop_lines("a1")
    await place.executor.drop_lines("a1")
    assert not path.exists()
    answers = HttpRequest(method="GET", url="/lines", reader=Anything, repeatable=True)
    lines = place.executor.lines(answers, provider=BFL, secret=KEY, at=("bfl", ""))
    assert [line async for line in lines] == [b'{"key":"k","prompt":"a mug"}']
    assert [(method, path, key is not None) for method, path, key in api.seen] == [
        ("PUT", "/lines", True),
        ("GET", "/lines", True),
    ]


async def test_steps_of_many_jobs_go_side_by_side(place: Place) -> None:
    replies = await asyncio.gather(*(place.ask(BFL.submit(place.job, 1)) for _ in range(12)))
    assert {type(reply) for reply in replies} == {Submitted}
