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
from functools import partial
from typing import TYPE_CHECKING, Any

import aiofiles
from aiohttp import FormData

from batchflux.errors import Code, JobError
from batchflux.models import Bytes, Content, Json, LocalImage, Multipart

if TYPE_CHECKING:
    from collections.abc import Iterator

ONE_WRITE = 1 << 20  # bytes; aiohttp sends more than this in pieces only from a file
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")

Encoded = tuple[bytes | io.BytesIO | FormData | None, dict[str, str]]


async def encode(content: Content | None) -> Encoded:
    """Return a content as it goes over the wire, and the headers that say what it is; aiohttp adds those of a form.

    Raises JobError: `reference` when a local picture is unreadable or not what it was at plan time, `invalid_request`
    when a text cannot be written as UTF-8.
    """
    if content is None:
        return None, {}
    files = {image: await _read(image) for image in set(_files_in(content))}
    return await asyncio.to_thread(_encoded, content, files) if files else _encoded(content, files)


def _files_in(content: object) -> Iterator[LocalImage]:
    """Yield the local pictures that stand in a content."""
    match content:
        case LocalImage():
            yield content
        case Bytes(image=inside) | Json(value=inside) | Multipart(parts=inside):
            yield from _files_in(inside)
        case Mapping() | list() | tuple():
            for item in content.values() if isinstance(content, Mapping) else content:
                yield from _files_in(item)


def _encoded(content: Content, files: Mapping[LocalImage, bytes]) -> Encoded:
    if isinstance(content, Json):
        leaf = partial(_leaf, files)
        data = _utf8(json.dumps(content.value, ensure_ascii=False, separators=(",", ":"), default=leaf))
        return data if len(data) <= ONE_WRITE else io.BytesIO(data), {"Content-Type": "application/json"}
    if isinstance(content, Bytes):
        return io.BytesIO(_checked(content.image, files)), {"Content-Type": content.image.media_type}
    form = FormData(quote_fields=False, default_to_multipart=True)  # quoted, `image[]` would be another field
    for name, part in content.parts:
        if isinstance(part, LocalImage):
            file_name = _NOT_IN_NAMES.sub("_", part.path.rpartition("/")[2])  # as every server reads it
            form.add_field(name, io.BytesIO(_checked(part, files)), filename=file_name, content_type=part.media_type)
        else:
            _utf8(part)
            form.add_field(name, part)
    return form, {}


def _leaf(files: Mapping[LocalImage, bytes], value: object) -> Any:
    """Return what stands in JSON for a value that is none of its own."""
    if isinstance(value, LocalImage):
        text = base64.b64encode(_checked(value, files)).decode("ascii")
        return text if value.encoding == "base64" else f"data:{value.media_type};base64,{text}"
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} cannot travel in JSON")


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        message = "the request holds half a surrogate pair, which is no text; mend the prompt"
        raise JobError(Code.INVALID_REQUEST, message) from None


def _checked(image: LocalImage, files: Mapping[LocalImage, bytes]) -> bytes:
    """Return a file's bytes if they are those of the plan."""
    data = files[image]
    if hashlib.sha256(data).hexdigest() != image.sha256:
        raise JobError(Code.REFERENCE, f"reference {image.path} changed since the plan; run again")
    return data


async def _read(image: LocalImage) -> bytes:
    try:
        async with aiofiles.open(image.path, "rb", opener=_opened) as file:
            return await file.read()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = error.strerror if isinstance(error, OSError) else str(error)
        message = f"reference {image.path} cannot be read: {why}; put the file back and run again"
        raise JobError(Code.REFERENCE, message) from None


def _opened(path: str, flags: int) -> int:
    """Open a file and nothing else: a pipe that took its place would wait for ever, and a device would never end."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "is not a file")
