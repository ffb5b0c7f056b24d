"""The routes of the gateway, and how each answers."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aiohttp import web

from batchflux.engine.shutdown import STORAGE
from batchflux.gateway.answering import errors, headers, links, send
from batchflux.gateway.answering.chat import ChatAnswer
from batchflux.gateway.answering.images import ImagesAnswer
from batchflux.gateway.answering.sse import early
from batchflux.gateway.guard import CLIENT, HEALTH, IMAGES, JSON, METRICS, Guard, body_of
from batchflux.gateway.numbers import Numbers
from batchflux.gateway.orders import Form, Order, Picture, RefusalError
from batchflux.gateway.reading import bodies
from batchflux.gateway.reading import chat as chats
from batchflux.gateway.reading import images as orders
from batchflux.gateway.reading.forms import parts_of
from batchflux.monitoring.exposition import CONTENT_TYPE
from batchflux.monitoring.metrics import metrics_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from batchflux.gateway.desk import Desk, Held
    from batchflux.gateway.orders import Shot
    from batchflux.gateway.pictures import Pictures

LONGEST_MARK = 255  # characters of an Idempotency-Key
MODELS, GENERATIONS, EDITS, CHAT = "/v1/models", "/v1/images/generations", "/v1/images/edits", "/v1/chat/completions"
_ENDPOINTS = ["images", "edits", "chat"]


class Server:
    """The application: orders go to `desk`, `pictures` are looked at by their links.

    `public_url` is what links begin with, None: the address by which the client found us.
    """

    def __init__(self, guard: Guard, desk: Desk, pictures: Pictures, public_url: str | None) -> None:
        self._guard, self._desk, self._pictures, self._public_url = guard, desk, pictures, public_url
        self._began, self._count = int(time.time()), Numbers(desk)

    def app(self) -> web.Application:
        """Return the application."""
        app = self._guard.app()
        app.on_response_prepare.append(self._count.note)
        app.router.add_get(HEALTH, self._health)
        app.router.add_get(METRICS, self._numbers)
        app.router.add_get(MODELS, self._models)
        app.router.add_get(f"{MODELS}/{{id:.+}}", self._model)
        app.router.add_get(f"{IMAGES}{{name}}", self._picture)
        app.router.add_post(GENERATIONS, self._generations)
        app.router.add_post(EDITS, self._edits)
        app.router.add_post(CHAT, self._chat)
        return app

    async def _health(self, _request: web.Request) -> web.Response:
        if not self._desk.works:
            return web.json_response({"status": "failed"}, status=503)
        if await self._desk.keeps():
            return web.json_response({"status": "ok"})
        row = errors.ROWS[STORAGE]
        return web.json_response({"status": "failed", "code": row.code, "message": row.says}, status=row.status)

    async def _numbers(self, _request: web.Request) -> web.Response:
        text = await asyncio.to_thread(metrics_of, self._desk.folder)
        return web.Response(body=f"{text}{self._count.text()}".encode(), headers={"Content-Type": CONTENT_TYPE})

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": self._listed()})

    async def _model(self, request: web.Request) -> web.Response:
        for listed in self._listed():
            if listed["id"] == request.match_info["id"]:
                return web.json_response(listed)
        raise RefusalError(404, "model_not_found", "This gateway has no such model; /v1/models lists them.")

    def _listed(self) -> list[dict[str, object]]:
        return [
            {"id": one.id, "object": "model", "created": self._began, "owned_by": one.provider}
            | {"endpoints": _ENDPOINTS, "price": one.price, "currency": one.currency}
            for one in self._desk.models()
        ]

    async def _picture(self, request: web.Request) -> web.StreamResponse:
        return await self._pictures.answer(request)

    async def _generations(self, request: web.Request) -> web.StreamResponse:
        order, form = orders.generation(_object(request))
        return await self._images(request, order, form, edit=False)

    async def _edits(self, request: web.Request) -> web.StreamResponse:
        if request.content_type == JSON:
            order, form = orders.edit_json(_object(request))
        else:
            order, form = orders.edit_form(parts_of(request.headers.get("Content-Type", ""), body_of(request)))
        return await self._images(request, order, form, edit=True)

    async def _images(self, request: web.Request, order: Order, form: Form, *, edit: bool) -> web.StreamResponse:
        answer = ImagesAnswer(created=int(time.time()), link=self._link(request), inline=form.inline, edit=edit)
        held, joins = await self._taken(request, order)
        with _waiting(held):
            if form.stream:
                await early(held.made)
                return await send.send_stream(request, answer.stream(held.made), headers.noted(_notes(held, form)))
            shots = await asyncio.shield(held.made)
            return await send.send_document(
                request, answer.document(shots), self._told(request, held, shots, form, joined=joins)
            )

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        order, form = chats.chat(
            _object(request), lambda url: (self._own(request, url) or links.named_by(url)) is not None
        )
        link = self._link(request)
        held, joins = await self._taken(request, order)
        answer = ChatAnswer(
            model=order.model, created=int(time.time()), link=link, inline=form.inline, missing=lambda: held.missing
        )
        with _waiting(held):
            if form.stream:
                await early(held.made)
                frames = answer.stream(held.made, self._desk.doing)
                return await send.send_stream(request, frames, headers.noted(_notes(held, form)))
            shots = await asyncio.shield(held.made)
            return await send.send_document(
                request, answer.document(shots), self._told(request, held, shots, form, joined=joins)
            )

    async def _taken(self, request: web.Request, order: Order) -> tuple[Held, bool]:
        """Take an order, as the desk does; links to our own pictures become those."""
        images = [await self._looked_up(request, picture) for picture in order.images]
        mask = None if order.mask is None else await self._looked_up(request, order.mask)
        order = replace(order, images=tuple(images), mask=mask)
        mark = request.headers.get("Idempotency-Key")
        if mark is not None and not (0 < len(mark) <= LONGEST_MARK and mark.isprintable()):
            message = f"Idempotency-Key: allowed is text of 1 to {LONGEST_MARK} characters on one line."
            raise RefusalError(400, "invalid_idempotency_key", message)
        again = request.headers.get("x-stainless-retry-count", "0").strip() not in {"", "0"}
        return await self._desk.take(request[CLIENT], order, mark=mark, again=again)

    async def _looked_up(self, request: web.Request, picture: Picture) -> Picture:
        if picture.url is None:
            return picture
        if (own := self._own(request, picture.url)) is not None:
            return await self._pictures.taken(own)
        name = links.named_by(picture.url)
        return picture if name is None else await self._pictures.found(name) or picture

    def _own(self, request: web.Request, url: str) -> str | None:
        """Return the name of our picture that a link leads to; None: it leads elsewhere."""
        bases = {links.base_of(self._public_url, request.scheme, request.host)}
        bases |= {links.base_of(None, scheme, request.host) for scheme in ("http", "https")}
        for base in bases:
            if url.startswith(f"{base}{IMAGES}"):
                return url.removeprefix(f"{base}{IMAGES}")
        return None

    def _link(self, request: web.Request) -> Callable[[Shot], str]:
        base = links.base_of(self._public_url, request.scheme, request.host)
        return lambda shot: links.link_of(base, shot.name)

    def _told(
        self, request: web.Request, held: Held, shots: Sequence[Shot], form: Form, *, joined: bool
    ) -> dict[str, str]:
        further = [self._link(request)(one) for shot in shots for one in shot.further]
        return headers.told(
            jobs=[shot.job for shot in shots],
            cost=self._desk.cost(shots),
            currency=self._desk.currency,
            joined=joined or not held.buys,
            notes=_notes(held, form) | ({"further": ", ".join(further)} if further else {}),
        )


def _object(request: web.Request) -> dict[str, Any]:
    """Return the JSON that came with a request. RefusalError: it is none, or a form."""
    if request.content_type != JSON:
        raise RefusalError(415, "unsupported_media_type", f"Send JSON here: a form is taken at {EDITS} alone.")
    return bodies.parsed(body_of(request))


def _notes(held: Held, form: Form) -> dict[str, str]:
    """Return what is told of an order: what its reader noted, what did not travel, and what could not be made."""
    read = form.notes.get("dropped", "")
    told = {"dropped": ", ".join((*([read] if read else []), *held.dropped)), "missing": ", ".join(held.missing)}
    return {**form.notes, **{name: text for name, text in told.items() if text}}


@contextmanager
def _waiting(held: Held) -> Iterator[None]:
    """Count who waits for a call."""
    held.waiting += 1
    try:
        yield
    finally:
        held.waiting -= 1
        held.left = time.monotonic()
