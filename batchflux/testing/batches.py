"""A stand-in for APIs that sell batches, which counts what it bills: files, batches made of them, and their answers.

It goes on when it is asked, not by the clock. A line that is made is billed when its batch closes, at the latest when
it is cancelled; what its prompt says decides what becomes of it, and of its batch, as the bank has it:

- the batch: `#wait` and `#stuck` keep it open so many polls; `#lost` is accepted, and its answer cut off; `#reset` is
  cut off before it is accepted, and so not counted; `#refused` fails as a whole; `#expired` ends it, without that line;
- the line: `#500` and `#moderated` fail, for free; `#twice` comes twice, and is billed so.

A batch that is cancelled has made every other line of those that were to be made.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web

from batchflux.testing.dialect import Batch, Picture, job_of, said

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from batchflux.testing.dialect import BatchDialect, BatchState, Dialect

WAITS, ACCEPTS, ENDS, LINES = {"wait", "stuck"}, {"lost", "reset"}, {"refused", "expired"}, {"500", "moderated"}


class Books(Protocol):
    """What a bank counts, by job."""

    posts: Counter[str]
    billed: Counter[str]
    prompts: dict[str, str]
    batch_polls: int

    def order(self, text: str) -> None:
        """Note that a picture is ordered."""

    def picture(self, name: str) -> bytes:
        """Return the picture of a named job."""


class BatchCounter:
    """The handlers of one API's batches, for a bank."""

    def __init__(self, bank: Books, dialect: Dialect, speech: BatchDialect) -> None:
        self.bank, self.dialect, self.speech = bank, dialect, speech
        self.batches: dict[str, Batch] = {}
        self.created = 0
        self._files: dict[str, bytes] = {}
        self._polls: Counter[str] = Counter()

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Put the handlers at their paths."""
        for route, kind in self.speech.routes.items():
            method, path = route.split(" ")
            handler: Callable[[web.Request], Awaitable[web.StreamResponse]] = getattr(self, kind)
            router.add_route(method, path, handler)

    async def begin(self, request: web.Request) -> web.StreamResponse:
        """Say where an upload goes to."""
        name = self._new_file(b"")
        return web.json_response({}, headers=self.speech.begun(f"{request.url.origin()}/put/{name}"))

    async def upload(self, request: web.Request) -> web.StreamResponse:
        """Take a file, of a form or as it is."""
        if request.content_type == "multipart/form-data":
            part = (await request.post())["file"]
            assert isinstance(part, web.FileField), "a batch's file is a file"
            data = part.file.read()
        else:
            data = await request.read()
        name = request.match_info.get("id") or self._new_file(b"")
        self._files[name] = data
        return web.json_response(self.speech.uploaded(name))

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Make a batch of a file: the one call that costs something."""
        file, name = self.speech.asked(await request.json())
        found = map(self.speech.line, map(json.loads, self._files[file].splitlines()))
        lines = dict(found)
        assert len(lines) == self._files[file].count(b"\n"), "a batch has a key twice, or a line without an end"
        self.created += 1
        texts = [self._text(body) for body in lines.values()]
        faults = (said(text, ACCEPTS, self.bank.posts[job_of(text)]) for text in texts)
        fault = next(filter(None, faults), None)
        number = f"x{self.created:024x}"
        if fault != "reset":
            assert name not in {one.name for one in self.batches.values()}, "a batch was made twice"
            self.batches[number] = Batch(id=number, name=name, path=request.path, lines=lines)
            for text in texts:
                self.bank.order(text)
        if fault is not None:
            return self._cut(request)
        return web.json_response(self.speech.told(self.batches[number]))

    async def list(self, _: web.Request) -> web.StreamResponse:
        """List all batches."""
        return web.json_response(self.speech.listed([*self.batches.values()]))

    async def poll(self, request: web.Request) -> web.StreamResponse:
        """Tell how a batch stands, which ends when none of its lines says otherwise."""
        batch = self.batches.get(request.match_info["id"])
        if batch is None:
            return web.json_response({"error": {"message": "no such batch"}}, status=404)
        texts = [self._now(body) for body in batch.lines.values()]
        waits = any(said(text, WAITS, self._polls[batch.id]) for text in texts)
        self._polls[batch.id] += 1
        self.bank.batch_polls += 1
        if batch.state == "running" and not waits:
            self._close(batch, "completed")
        return web.json_response(self.speech.told(batch))

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """End a batch early."""
        batch = self.batches[request.match_info["id"]]
        if batch.state == "running":
            self._close(batch, "cancelled")
        return web.json_response(self.speech.told(batch))

    async def download(self, request: web.Request) -> web.StreamResponse:
        """Give a file of answers."""
        return web.Response(body=self._files[request.match_info["id"]], content_type="application/jsonl")

    def _close(self, batch: Batch, state: BatchState) -> None:
        """End a batch, bill what it has made, and lay its answers down."""
        faults = {key: self._said(self._text(body), ENDS) for key, body in batch.lines.items()}
        if "refused" in faults.values():
            batch.state = "failed"
            return
        batch.state = "expired" if "expired" in faults.values() else state
        made = [key for key, fault in faults.items() if fault is None]
        made = made[::2] if state == "cancelled" else made
        made = made if batch.state != "expired" or self.speech.keeps_expired else []
        lines = [line for key in made for line in self._answers(key, batch)]
        batch.files = (self._new_file("".join(f"{json.dumps(line)}\n" for line in lines).encode()),)

    def _answers(self, key: str, batch: Batch) -> Iterator[Any]:
        """Yield the lines that answer one, each of which is billed where it is a picture."""
        body = batch.lines[key]
        text = self._text(body)
        fault = self._said(text, LINES)
        if fault is not None:
            error = {"error": {"message": f"simulated {fault}", "code": fault}}
            status, refusal = self.dialect.refusals.get(fault, (int(fault) if fault.isdigit() else 400, error))
            yield self.speech.answered(key, status, refusal)
            return
        name, inline = job_of(text), base64.b64encode(self.bank.picture(job_of(text))).decode()
        for _ in range(2 if "#twice" in text else 1):
            self.bank.billed[name] += 1
            cost = 0.035 if "#cost" in text else None
            picture = Picture(link="", base64=inline, cost=cost, body=body, path=batch.path)
            yield self.speech.answered(key, 200, self.dialect.picture(picture))

    def _said(self, text: str, kind: set[str]) -> str | None:
        """Return what a prompt says for the last time that its job was sent, counted from 0."""
        return said(text, kind, self.bank.posts[job_of(text)] - 1)

    def _text(self, body: Mapping[str, Any]) -> str:
        return self.dialect.text(body)

    def _now(self, body: Mapping[str, Any]) -> str:
        """Return what holds for a job by now: a test may change its mind."""
        text = self._text(body)
        return self.bank.prompts.get(job_of(text), text)

    def _new_file(self, data: bytes) -> str:
        name = f"f{len(self._files):024x}"
        self._files[name] = data
        return name

    def _cut(self, request: web.Request) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()
