"""What a request carries: JSON, a form or a file, with local pictures put in as it is sent.

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
import re
import stat
from collections.abc import Mapping
from typing import Any

import aiofiles
from aiohttp import FormData

from batchflux.errors import Code, JobError
from batchflux.models import Bytes, Content, Json, LocalImage, Multipart

ONE_WRITE = 1 << 20  # bytes; aiohttp sends more than this in pieces only from a file
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")

Encoded = bytes | io.BytesIO | FormData | None


async def encode(content: Content | None) -> tuple[Encoded, dict[str, str]]:
    """Return a content as it goes over the wire, and the headers that say what it is.

    JSON is compact and in UTF-8. A form's headers are added by aiohttp.

    Raises:
        JobError: `reference` when a local picture is unreadable or not what it was at plan time, `invalid_request`
            when a text cannot be written as UTF-8.
    """
    match content:
        case None:
            return None, {}
        case Json():
            data = await _json(content.value)
            return data if len(data) <= ONE_WRITE else io.BytesIO(data), {"Content-Type": "application/json"}
        case Multipart():
            return await _form(content), {}
        case Bytes():
            return io.BytesIO(await _checked(content.image)), {"Content-Type": content.image.media_type}


async def _json(value: Mapping[str, Any]) -> bytes:
    images: set[LocalImage] = set()
    data = _dumped(value, {}, images)
    if not images:
        return data
    texts = {image: await asyncio.to_thread(_as_text, image, await _checked(image)) for image in images}
    return await asyncio.to_thread(_dumped, value, texts, images)


def _dumped(value: Mapping[str, Any], texts: Mapping[LocalImage, str], found: set[LocalImage]) -> bytes:
    """Encode `value` with `texts` in the place of its local pictures, which are added to `found`."""

    def leaf(value: object) -> Any:
        if isinstance(value, LocalImage):
            found.add(value)
            return texts.get(value, "")
        if isinstance(value, Mapping):
            return dict(value)
        raise TypeError(f"a {type(value).__name__} cannot travel in JSON")

    return _utf8(json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=leaf))


def _as_text(image: LocalImage, data: bytes) -> str:
    text = base64.b64encode(data).decode("ascii")
    return text if image.encoding == "base64" else f"data:{image.media_type};base64,{text}"


async def _form(content: Multipart) -> FormData:
    form = FormData(quote_fields=False, default_to_multipart=True)  # quoted, `image[]` would be another field
    for name, part in content.parts:
        if isinstance(part, LocalImage):
            data = io.BytesIO(await _checked(part))
            form.add_field(name, data, filename=_file_name(part), content_type=part.media_type)
        else:
            _utf8(part)
            form.add_field(name, part)
    return form


def _file_name(image: LocalImage) -> str:
    """Return a file's name as every server reads it."""
    return _NOT_IN_NAMES.sub("_", image.path.rpartition("/")[2])


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        message = "the request holds half a surrogate pair, which is no text; mend the prompt"
        raise JobError(Code.INVALID_REQUEST, message) from None


async def _checked(image: LocalImage) -> bytes:
    """Return a file's bytes if they are those of the plan."""
    try:
        async with aiofiles.open(image.path, "rb", opener=_at_once) as file:
            data = await file.read()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = error.strerror if isinstance(error, OSError) else str(error)
        message = f"reference {image.path} cannot be read: {why}; put the file back and run again"
        raise JobError(Code.REFERENCE, message) from None
    if await asyncio.to_thread(_digest, data) != image.sha256:
        raise JobError(Code.REFERENCE, f"reference {image.path} changed since the plan; run again")
    return data


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _at_once(path: str, flags: int) -> int:
    """Open a file and nothing else: a pipe that took its place would wait for ever, and a device would never end."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "is not a file")
