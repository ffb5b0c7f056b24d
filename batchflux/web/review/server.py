"""The routes of the review, and what each answers; see guard.py for who gets that far."""

from __future__ import annotations

import asyncio
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import web

from batchflux.errors import StorageError
from batchflux.storage.judging import NoSuchJobError, UnlistedJobError
from batchflux.web.page import content_security_policy
from batchflux.web.places import REFERENCES, THUMBS, inside
from batchflux.web.review.bodies import MAX_BODY, BadBodyError, parse_decision
from batchflux.web.review.events import Events
from batchflux.web.review.files import open_picture
from batchflux.web.review.guard import Guard, protect
from batchflux.web.review.refresh import Refresh
from batchflux.web.review.store import NoLedgerError, Store
from batchflux.web.thumbs import REFERENCE_SIDE, THUMB_SIDE, shrink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from batchflux.web.review.files import Found

T = TypeVar("T")

IMAGES = "images"
_CHUNK = 1 << 18
_DIGITS = 18


class Server:
    """The web application of one folder's review.

    Args:
        folder: the output folder; it need not be there yet.
        guard: who is let in.
        tell: takes one sentence that the person who started the review should read.
    """

    def __init__(self, folder: Path, guard: Guard, tell: Callable[[str], None]) -> None:
        self._folder = folder
        self._guard = guard
        self._store = Store(folder)
        self._thread = ThreadPoolExecutor(1, "batchflux-review")
        self._shrinking = ThreadPoolExecutor(1, "batchflux-review-thumbs")
        self._events = Events(self._store, self._do)
        self._refresh = Refresh(self._store, self._do, tell)

    def app(self) -> web.Application:
        """Return the application."""
        app = web.Application(middlewares=[_explain, self._guard.middleware()], client_max_size=MAX_BODY)
        app.on_response_prepare.append(protect)
        app.router.add_get("/", self._page)
        app.router.add_get("/images/{name:.+}", self._image)
        app.router.add_get("/thumbs/references/{name}", self._reference)
        app.router.add_get("/thumbs/{name}", self._thumb)
        app.router.add_get("/api/rows", self._rows)
        app.router.add_get("/api/events", self._events.stream, allow_head=False)
        app.router.add_post("/api/verdicts", self._verdicts)
        app.on_startup.append(self._start)
        app.on_shutdown.append(self._stop)
        app.on_cleanup.append(self._clean_up)
        return app

    async def _do(self, work: Callable[[], T]) -> T:
        """Do what touches the folder, in its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _page(self, request: web.Request) -> web.StreamResponse:
        if "token" in request.query:
            return self._guard.welcome()
        pieces = await self._do(lambda: self._store.page(self._guard.token))
        headers = {"Content-Security-Policy": content_security_policy(live=True)}
        response = web.StreamResponse(headers=headers)
        response.content_type, response.charset = "text/html", "utf-8"
        await response.prepare(request)
        with _cut_off():
            while piece := await self._do(lambda: _gathered(pieces)):
                await response.write(piece)
        return response

    async def _rows(self, request: web.Request) -> web.StreamResponse:
        since = since_of(request.query.get("since", "0"))
        await self._do(partial(self._store.look, exact=True))
        header = await self._do(self._store.header)
        response = web.StreamResponse()
        response.content_type, response.charset = "application/json", "utf-8"
        await response.prepare(request)
        with _cut_off():
            await response.write(f'{{"header": {dumps(header)}, "rows": ['.encode())
            await self._write_rows(response, since)
        return response

    async def _write_rows(self, response: web.StreamResponse, since: int) -> None:
        gone: list[str] = []
        more, between = True, ""
        while more:
            batch = await self._do(partial(self._store.batch, since))
            for row in batch.rows:
                await response.write(f"{between}{dumps(row)}".encode())
                between = ", "
            gone += batch.gone
            since, more = batch.sequence, batch.more
        await response.write(f'], "gone": {dumps(gone)}, "sequence": {since}}}'.encode())

    async def _verdicts(self, request: web.Request) -> web.StreamResponse:
        if request.content_type != "application/json":
            raise BadBodyError("The body must be of type application/json.")
        decision = parse_decision(await request.read())
        # Shielded: a verdict that is under way is kept, and shown, also when its page is closed meanwhile.
        rows, asked = await asyncio.shield(asyncio.ensure_future(self._do(lambda: self._store.decide(decision))))
        self._refresh.wanted()
        self._events.look_soon()
        redo = [{"key": redo.key.hex(), "id": redo.id} for redo in asked]
        return web.json_response({"rows": rows, "redo": redo}, dumps=dumps)

    async def _image(self, request: web.Request) -> web.StreamResponse:
        return await self._give(request, IMAGES, request.match_info["name"])

    async def _thumb(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if not await self._there(THUMBS, name):
            picture = await self._do(lambda: self._store.picture_of(name))
            place = None if picture is None else inside(self._folder, picture)
            if picture is None or place is None or not await self._there(IMAGES, picture.removeprefix(f"{IMAGES}/")):
                raise web.HTTPNotFound
            if not await self._shrink(place, self._folder / THUMBS / name, THUMB_SIDE):
                return await self._give(request, IMAGES, picture.removeprefix(f"{IMAGES}/"))
        return await self._give(request, THUMBS, name)

    async def _reference(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if not await self._there(REFERENCES, name):
            source = await self._do(lambda: self._store.reference_of(name))
            if source is None or not await self._shrink(source, self._folder / REFERENCES / name, REFERENCE_SIDE):
                raise web.HTTPNotFound
        return await self._give(request, THUMBS, f"references/{name}")

    async def _shrink(self, source: Path, target: Path, side: int) -> bool:
        """Make a small copy; False when the folder does not take one."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._shrinking, shrink, source, target, side)
        except (StorageError, OSError):  # a full disk or a read-only folder; the page can do without
            return False

    async def _there(self, top: str, name: str) -> bool:
        found = await asyncio.to_thread(self._open, top, name)
        if found is not None:
            os.close(found.descriptor)
        return found is not None

    def _open(self, top: str, name: str) -> Found | None:
        first, _, rest = top.partition("/")
        return open_picture(self._folder, first, f"{rest}/{name}" if rest else name)

    async def _give(self, request: web.Request, top: str, name: str) -> web.StreamResponse:
        found = await asyncio.to_thread(self._open, top, name)
        if found is None:
            raise web.HTTPNotFound
        try:
            headers = {"ETag": found.etag, "Cache-Control": "private, no-cache"}
            if request.headers.get("If-None-Match") == found.etag:
                return web.Response(status=304, headers=headers)
            response = web.StreamResponse(headers=headers)
            response.content_type, response.content_length = found.media_type, found.size
            await response.prepare(request)
            sent = 0
            while sent < found.size and request.method != "HEAD":
                size = min(_CHUNK, found.size - sent)
                piece = await asyncio.to_thread(os.pread, found.descriptor, size, sent)
                if not piece:  # cut short meanwhile: what was promised cannot be kept
                    raise ConnectionResetError
                await response.write(piece)
                sent += len(piece)
            return response
        finally:
            os.close(found.descriptor)

    async def _start(self, _app: web.Application) -> None:
        self._events.start()

    async def _stop(self, _app: web.Application) -> None:
        await self._events.stop()
        await self._refresh.stop()

    async def _clean_up(self, _app: web.Application) -> None:
        with suppress(RuntimeError):
            await self._do(self._store.close)
        self._thread.shutdown()
        self._shrinking.shutdown()


