"""The routes of the review, and how each answers: JSON, and one sentence for what failed."""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import web

from batchflux.errors import StorageError
from batchflux.ledger.reviews import NoSuchJobError, UnlistedJobError
from batchflux.report.bundle import content_security_policy
from batchflux.review.changes import sequence_of
from batchflux.review.decisions import MAX_BODY, BadBodyError, ResultsRefresh, parse_decision
from batchflux.review.events import Events
from batchflux.review.files import Pictures
from batchflux.review.guard import Guard, protect
from batchflux.review.ledger_access import LedgerAccess, NoLedgerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from batchflux.ledger.reviews import Asked, Decision


T = TypeVar("T")

_CHUNK = 1 << 18
_LONG = 0.02  # seconds of work in one go


class Server:
    """The web application of one folder's review.

    Args:
        folder: the output folder; it need not be there yet.
        guard: who is let in.
        tell: takes one sentence that the person who started the review should read.
        rest: after what took long, the folder's thread rests so many times as long, for whom it shares a process with.
    """

    def __init__(self, folder: Path, guard: Guard, tell: Callable[[str], None], rest: float = 0.0) -> None:
        self._rest = rest
        self._guard = guard
        self._ledger = LedgerAccess(folder)
        self._thread = ThreadPoolExecutor(1, "batchflux-review")
        self._pictures = Pictures(folder, self._ledger, self._do)
        self._events = Events(self._ledger, self._do)
        self._refresh = ResultsRefresh(self._ledger, self._do, tell)

    def app(self) -> web.Application:
        """Return the application."""
        app = web.Application(middlewares=[_explain, self._guard.middleware()], client_max_size=MAX_BODY)
        app.on_response_prepare.append(protect)
        app.router.add_get("/", self._page)
        app.router.add_get("/images/{name:.+}", self._pictures.image)
        app.router.add_get("/thumbs/references/{name}", self._pictures.reference)
        app.router.add_get("/thumbs/{name}", self._pictures.thumb)
        app.router.add_get("/api/rows", self._rows)
        app.router.add_get("/api/events", self._events.stream, allow_head=False)
        app.router.add_post("/api/verdicts", self._verdicts)
        app.on_startup.append(self._start)
        app.on_shutdown.append(self._stop)
        app.on_cleanup.append(self._clean_up)
        return app

    async def _do(self, work: Callable[[], T]) -> T:
        """Do what touches the folder, in its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._rested, work)

    def _rested(self, work: Callable[[], T]) -> T:
        began = time.monotonic()
        try:
            return work()
        finally:
            took = time.monotonic() - began
            if self._rest and took > _LONG:
                time.sleep(self._rest * took)

    async def _page(self, request: web.Request) -> web.StreamResponse:
        pieces = await self._do(lambda: self._ledger.page(self._guard.token))
        headers = {"Content-Security-Policy": content_security_policy(live=True)}
        response = web.StreamResponse(headers=headers)
        response.content_type, response.charset = "text/html", "utf-8"
        if "token" in request.query:
            self._guard.welcome(response)
        await response.prepare(request)
        with _cut_off():
            while piece := await self._do(lambda: _gathered(pieces)):
                await response.write(piece)
        return response

    async def _rows(self, request: web.Request) -> web.StreamResponse:
        since = sequence_of(request.query.get("since", "0"))
        if since is None:
            raise web.HTTPBadRequest(text="since must be a whole number.")
        await self._do(partial(self._ledger.look, exact=True))
        header = await self._do(self._ledger.header)
        response = web.StreamResponse()
        response.content_type, response.charset = "application/json", "utf-8"
        await response.prepare(request)
        with _cut_off():
            await response.write(f'{{"header": {_dumps(header)}, "rows": ['.encode())
            await self._write_rows(response, since)
        return response

    async def _write_rows(self, response: web.StreamResponse, since: int) -> None:
        gone: list[str] = []
        more, between = True, ""
        while more:
            batch = await self._do(partial(self._ledger.batch, since))
            for row in batch.rows:
                await response.write(f"{between}{_dumps(row)}".encode())
                between = ", "
            gone += batch.gone
            since, more = batch.sequence, batch.more
        await response.write(f'], "gone": {_dumps(gone)}, "sequence": {since}}}'.encode())

    async def _verdicts(self, request: web.Request) -> web.StreamResponse:
        if request.content_type != "application/json":
            raise BadBodyError("The body must be of type application/json.")
        decision = await asyncio.to_thread(parse_decision, await request.read())
        # Shielded: a verdict that is under way is kept, and shown, also when its page is closed meanwhile.
        numbers, asked = await asyncio.shield(asyncio.ensure_future(self._decide(decision)))
        response = web.StreamResponse()
        response.content_type, response.charset = "application/json", "utf-8"
        await response.prepare(request)
        pieces = _answer(self._ledger.pages_of(numbers), asked)
        with _cut_off():
            while piece := await self._do(lambda: _gathered(pieces)):
                await response.write(piece)
        return response

    async def _decide(self, decision: Decision) -> tuple[list[int], list[Asked]]:
        decided = await self._do(lambda: self._ledger.decide(decision))
        self._refresh.wanted()
        self._events.look_soon()
        return decided

    async def _start(self, _app: web.Application) -> None:
        self._events.start()
        self._refresh.wanted()  # an earlier review may have been killed before it came to that

    async def _stop(self, _app: web.Application) -> None:
        await self._events.stop()
        await self._refresh.stop()

    async def _clean_up(self, _app: web.Application) -> None:
        with suppress(RuntimeError):
            await self._do(self._ledger.close)
        self._thread.shutdown()
        self._pictures.close()


def _answer(pages: Iterable[list[dict[str, Any]]], asked: Iterable[Asked]) -> Iterator[bytes]:
    """Yield what a verdict is answered with: the rows as they are now, and the redos that it asked for."""
    yield b'{"rows": ['
    between = ""
    for rows in pages:
        yield between.encode() + ", ".join(map(_dumps, rows)).encode()
        between = ", "
    redo = [{"key": redo.key.hex(), "id": redo.id} for redo in asked]
    yield f'], "redo": {_dumps(redo)}}}'.encode()


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


def _dumps(value: Any) -> str:
    """Return JSON; text that is no Unicode (a lone surrogate in a file's name) is written as an escape."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


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
