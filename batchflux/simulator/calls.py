"""Answer the calls whose answer holds the picture: a relay's images and chat here, all others by their dialect.

A stream is written packet by packet; its noise (an echo of the request, progress) is drawn, so that it repeats.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from typing import TYPE_CHECKING

from aiohttp import web

from batchflux.simulator.apis import DIALECTS, Made
from batchflux.simulator.images import link, media_type_of, picture
from batchflux.simulator.options import MIN_SIZE
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
    """Answer a call whose answer holds the picture, and that was let in."""
    turn = endpoint.turn(request)
    dialect = DIALECTS.get(request.api)
    call = f"gen-{_id_of(turn, request)}"
    if dialect is not None and turn.of("instead") in dialect.billed:
        endpoint.journal.bill(request, call=call, price=request.price)
    if (instead := await endpoint.instead(http, request, turn)) is not None:
        return instead
    endpoint.journal.bill(request, call=call, price=request.price)
    if "reset" in turn.faults:
        await endpoint.pause(turn.latency)
        return reset(http)
    said = await pictured(endpoint, request, turn, f"{http.scheme}://{http.host}")
    if isinstance(said, list):
        if "cut" not in turn.faults:
            return await _stream(http, request, said, turn, endpoint)
        said = Reply(content_type=STREAM_TYPE, body=b"".join(said))
    await endpoint.pause(turn.latency)
    if "cut" in turn.faults:
        return await endpoint.cut(http, said)
    response = endpoint.response(said, request.api)
    await response.prepare(http)
    await response.write_eof()
    endpoint.journal.answer(request.content)
    return response


async def pictured(endpoint: Endpoint, request: ImageRequest, turn: Turn, origin: str) -> Reply | list[bytes]:
    """Return the answer that holds the picture, or its packets, for who knows this server as `origin`."""
    recipe = await endpoint.recipe(request, turn)
    url = link(recipe, origin, request.urls)
    data = None
    if _is_inline(request, turn) and (request.inline or url not in request.urls):
        data = await asyncio.to_thread(picture, recipe, endpoint.cache)
    dialect = DIALECTS.get(request.api)
    if dialect is not None and dialect.answer is not None:
        return dialect.answer(await _made(endpoint, request, turn, (recipe, url, data)))
    if request.api == "chat":
        texts = [*_noise(request, turn, url), *_picture(recipe, url, data, turn)]
        return _packets(turn.chunks(request.model), texts, turn)
    image = {"url": url} if data is None else {"b64_json": base64.b64encode(data).decode()}
    return json_reply({"created": turn.chunks(request.model).created, "data": [image]})


def _is_inline(request: ImageRequest, turn: Turn) -> bool:
    """Whether the picture comes in the answer: as the API has it, unless a fault has it the other way."""
    if request.inline:
        return "as_link" not in turn.faults
    return bool(turn.faults & {"b64_json", "data_url"})


async def _made(endpoint: Endpoint, request: ImageRequest, turn: Turn, found: tuple[Recipe, str, bytes | None]) -> Made:
    recipe, url, data = found
    draft = b""
    if request.drafts:
        small = recipe.model_copy(update={"size": MIN_SIZE, "fault": ""})
        draft = await asyncio.to_thread(picture, small, endpoint.cache)
    return Made(
        request=request,
        url=url,
        media_type=f"image/{recipe.output_format}" if data is None else media_type_of(recipe, data),
        data=data,
        draft=draft,
        forms=turn.faults,
        id=_id_of(turn, request),
        created=turn.chunks(request.model).created,
    )


def _id_of(turn: Turn, request: ImageRequest) -> str:
    return turn.chunks(request.model).id.removeprefix("chatcmpl-")


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