def dumps(value: Any) -> str:
    """Return JSON; text that is no Unicode (a lone surrogate in a file's name) is written as an escape."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def since_of(text: str) -> int:
    """Return a sequence number that a client sent.

    Raises:
        HTTPBadRequest: it is none.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        raise web.HTTPBadRequest(text="since must be a whole number.")
    return int(text)


def _gathered(pieces: Iterator[bytes]) -> bytes:
    """Return the next pieces together; b'' at the end."""
    made: list[bytes] = []
    size = 0
    for piece in pieces:
        made.append(piece)
        size += len(piece)
        if size >= _CHUNK:
            break
    return b"".join(made)


@contextmanager
def _cut_off() -> Iterator[None]:
    """Break the connection when the folder fails while an answer is on its way: half an answer must not look whole."""
    try:
        yield
    except StorageError as error:
        raise ConnectionResetError(str(error)) from error


@web.middleware
async def _explain(request: web.Request, handler: Any) -> web.StreamResponse:
    """Answer what failed with one sentence: JSON below /api, else text."""
    try:
        response: web.StreamResponse = await handler(request)
    except web.HTTPException as error:
        status, text = error.status, error.text or error.reason
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
    except BadBodyError as error:
        status, text, headers = 400, str(error), None
    except NoLedgerError:
        status, text, headers = 409, "Nothing has been run in this folder yet.", None
    except NoSuchJobError:
        status, text, headers = 404, "There is no such picture in this folder (any more); reload the page.", None
    except UnlistedJobError:
        status, text, headers = 409, "The manifest does not list this job any more, so no run would redo it.", None
    except StorageError as error:
        status, text, headers = 503, str(error), None
    else:
        return response
    if request.path.startswith("/api/"):
        return web.json_response({"error": text}, status=status, headers=headers)
    return web.Response(status=status, text=f"{text}\n", headers=headers)
