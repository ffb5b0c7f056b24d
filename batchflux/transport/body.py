"""What an API call carries: compact JSON in UTF-8, with local pictures put in as `data:` URLs as it is sent.

The bytes that go out are the bytes the plan saw: a file that changed since then would make a picture that its job's
key does not stand for.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import io
import json
import os
import stat
from collections.abc import Mapping
from typing import Any

import aiofiles

from batchflux.errors import Code, JobError
from batchflux.models import LocalImage

ONE_WRITE = 1 << 20  # bytes; aiohttp sends more than this in pieces only from a file


async def encode(body: Mapping[str, Any]) -> bytes | io.BytesIO:
    """Return the body as it goes over the wire.

    Raises:
        JobError: `reference` when a local picture is unreadable or not what it was at plan time, `invalid_request`
            when a text in the body cannot be written as UTF-8.
    """
    images: set[LocalImage] = set()
    data = _json(body, {}, images)
    if images:
        urls = {image: await _data_url(image) for image in images}
        data = await asyncio.to_thread(_json, body, urls, images)
    return data if len(data) <= ONE_WRITE else io.BytesIO(data)


def _json(body: Mapping[str, Any], urls: Mapping[LocalImage, str], found: set[LocalImage]) -> bytes:
    """Encode `body` with `urls` in the place of its local pictures, which are added to `found`."""

    def leaf(value: object) -> Any:
        if isinstance(value, LocalImage):
            found.add(value)
            return urls.get(value, "")
        if isinstance(value, Mapping):
            return dict(value)
        raise TypeError(f"a {type(value).__name__} cannot travel in JSON")

    try:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":"), default=leaf).encode()
    except UnicodeEncodeError:
        message = "the request holds half a surrogate pair, which is no text; mend the prompt"
        raise JobError(Code.INVALID_REQUEST, message) from None


async def _data_url(image: LocalImage) -> str:
    try:
        async with aiofiles.open(image.path, "rb", opener=_at_once) as file:
            data = await file.read()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = error.strerror if isinstance(error, OSError) else str(error)
        message = f"reference {image.path} cannot be read: {why}; put the file back and run again"
        raise JobError(Code.REFERENCE, message) from None
    return await asyncio.to_thread(_checked_url, image, data)


def _at_once(path: str, flags: int) -> int:
    """Open a file and nothing else: a pipe that took its place would wait for ever, and a device would never end."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "is not a file")


def _checked_url(image: LocalImage, data: bytes) -> str:
    if hashlib.sha256(data).hexdigest() != image.sha256:
        raise JobError(Code.REFERENCE, f"reference {image.path} changed since the plan; run again")
    return f"data:{image.media_type};base64,{base64.b64encode(data).decode('ascii')}"
