"""Answers the two paid calls: key, pace, body, faults, then the picture."""

from __future__ import annotations

import asyncio
import hmac
import time
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web

from batchflux.simulator import replies as breaks
from batchflux.simulator.requests import Ask, parse_ask
from batchflux.simulator.replies import BAD_ANSWERS, Moment, unauthorized
from batchflux.simulator.faults import between, fraction
from batchflux.simulator.faults import Chosen, FaultPlan
from batchflux.simulator.images import INLINE, give, shown
from batchflux.simulator.calls import chat_packets, standard_reply
from batchflux.simulator.images import recipe_for
from batchflux.simulator.references import NotAPictureError
from batchflux.simulator.images import GoneError
from batchflux.simulator.replies import STREAM_TYPE, Chunks, Refusal, Reply, error_reply, invalid

if TYPE_CHECKING:
    from batchflux.models import Style
    from batchflux.simulator.journal import Journal
    from batchflux.simulator.options import SimulatorOptions
    from batchflux.simulator.images import Studio
    from batchflux.simulator.endpoint import Throttle

_LARGE_BODY = 32_768
_PACKET_PAUSE = 0.002

Chance = tuple[object, ...]


class Api:
    """The handlers of `POST /v1/images/generations` and `POST /v1/chat/completions`."""

    def __init__(self, options: SimulatorOptions, journal: Journal, throttle: Throttle, studio: Studio) -> None:
        self._options = options
        self._journal = journal
        self._throttle = throttle
        self._studio = studio
        self._plan = FaultPlan(seed=options.seed, rules=options.faults, script=options.script)
        self.closing = asyncio.Event()

    async def standard(self, request: web.Request) -> web.StreamResponse:
        """Answer a call in the standard style."""
        return await self._call(request, "standard")

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Answer a call in the chat style."""
        return await self._call(request, "chat")

    def authorize(self, request: web.Request) -> None:
        """Let the request in.

        Raises:
            Refusal: 401, keys are asked for and this is none of them.
        """
        if self._options.keys is None:
            return
        kind, _, key = request.headers.get("Authorization", "").partition(" ")
        known = [hmac.compare_digest(key.encode(), accepted.encode()) for accepted in self._options.keys]
        if kind.lower() != "bearer" or not any(known):
            raise Refusal(unauthorized())

    async def _call(self, request: web.Request, style: Style) -> web.StreamResponse:
        self._journal.received += 1
        try:
            raw = await request.read()
            self.authorize(request)
            with self._throttle.admitted():
                return await self._answer(request, await self._ask(style, raw))
        except web.HTTPRequestEntityTooLarge:
            message = "The request is larger than 64 MB."
            return self._whole(error_reply(413, message, "invalid_request_error", code="request_too_large"))
        except Refusal as refusal:
            return self._whole(refusal.reply)
        except GoneError:
            return self._whole(error_reply(500, "An upload was dropped from the cache.", "server_error"))

    async def _ask(self, style: Style, raw: bytes) -> Ask:
        if len(raw) < _LARGE_BODY:
            ask = parse_ask(style, raw)
        else:
            ask = await self._studio.off_loop(partial(parse_ask, style, raw))
        for upload in ask.uploads:
            try:
                await self._studio.off_loop(partial(self._studio.spool.keep, upload))
            except NotAPictureError as error:
                raise invalid(f"{upload.place} is not a picture that can be decoded.", upload.place) from error
            except OSError as error:
                message = f"The simulator cannot keep an upload: {error.strerror}; free or change its cache_dir."
                raise Refusal(error_reply(500, message, "server_error")) from error
        return ask

    async def _answer(self, request: web.Request, ask: Ask) -> web.StreamResponse:
        turn = self._journal.ask(ask.content)
        chosen = self._plan.choose(ask, turn)
        self._journal.faults.update(chosen.names)
        chance: Chance = (self._options.seed, ask.content, turn)
        pause = between(*self._options.latency, "latency", *chance)
        chunks = _chunks(ask, chance)
        if chosen.instead == "hang":
            await self.closing.wait()
            return breaks.reset(request)
        if chosen.instead in BAD_ANSWERS:
            await self.pause(pause)
            return self._whole(BAD_ANSWERS[chosen.instead](Moment(ask=ask, chunks=chunks, chance=chance)))
        self._journal.billed += 1
        if chosen.instead == "reset":
            await self.pause(pause)
            return breaks.reset(request)
        origin = f"{request.scheme}://{request.host}"
        fault = shown(chosen.link, ask)
        recipe = recipe_for(ask, self._options.size, fault=fault, turn=turn, salt=self._options.salt)
        given = await give(self._studio, ask, recipe, origin, inline=bool(chosen.form & INLINE))
        if ask.style == "standard":
            await self.pause(pause)
            return await self._send(request, ask, chosen, standard_reply(given, chunks.created))
        packets = chat_packets(ask, given, chunks, chosen.form, chance)
        if chosen.instead == "cut":
            await self.pause(pause)
            return await self._send(request, ask, chosen, Reply(content_type=STREAM_TYPE, body=b"".join(packets)))
        return await self._stream(request, ask, packets, pause, split="split_utf8" in chosen.form)

    async def pause(self, seconds: float) -> None:
        """Wait, unless the simulator closes."""
        if seconds <= 0:
            return
        try:
            await asyncio.wait_for(self.closing.wait(), seconds)
        except TimeoutError:
            return

    async def _send(self, request: web.Request, ask: Ask, chosen: Chosen, reply: Reply) -> web.StreamResponse:
        if chosen.instead == "cut":
            self._journal.by_status[reply.status] += 1
            return await breaks.cut(request, reply, self._throttle.headers())
        response = self._whole(reply)
        await response.prepare(request)
        await response.write_eof()
        self._journal.answer(ask.content)
        return response

    async def _stream(
        self, request: web.Request, ask: Ask, packets: list[bytes], pause: float, *, split: bool
    ) -> web.StreamResponse:
        headers = {"Content-Type": f"{STREAM_TYPE}; charset=utf-8", "Cache-Control": "no-cache"}
        response = web.StreamResponse(headers={**headers, **self._throttle.headers()})
        await response.prepare(request)
        self._journal.by_status[200] += 1
        # Packets that nothing waits between would melt into one on their way; a character cut in two must stay cut.
        step = max(pause / len(packets), _PACKET_PAUSE if split else 0.0)
        if step:
            for packet in packets:
                await response.write(packet)
                await self.pause(step)
        else:
            await response.write(b"".join(packets))
        await response.write_eof()
        self._journal.answer(ask.content)
        return response

    def _whole(self, reply: Reply) -> web.Response:
        self._journal.by_status[reply.status] += 1
        return breaks.whole(reply, self._throttle.headers())


def _chunks(ask: Ask, chance: Chance) -> Chunks:
    identity = f"chatcmpl-{int(fraction('id', *chance) * 16**12):012x}"
    return Chunks(id=identity, created=int(time.time()), model=ask.model)
