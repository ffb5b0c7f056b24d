"""Answer the calls whose answer holds the picture: `POST /v1/images/generations` and `POST /v1/chat/completions`.

A stream is a list of packets, each written by itself. Its noise (an echo of the request, progress lines, frames with
a role or nothing in them) is drawn from the seed and the content, so that it repeats.
"""

from __future__ import annotations

import json
import time
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web

from batchflux.simulator import replies
from batchflux.simulator.faults import between, fraction
from batchflux.simulator.images import links, recipe_for
from batchflux.simulator.replies import (
    DONE,
    STREAM_TYPE,
    Chunks,
    Reply,
    dumps,
)
from batchflux.simulator.requests import parse_call

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchflux.simulator.endpoint import Endpoint, Turn
    from batchflux.simulator.images import GivenImage
    from batchflux.simulator.replies import Api
    from batchflux.simulator.requests import ImageRequest

INLINE = frozenset({"b64_json", "data_url"})
_PACKET_PAUSE = 0.002
_ECHO_SHARE = 0.5
_EMPTY_SHARE = 0.3
_FEWEST, _MOST = 2, 7
_CONTINUED, _LEAD = 0x80, 0xC0  # UTF-8: from here the second bytes of a character, and from here the first


class Calls:
    """The handlers of the two calls."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def standard(self, http: web.Request) -> web.StreamResponse:
        """Answer a call of the images API."""
        return await self._call(http, "standard")

    async def chat(self, http: web.Request) -> web.StreamResponse:
        """Answer a call of the chat API."""
        return await self._call(http, "chat")

    async def _call(self, http: web.Request, api: Api) -> web.StreamResponse:
        async def answer(raw: bytes, _: str) -> web.StreamResponse:
            return await self._answer(http, await self._endpoint.validated(raw, partial(parse_call, api)))

        return await self._endpoint.admit(http, api, answer)

    async def _answer(self, http: web.Request, request: ImageRequest) -> web.StreamResponse:
        endpoint = self._endpoint
        turn = endpoint.turn(request)
        chunks = _chunks(request, turn)
        if turn.faults.instead == "hang":
            await endpoint.closing.wait()
            return replies.reset(http)
        if error := turn.error_answer(request.api, chunks):
            await endpoint.pause(turn.latency)
            return endpoint.response(error, request.api)
        endpoint.journal.bill(request.content)
        if turn.faults.instead == "reset":
            await endpoint.pause(turn.latency)
            return replies.reset(http)
        given = await self._given(request, turn, f"{http.scheme}://{http.host}")
        if request.api == "standard":
            await endpoint.pause(turn.latency)
            return await self._send(http, request, turn, standard_reply(given, chunks.created))
        packets = chat_packets(request, given, chunks, turn)
        if turn.faults.instead == "cut":
            await endpoint.pause(turn.latency)
            stream = Reply(content_type=STREAM_TYPE, body=b"".join(packets))
            return await self._send(http, request, turn, stream)
        return await self._stream(http, request, packets, turn)

    async def _given(self, request: ImageRequest, turn: Turn, origin: str) -> GivenImage:
        options, images = self._endpoint.options, self._endpoint.images
        recipe = recipe_for(request, options.size, fault=turn.faults.link, turn=turn.number, salt=options.salt)
        await images.keep_echo(request, recipe)
        given = links(recipe, origin, request.urls)
        return await images.inlined(given, recipe) if turn.faults.form & INLINE else given

    async def _send(self, http: web.Request, request: ImageRequest, turn: Turn, reply: Reply) -> web.StreamResponse:
        if turn.faults.instead == "cut":
            self._endpoint.journal.by_status[reply.status] += 1
            return await replies.cut(http, reply, self._endpoint.throttle.headers())
        response = self._endpoint.response(reply, request.api)
        await response.prepare(http)
        await response.write_eof()
        self._endpoint.journal.answer(request.content)
        return response

    async def _stream(
        self, http: web.Request, request: ImageRequest, packets: list[bytes], turn: Turn
    ) -> web.StreamResponse:
        headers = {"Content-Type": f"{STREAM_TYPE}; charset=utf-8", "Cache-Control": "no-cache"}
        response = web.StreamResponse(headers={**headers, **self._endpoint.throttle.headers()})
        await response.prepare(http)
        self._endpoint.journal.by_status[200] += 1
        # Packets that nothing waits between would melt into one on their way; a character cut in two must stay cut.
        step = max(turn.latency / len(packets), _PACKET_PAUSE if "split_utf8" in turn.faults.form else 0.0)
        if step:
            for packet in packets:
                await response.write(packet)
                await self._endpoint.pause(step)
        else:
            await response.write(b"".join(packets))
        await response.write_eof()
        self._endpoint.journal.answer(request.content)
        return response


def _chunks(request: ImageRequest, turn: Turn) -> Chunks:
    identity = f"chatcmpl-{int(fraction('id', *turn.chance) * 16**12):012x}"
    return Chunks(id=identity, created=int(time.time()), model=request.model)


def standard_reply(given: GivenImage, created: int) -> Reply:
    """Return the answer of the images API."""
    picture = {"url": given.url} if given.data is None else {"b64_json": given.base64}
    return Reply(body=dumps({"created": created, "data": [picture]}))


def chat_packets(request: ImageRequest, given: GivenImage, chunks: Chunks, turn: Turn) -> list[bytes]:
    """Return the stream that brings `given`, cut into the packets to write."""
    form, chance = turn.faults.form, turn.chance
    frames = [
        chunks.role(),
        *map(chunks.text, _noise(request, given, chance)),
        *map(chunks.text, _picture(given, form)),
    ]
    if fraction("empty", *chance) < _EMPTY_SHARE:
        frames.insert(1, chunks.nothing())
    frames.append(chunks.stop())
    if "missing_done" not in form:
        frames.append(DONE)
    if "crlf_comments" in form:
        frames = [frame.replace(b"\n", b"\r\n") + b": ping\r\n\r\n" for frame in frames]
    if "split_utf8" in form:
        return split_characters(b"".join(frames))
    return frames


def _noise(request: ImageRequest, given: GivenImage, chance: tuple[object, ...]) -> Iterator[str]:
    if fraction("echo", *chance) < _ECHO_SHARE:
        origin = given.url.partition("/v1/")[0]
        images = [*request.urls, *(f"{origin}/v1/files/uploads/{upload.sha256[:16]}" for upload in request.uploads)]
        echo = {"model": request.model, "prompt": " ".join([*request.urls, request.prompt]), "images": images, "n": 1}
        yield f"```json\n{json.dumps(echo, ensure_ascii=False, indent=2)}\n```\n\n"
    yield "> 🎨 生成中...\n"
    steps = int(between(_FEWEST, _MOST, "steps", *chance))
    for step in range(steps):
        yield f"> 进度 **{2 + step * 96 // steps}%**\n"
    yield "> 进度 **100%** ✅\n\n"


def _picture(given: GivenImage, form: frozenset[str]) -> list[str]:
    if given.data is not None:
        return [f"![image](data:{given.media_type};base64,{given.base64})\n"]
    if "bare_url" in form:
        return [f"{given.url}\n"]
    return [f"![image]({given.url})\n\n", f"[点击下载]({given.download_url})\n"]


def split_characters(data: bytes) -> list[bytes]:
    """Cut `data` inside every character of several bytes."""
    cuts = [index for index in range(1, len(data)) if _CONTINUED <= data[index] < _LEAD <= data[index - 1]]
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
