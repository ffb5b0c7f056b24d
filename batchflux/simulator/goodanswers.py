"""The answers with a picture: one JSON object, or the noisy stream that relays really send.

A stream is a list of packets, each written by itself. Its noise (an echo of the request, progress lines, frames with
a role or nothing in them) is drawn from the seed and the content, so that it repeats.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchflux.simulator.faults import between, fraction
from batchflux.simulator.replies import DONE, Chunks, Reply, dumps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchflux.simulator.requests import Ask

_ECHO_SHARE = 0.5
_EMPTY_SHARE = 0.3
_FEWEST, _MOST = 2, 7
_CONTINUED, _LEAD = 0x80, 0xC0  # UTF-8: from here the second bytes of a character, and from here the first


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A picture as it is given: two links to it, or its bytes."""

    url: str
    download_url: str
    media_type: str
    data: bytes | None = field(default=None, repr=False)

    @property
    def base64(self) -> str:
        """The bytes for JSON."""
        return base64.b64encode(self.data or b"").decode()


def standard_reply(given: Given, created: int) -> Reply:
    """Return the answer of the images API."""
    picture = {"url": given.url} if given.data is None else {"b64_json": given.base64}
    return Reply(body=dumps({"created": created, "data": [picture]}))


def chat_packets(
    ask: Ask, given: Given, chunks: Chunks, form: frozenset[str], chance: tuple[object, ...]
) -> list[bytes]:
    """Return the stream that brings `given`, cut into the packets to write; `form` are the faults of its shape."""
    frames = [chunks.role(), *map(chunks.text, _noise(ask, given, chance)), *map(chunks.text, _picture(given, form))]
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


def _noise(ask: Ask, given: Given, chance: tuple[object, ...]) -> Iterator[str]:
    if fraction("echo", *chance) < _ECHO_SHARE:
        origin = given.url.partition("/v1/")[0]
        images = [*ask.urls, *(f"{origin}/v1/files/uploads/{upload.sha256[:16]}" for upload in ask.uploads)]
        echo = {"model": ask.model, "prompt": " ".join([*ask.urls, ask.prompt]), "images": images, "n": 1}
        yield f"```json\n{json.dumps(echo, ensure_ascii=False, indent=2)}\n```\n\n"
    yield "> 🎨 生成中...\n"
    steps = int(between(_FEWEST, _MOST, "steps", *chance))
    for step in range(steps):
        yield f"> 进度 **{2 + step * 96 // steps}%**\n"
    yield "> 进度 **100%** ✅\n\n"


def _picture(given: Given, form: frozenset[str]) -> list[str]:
    if given.data is not None:
        return [f"![image](data:{given.media_type};base64,{given.base64})\n"]
    if "bare_url" in form:
        return [f"{given.url}\n"]
    return [f"![image]({given.url})\n\n", f"[点击下载]({given.download_url})\n"]


def split_characters(data: bytes) -> list[bytes]:
    """Cut `data` inside every character of several bytes."""
    cuts = [index for index in range(1, len(data)) if _CONTINUED <= data[index] < _LEAD <= data[index - 1]]
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
