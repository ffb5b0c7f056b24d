"""A stand-in for the image APIs that counts what it bills; it shares no code with batchflux or its simulator.

It bills a request when it has made the answer, whether or not anybody still listens, as real ones do; a task when it
accepts it, and takes that back when the task fails. It is also a witness: a request for a job whose picture was fetched
before, or lies in the folder, is noted in `again`.

`job ID` at the start of a prompt names the job; otherwise the whole prompt does. What happens is said in the prompt, as
`#NAME` (always) or `#NAME*TIMES` (so often, then what the next one says):

- the call: what ERRORS and TEXTS name; `#reset` is cut off, `#lost` is billed and cut off, `#hang` is never answered,
  `#lost502` is billed, and a gateway says 502;
- the picture: `#b64` and `#data` put it into the answer, `#b64half` a half of it, all others get a link;
  `#linkprivate` leads to where no download may go; LOOKS names what it is instead of the PNG that is asked for;
- the download: what FILES names; `#gone` until the job is asked for a second time; `#stale`: the link that a task gives
  first leads to nothing, those that it gives later lead to the picture;
- the batch: what `batches` says;
- the task: what POLLS names; with `#500` or `#moderated` it is accepted and fails. `#cost` makes it tell its price;
- the list of requests: `#queued*TIMES` is left out so often, `#twin` has another that is equal, `#deaf` cannot be had.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import random
import re
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from aiohttp import web
from PIL import Image

from batchflux.testing.batches import BatchCounter
from batchflux.testing.dialect import Accepted, Dialect, Picture, Task, job_of, said
from batchflux.testing.serving import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PRICE = 0.14
KEY = "sk-canary-5f1c0ffee0ddba11"
CREDITS = 3.5  # what a task says that it cost, at 0.01 each

ERRORS: dict[str, tuple[int, str, dict[str, Callable[[], str]]]] = {
    "500": (500, "internal_error", {}),
    "busy": (429, "rate_limit_exceeded", {}),
    "429": (429, "rate_limit_exceeded", {"Retry-After": lambda: "1"}),
    "429date": (429, "rate_limit_exceeded", {"Retry-After": lambda: formatdate(time.time() + 1, usegmt=True)}),
    "limited200": (200, "rate_limit_exceeded", {}),
    "quota": (429, "insufficient_user_quota", {}),
    "auth": (401, "invalid_api_key", {}),
    "moderated": (400, "sensitive_words_detected", {}),
    "invalid": (400, "invalid_parameter", {}),
}
TEXTS = {
    "502": (502, "<html><body>502 Bad Gateway</body></html>", "text/html"),
    "lost502": (502, "<html><body>502 Bad Gateway</body></html>", "text/html"),
    "empty": (200, '{"data": [], "created": 1}', "application/json"),
    "nojson": (200, "{oops", "application/json"),
    "echoes": (200, "", "application/json"),  # the request, and no picture
    "quoting": (200, json.dumps({"data": [], "sent": f"Bearer {KEY}"}), "application/json"),
}
LOOKS = {"webp", "gif", "bmp", "tiff", "avif", "wide", "plate", "trailing", "moving"}
INLINE = {"b64", "data", "b64half"}
CALLS = {*ERRORS, *TEXTS, *INLINE, "url", "link", "reset", "lost", "hang"}
FILES = {"link403", "link404", "link503", "linkhalf", "linkhtml"}
POLLS = {"wait", "stuck", "missing", "poll429", "poll500"}
FAILED = {"500": "Error", "moderated": "Content Moderated"}


@lru_cache(maxsize=2000)
def picture_of(name: str, side: int = 48) -> bytes:
    """Return the one picture that a job of this id gets."""
    file = io.BytesIO()
    if side > 256:  # noise, so that the file is as large as it looks
        noise = random.Random(name).randbytes(side * side * 3)
        Image.frombytes("RGB", (side, side), noise).save(file, "PNG", compress_level=0)
    else:
        _two_colours(name, side, side).save(file, "PNG")
    return file.getvalue()


def looking(look: str | None, data: bytes) -> bytes:
    """Return the picture as something else than was ordered."""
    if look is None:
        return data
    file = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        if look in {"webp", "gif", "bmp", "tiff", "avif"}:
            image.save(file, look)
        elif look == "moving":
            image.save(file, "PNG", save_all=True, append_images=[image.rotate(90)])
        else:
            other = image.resize((96, 48)) if look == "wide" else image
            other = Image.new("RGB", image.size, "red") if look == "plate" else other
            other.save(file, "PNG")
    return file.getvalue() + (b"<script>" if look == "trailing" else b"")


def drawn(body: dict[str, Any]) -> bytes:
    """Return a picture that differs with every field of a request, in the format and ratio asked for."""
    wide, high = (int(part) for part in body.get("aspect_ratio", "1:1").split(":"))
    scale = 96 / max(wide, high)
    file = io.BytesIO()
    image = _two_colours(json.dumps(body, sort_keys=True), round(wide * scale), round(high * scale))
    image.save(file, "PNG" if body.get("output_format") == "png" else "JPEG")
    return file.getvalue()


def _two_colours(seed: str, width: int, height: int) -> Image.Image:
    digest = hashlib.sha256(seed.encode()).digest()
    image = Image.new("RGB", (width, height), tuple(digest[:3]))
    image.paste(tuple(digest[3:6]), (0, 0, width // 2, height // 2))
    return image


@dataclass
class Seen:
    """One paid call as the bank saw it."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    at: float
    answered: bool = False
    dialect: Dialect | None = None

    @property
    def text(self) -> str:
        """The prompt."""
        if self.dialect is not None:
            return self.dialect.text(self.body)
        if "prompt" in self.body:
            return str(self.body["prompt"])
        content = self.body["messages"][0]["content"]
        return content if isinstance(content, str) else str(content[0]["text"])

    @property
    def name(self) -> str:
        """The job's id where the prompt gives one, else the prompt."""
        return job_of(self.text)

    @property
    def is_task(self) -> bool:
        """Whether the answer is a task."""
        return "/flux-" in self.path if self.dialect is None else self.dialect.accepted is not None


