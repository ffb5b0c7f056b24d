"""What an API call carries: compact JSON in UTF-8, with local pictures put in as `data:` URLs as it is sent.

The bytes that go out are the bytes the plan saw: a file that changed since then would make a picture that its job's
key does not stand for.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import aiofiles

from batchflux.errors import Code, JobError
from batchflux.model import LocalImage

if TYPE_CHECKING:
    from collections.abc import Iterator

ONE_WRITE = 1 << 20  # bytes; aiohttp sends more than this in pieces only from a file


async def encode(body: Mapping[str, Any]) -> bytes | io.BytesIO:
    """Return the body as it goes over the wire.

    Raises:
        JobError: `reference` when a local picture is unreadable or not what it was at plan time, `invalid_request`
            when a text in the body cannot be written as UTF-8.
    """
    images = frozenset(_local_images(body))
    if not images:
        return _sendable(_json(body, {}))
    urls = {image: await _data_url(image) for image in images}
    return _sendable(await asyncio.to_thread(_json, body, urls))


def _sendable(data: bytes) -> bytes | io.BytesIO:
    return data if len(data) <= ONE_WRITE else io.BytesIO(data)


def _json(body: Mapping[str, Any], urls: Mapping[LocalImage, str]) -> bytes:
    def leaf(value: object) -> Any:
        if isinstance(value, LocalImage):
            return urls[value]
        if isinstance(value, Mapping):
            return dict(value)
        raise TypeError(f"a {type(value).__name__} cannot travel in JSON")

    try:
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), default=leaf)
        return text.encode()
    except UnicodeEncodeError:
        message = "the request holds half a surrogate pair, which is no text; mend the prompt"
        raise JobError(Code.INVALID_REQUEST, message) from None


def _local_images(value: object) -> Iterator[LocalImage]:
    if isinstance(value, LocalImage):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _local_images(inner)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for inner in value:
            yield from _local_images(inner)


async def _data_url(image: LocalImage) -> str:
    try:
        async with aiofiles.open(image.path, "rb") as file:
            data = await file.read()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = error.strerror if isinstance(error, OSError) else str(error)
        message = f"reference {image.path} cannot be read: {why}; put the file back and run again"
        raise JobError(Code.REFERENCE, message) from None
    return await asyncio.to_thread(_checked_url, image, data)


def _checked_url(image: LocalImage, data: bytes) -> str:
    if hashlib.sha256(data).hexdigest() != image.sha256:
        raise JobError(Code.REFERENCE, f"reference {image.path} changed since the plan; run again")
    return f"data:{image.media_type};base64,{base64.b64encode(data).decode('ascii')}"
