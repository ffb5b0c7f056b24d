"""Answer the calls whose answer holds the picture: `POST /v1/images/generations` and `POST /v1/chat/completions`.

A stream is written packet by packet; its noise (an echo of the request, progress) is drawn, so that it repeats.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from typing import TYPE_CHECKING

from aiohttp import web

from batchflux.simulator.images import link, media_type_of, picture
from batchflux.simulator.replies import DONE, STREAM_TYPE, Reply, json_reply, reset

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchflux.simulator.drawing import Recipe
    from batchflux.simulator.endpoint import Endpoint, Turn
    from batchflux.simulator.replies import Chunks
    from batchflux.simulator.requests import ImageRequest

_PACKET_PAUSE = 0.002
_ECHO_SHARE, _EMPTY_SHARE = 0.5, 0.3
_FEWEST_STEPS, _MOST_STEPS = 2, 6
_IN_CHARACTER = re.compile(rb"(?<=[\xc0-\xff])[\x80-\xbf]")  # UTF-8: the second byte of a character


async def answer(endpoint: Endpoint, http: web.Request, request: ImageRequest, _: str) -> web.StreamResponse:
    """Answer a call of the images API or of the chat API that was let in."""
    turn = endpoint.turn(request)
    if (instead := await endpoint.instead(http, request, turn)) is not None:
        return instead
    endpoint.journal.bill(request.content)
    if "reset" in turn.faults:
        await endpoint.pause(turn.latency)
        return reset(http)
    recipe = await endpoint.recipe(request, turn)
    url = link(recipe, f"{http.scheme}://{http.host}", request.urls)
    chunks, data = turn.chunks(request.model), None
    if turn.faults & {"b64_json", "data_url"} and url not in request.urls:
        data = await asyncio.to_thread(picture, recipe, endpoint.cache)
    if request.api == "chat":
        packets = _packets(chunks, [*_noise(request, turn, url), *_picture(recipe, url, data, turn)], turn)
        if "cut" not in turn.faults:
            return await _stream(http, request, packets, turn, endpoint)
        reply = Reply(content_type=STREAM_TYPE, body=b"".join(packets))
    else:
        image = {"url": url} if data is None else {"b64_json": base64.b64encode(data).decode()}
        reply = json_reply({"created": chunks.created, "data": [image]})
    await endpoint.pause(turn.latency)
    if "cut" in turn.faults:
        return await endpoint.cut(http, reply)
    response = endpoint.response(reply, request.api)
    await response.prepare(http)
    await response.write_eof()
    endpoint.journal.answer(request.content)
    return response


async def _stream(
    http: web.Request, request: ImageRequest, packets: list[bytes], turn: Turn, endpoint: Endpoint
) -> web.StreamResponse:
    own = {"Content-Type": f"{STREAM_TYPE}; charset=utf-8", "Cache-Control": "no-cache"}
    response = web.StreamResponse(headers={**own, **endpoint.throttle.headers()})
    await response.prepare(http)
    endpoint.journal.by_status[response.status] += 1
    # Packets that nothing waits between would melt into one on their way; a character cut in two must stay cut.
    step = max(turn.latency / len(packets), _PACKET_PAUSE if "split_utf8" in turn.faults else 0.0)
    for packet in packets:
        await response.write(packet)
        await endpoint.pause(step)
    await response.write_eof()
    endpoint.journal.answer(request.content)
    return response


def _packets(chunks: Chunks, texts: list[str], turn: Turn) -> list[bytes]:
    frames = chunks.message(*texts)
    if turn.draw("empty") < _EMPTY_SHARE:
        frames.insert(1, chunks.frame(None))
    if "missing_done" not in turn.faults:
        frames.append(DONE)
    if "crlf_comments" in turn.faults:
        frames = [frame.replace(b"\n", b"\r\n") + b": ping\r\n\r\n" for frame in frames]
    if "split_utf8" not in turn.faults:
        return frames
    data = b"".join(frames)  # cut inside every character of several bytes
    cuts = [found.start() for found in _IN_CHARACTER.finditer(data)]
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def _noise(request: ImageRequest, turn: Turn, url: str) -> Iterator[str]:
    if turn.draw("echo") < _ECHO_SHARE:
        origin = url.partition("/v1/")[0]
        images = [*request.urls, *(f"{origin}/v1/files/uploads/{upload.sha256[:16]}" for upload in request.uploads)]
        echo = {"model": request.model, "prompt": " ".join([*request.urls, request.prompt]), "images": images, "n": 1}
        yield f"```json\n{json.dumps(echo, ensure_ascii=False, indent=2)}\n```\n\n"
    yield "> 🎨 生成中...\n"
    steps = turn.pick("steps", range(_FEWEST_STEPS, _MOST_STEPS + 1))
    for step in range(steps):
        yield f"> 进度 **{2 + step * 96 // steps}%**\n"
    yield "> 进度 **100%** ✅\n\n"


def _picture(recipe: Recipe, url: str, data: bytes | None, turn: Turn) -> list[str]:
    if data is not None:
        return [f"![image](data:{media_type_of(recipe, data)};base64,{base64.b64encode(data).decode()})\n"]
    if "bare_url" in turn.faults:
        return [f"{url}\n"]
    download = url.replace("/v1/files/", "/v1/files/download/", 1)
    return [f"![image]({url})\n\n", f"[点击下载]({download})\n"]