@dataclass
class Bank:
    """The APIs: a relay's and BFL's own, and those of `dialects`.

    Between `delay` seconds pass before an answer; pictures of named jobs are `side` pixels wide; `query` ends their
    links, and `links` has others for some; `out` is the folder it looks into as a witness; `hook` is called with a
    job's name before it is answered; no call is answered while `held` says so, no download while `links_held` does.
    `seen` is its journal; `prompts` says what happens to tasks and downloads of a job from now on, and a test may
    change it. `downloads` counts all of them by job, `fetched` those that gave the picture.
    """

    dialects: tuple[Dialect, ...] = ()
    url: str = ""
    delay: tuple[float, float] = (0.0, 0.0)
    side: int = 48
    query: str = ""
    out: Path | None = None
    hook: Callable[[str], None] | None = None
    links: dict[str, str] = field(default_factory=dict)
    held: Callable[[], bool] | None = None
    links_held: Callable[[], bool] | None = None
    seen: list[Seen] = field(default_factory=list)
    posts: Counter[str] = field(default_factory=Counter)
    polls: Counter[str] = field(default_factory=Counter)
    billed: Counter[str] = field(default_factory=Counter)
    downloads: Counter[str] = field(default_factory=Counter)
    fetched: Counter[str] = field(default_factory=Counter)
    prompts: dict[str, str] = field(default_factory=dict)
    lists: Counter[str] = field(default_factory=Counter)
    again: list[str] = field(default_factory=list)
    open: int = 0
    most_at_once: int = 0
    batch_polls: int = 0
    _tasks: dict[str, str | None] = field(default_factory=dict)
    _ids: dict[str, str] = field(default_factory=dict)
    _files: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    _accepted: list[tuple[Dialect, str, Accepted]] = field(default_factory=list)

    def app(self) -> web.Application:
        """Return the server."""
        app = web.Application(client_max_size=1 << 27, middlewares=[self._guard])
        paths = {path for dialect in self.dialects for path in dialect.paths}
        for dialect in self.dialects:
            if dialect.batches is not None:
                BatchCounter(self, dialect, dialect.batches).add_to(app.router)
        for path in sorted(paths | {"/v1/images/generations", "/v1/chat/completions"}):
            app.router.add_post(path, self.post)
        for dialect in self.dialects:
            for number, path in enumerate(dialect.asks):
                app.router.add_get(path, partial(self.asked, dialect, path, counts=number == 0))
            for path in dialect.lists:
                app.router.add_get(path, partial(self.listed, dialect, path))
        app.router.add_get("/files/{name}", self.file)
        app.router.add_get("/view", self.file)
        for prefix in ("/v1", "/flux/v1"):
            app.router.add_get(f"{prefix}/get_result", self.result)
            app.router.add_post(f"{prefix}/{{model}}", self.post)
        return app

    def answered(self) -> Counter[str]:
        """How many calls in the journal were answered with a picture, by prompt."""
        return Counter(seen.text for seen in self.seen if seen.answered)

    def forget(self) -> None:
        """Count from nothing again."""
        for counted in (self.seen, self.posts, self.polls, self.billed, self.downloads, self.fetched, self.again):
            counted.clear()

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Answer a paid call, and count it."""
        form = request.content_type != "application/json"
        body = dict(await request.post()) if form else await request.json()
        seen = Seen(request.path, body, dict(request.headers), time.monotonic(), dialect=self._dialect(request, body))
        self.seen.append(seen)
        unread = seen.dialect and seen.dialect.unread(request.path, request.content_type, body)
        if unread:
            return web.json_response(unread[1], status=unread[0])
        name = seen.name
        fault = said(seen.text, CALLS, self.posts[name])
        self.order(seen.text)
        self.open += 1
        self.most_at_once = max(self.most_at_once, self.open)
        try:
            await asyncio.sleep(random.uniform(*self.delay))
            await _let_go(lambda: self.held)
            if (hook := self.hook) is not None:
                hook(name)
            return await self._answer(request, seen, fault)
        finally:
            self.open -= 1

    def order(self, text: str) -> None:
        """Note that a picture is ordered, and whether it was there before."""
        name = job_of(text)
        if self.fetched[name] or (self.out is not None and (self.out / "images" / f"{name}.png").exists()):
            self.again.append(name)
        self.posts[name] += 1
        self.prompts[name] = text

    def picture(self, name: str) -> bytes:
        """Return the picture of a named job."""
        return picture_of(name, self.side)

    async def _answer(self, request: web.Request, seen: Seen, fault: str | None) -> web.StreamResponse:
        if seen.dialect is not None and fault is not None and fault in seen.dialect.refusals:
            status, refusal = seen.dialect.refusals[fault]
            return web.json_response(refusal, status=status)
        if fault in ERRORS and not (seen.is_task and fault in FAILED):
            status, code, headers = ERRORS[fault]
            body = {"error": {"message": f"simulated {code}", "type": "api_error", "param": None, "code": code}}
            return web.json_response(body, status=status, headers={key: make() for key, make in headers.items()})
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault not in TEXTS.keys() - {"lost502"} | {"reset"}:
            self.billed[seen.name] += 1
        if fault in {"lost", "lost502"} and seen.dialect is not None and seen.is_task:
            self._accept(seen, None)
        if fault in TEXTS:
            status, text, kind = TEXTS[fault]
            text = json.dumps({"data": [], "request": seen.body}) if fault == "echoes" else text
            return web.Response(status=status, text=text, content_type=kind)
        if fault in {"reset", "lost"} and request.transport is not None:
            request.transport.abort()
            return web.Response()
        seen.answered = True
        if seen.is_task:
            return self._accept(seen, fault)
        return await self._picture(request, seen, fault)

    async def _picture(self, request: web.Request, seen: Seen, fault: str | None) -> web.StreamResponse:
        link, data = self._made(seen)
        inline = base64.b64encode(data[: len(data) // 2] if fault == "b64half" else data).decode()
        if seen.dialect is not None:
            cost = CREDITS / 100 if "#cost" in seen.text else None
            made = Picture(link=link, base64=inline, cost=cost, body=seen.body, path=seen.path)
            return web.json_response(seen.dialect.picture(made))
        if request.path.endswith("generations"):
            shown = {"b64_json": inline} if fault in INLINE else {"url": link}
            return web.json_response({"data": [shown], "created": 1})
        if fault in INLINE:
            return await _stream(request, f"![image](data:image/png;base64,{inline})")
        more = "" if self.query else f"\n\n[点击下载]({link}?download=1)"
        return await _stream(request, f"> 进度 **50%**\n\n![image]({link}){more}")

    def _made(self, seen: Seen) -> tuple[str, bytes]:
        """Make the picture of a call; return its link and its bytes."""
        if seen.name == seen.text:
            data = drawn(seen.body)
            file = hashlib.sha256(data).hexdigest()[:24]
        else:
            data, file = picture_of(seen.name, self.side), f"{seen.name}.png"
        data = looking(said(seen.text, LOOKS, 0), data)
        self._files[file] = seen.name, data
        if seen.name in self.links:
            return self.links[seen.name], data
        private = "#linkprivate" in seen.text
        return "http://169.254.169.254/latest/meta-data" if private else f"{self.url}/files/{file}{self.query}", data

    def _accept(self, seen: Seen, fault: str | None) -> web.StreamResponse:
        self._tasks[seen.name] = fault
        link, _ = self._made(seen)
        if seen.dialect is not None and seen.dialect.accepted is not None:
            name = seen.dialect.task(seen.body) or f"{seen.name}-{self.posts[seen.name]}"
            task = Task(id=name, word="pending", url=self.url, link=link)
            for number in (name, f"{name}-twin") if "#twin" in seen.text else (name,):
                self._ids[number] = seen.name
                accepted = Accepted(id=number, path=seen.path, body=seen.body, at=time.time())
                self._accepted.append((seen.dialect, seen.name, accepted))
            return web.json_response(seen.dialect.accepted(task))
        polling = f"{self.url}{seen.path.rpartition('/')[0]}/get_result?id={seen.name}"
        if seen.path.startswith("/flux/"):  # a relay hands on BFL's own address, where the relay's key must never go
            polling = f"https://api.us1.bfl.ai/v1/get_result?id={seen.name}"
        cost = {"cost": CREDITS} if "#cost" in seen.text else {}
        return web.json_response({"id": seen.name, "polling_url": polling, **cost})

    async def asked(self, dialect: Dialect, path: str, request: web.Request, *, counts: bool) -> web.StreamResponse:
        """Answer for a task of a dialect; what ended badly is not billed."""
        number = request.match_info.get("id", "")
        name = self._ids.get(number, "")
        fault = said(self.prompts[name], POLLS, self.polls[name]) if name and counts else None
        self.polls[name] += counts
        if fault in {"poll429", "poll500"}:
            return web.json_response({"detail": "not now"}, status=int(fault.removeprefix("poll")))
        failed = {"500": "failed", "moderated": "moderated"}.get(self._tasks.get(name) or "")
        word = "missing" if fault == "missing" or (number and not name) else "pending" if fault else failed or "ready"
        cost = CREDITS / 100 if "#cost" in self.prompts.get(name, "") else None
        link = self._link_of(name)
        task = Task(id=number, word=word, url=self.url, link=link, cost=cost, all=tuple(self._ids))
        if failed and word == failed and counts:
            self.billed[name] -= 1
        status, body, headers = dialect.asks[path](task)
        return web.json_response(body, status=status, headers=headers)

    async def listed(self, dialect: Dialect, path: str, request: web.Request) -> web.StreamResponse:
        """Answer for all that a dialect was asked."""
        shown = []
        for own, name, accepted in self._accepted:
            text = self.prompts[name]
            if "#deaf" in text:
                return web.json_response({"detail": "not now"}, status=503)
            if own is dialect and said(text, {"queued"}, self.lists[name]) is None:
                shown.append(accepted)
            self.lists[name] += 1
        status, body, headers = dialect.lists[path](dict(request.query), shown)
        return web.json_response(body, status=status, headers=headers)

    async def result(self, request: web.Request) -> web.StreamResponse:
        """Answer for a task of BFL's."""
        name = request.query["id"]
        fault = said(self.prompts[name], POLLS, self.polls[name])
        self.polls[name] += 1
        if fault == "poll429":
            return web.json_response({"detail": "too many requests"}, status=429)
        if fault == "poll500":
            return web.Response(status=500, text="oops")
        if fault == "missing":
            return web.json_response({"id": name, "status": "Task not found", "result": None}, status=404)
        if fault is not None:
            return web.json_response({"id": name, "status": "Pending", "result": None})
        failed = FAILED.get(self._tasks[name] or "")
        if failed is not None:
            self.billed[name] -= 1
            return web.json_response({"id": name, "status": failed, "result": None})
        return web.json_response({"id": name, "status": "Ready", "result": {"sample": self._link_of(name)}})

    def _link_of(self, name: str) -> str:
        """Return the link that a task gives when it is asked for the nth time."""
        return f"{self.url}/files/{name}.png" + f"?poll={self.polls[name]}" * ("#stale" in self.prompts.get(name, ""))

    async def file(self, request: web.Request) -> web.StreamResponse:
        """Answer a download."""
        file, _, asked = (request.match_info.get("name") or request.query["filename"]).partition("?")
        name, data = self._files[file]
        text = self.prompts[name]
        fault = said(text, FILES, self.downloads[name])
        self.downloads[name] += 1
        await _let_go(lambda: self.links_held)
        if ("#gone" in text and self.posts[name] == 1) or "poll=1" in (asked, request.query_string):
            fault = "link404"
        if fault is not None and fault.removeprefix("link").isdigit():
            return web.Response(status=int(fault.removeprefix("link")))
        if fault == "linkhtml":
            return web.Response(text="<html>expired</html>", content_type="image/jpeg")
        if fault == "linkhalf":
            return web.Response(body=data[: len(data) // 2], content_type="image/png")
        self.fetched[name] += 1
        return web.Response(body=data, content_type="image/png")

    def _dialect(self, request: web.Request, body: dict[str, Any]) -> Dialect | None:
        """Return the API that a call is made to; None: the relay, or BFL."""
        own = (one for one in self.dialects if _path(request) in {re.sub(r":[^}]+", "", path) for path in one.paths})
        return next((one for one in own if one.mine(request.path, body)), None)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Refuse a wrong key, and a key where none belongs."""
        named = (request.headers.get(name) for name in ("x-key", *(one.key for one in self.dialects)))
        key = next(filter(None, named), request.headers.get("Authorization", "")).rpartition(" ")[2]
        keyless = {path for one in self.dialects if not one.keyed for path in (*one.paths, *one.asks)}
        if request.path.startswith(("/files/", "/view", "/put/")) or _path(request) in keyless:
            assert not key, "a key went where none belongs"
        elif not key.startswith("sk-"):
            return web.json_response({"detail": "Not authenticated - Invalid Authentication"}, status=403)
        elif request.path.startswith("/v1/flux-") or request.path == "/v1/get_result":
            assert "x-key" in request.headers, "BFL's own API knows no bearer"
        return await handler(request)  # type: ignore[no-any-return]  # aiohttp leaves it open


def _path(request: web.Request) -> str:
    return getattr(request.match_info.route.resource, "canonical", "")


async def _let_go(held: Callable[[], Callable[[], bool] | None]) -> None:
    while (holds := held()) is not None and holds():  # noqa: ASYNC110  the test's thread decides
        await asyncio.sleep(0.01)


async def _stream(request: web.Request, text: str) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for piece in (text[:9], text[9:]):
        chunk = {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": piece}}]}
        await response.write(f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode())
    await response.write(b"data: [DONE]\n\n")
    return response


@contextmanager
def opened(*dialects: Dialect) -> Iterator[Bank]:
    """Serve a bank that speaks these too; what was ordered is made, and billed, also when its client dies."""
    bank = Bank(dialects)
    with serving(bank.app()) as bank.url:
        yield bank
