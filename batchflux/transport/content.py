"""What a request carries: JSON, a form or a file, with local pictures put in as it is sent.

The bytes that go out are the bytes the plan saw: a file that changed since then would make a picture that its job's
key does not stand for. JSON is written without its pictures, whose base64 is then put between the parts of the text:
megabytes are neither escaped nor copied.
"""

from __future__ import annotations

import io
import json
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import FormData

from batchflux.errors import Code, JobError
from batchflux.models import Bytes, Content, Json, LocalImage
from batchflux.transport.encoded import EncodedPhoto, EncodedPhotos

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchflux.models import Multipart

ONE_WRITE = 1 << 20  # bytes; more is sent in pieces, as the peer takes them
_PIECE = 1 << 18
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
_PLACE = secrets.token_hex(16)  # where a picture goes into a text; nobody else can have written it there

Encoded = tuple[bytes | AsyncIterator[bytes] | io.BytesIO | FormData | None, dict[str, str]]


async def encode(content: Content | None, photos: EncodedPhotos) -> Encoded:
    """Return a content as it goes over the wire, and the headers that say what it is; aiohttp adds those of a form.

    Raises JobError: `reference` when a local picture is unreadable or not what it was at plan time, `invalid_request`
    when a text cannot be written as UTF-8.
    """
    if content is None:
        return None, {}
    if isinstance(content, Json):
        return await _json(content, photos)
    if isinstance(content, Bytes):
        return await _file(content.image, photos), {"Content-Type": content.image.media_type}
    return await _form(content, photos), {}


async def _json(content: Json, photos: EncodedPhotos) -> Encoded:
    images: list[LocalImage] = []

    def leaf(value: object) -> Any:
        """Return what stands in JSON for a value that is none of its own."""
        if isinstance(value, LocalImage):
            images.append(value)
            return _PLACE if value.encoding == "base64" else f"data:{value.media_type};base64,{_PLACE}"
        if isinstance(value, Mapping):
            return dict(value)
        raise TypeError(f"a {type(value).__name__} cannot travel in JSON")

    text = _utf8(json.dumps(content.value, ensure_ascii=False, separators=(",", ":"), default=leaf))
    first, *rest = text.split(_PLACE.encode()) if images else (text,)
    parts: list[bytes | EncodedPhoto] = [first]
    for image, behind in zip(images, rest, strict=True):
        parts += [await photos.get(image, base64=True), behind]
    size = sum(part.size if isinstance(part, EncodedPhoto) else len(part) for part in parts)
    headers = {"Content-Type": "application/json"}
    if size <= ONE_WRITE:
        return b"".join(_pieces(parts)), headers
    return _sent(parts), {**headers, "Content-Length": str(size)}


def _pieces(parts: list[bytes | EncodedPhoto]) -> Iterator[bytes]:
    for part in parts:
        if isinstance(part, EncodedPhoto):
            yield from part.pieces
        else:
            yield from (part[at : at + _PIECE] for at in range(0, len(part), _PIECE))


async def _sent(parts: list[bytes | EncodedPhoto]) -> AsyncIterator[bytes]:
    """Give the pieces as they are asked for, and hold the pictures until then."""
    for piece in _pieces(parts):
        yield piece


async def _form(content: Multipart, photos: EncodedPhotos) -> FormData:
    form = FormData(quote_fields=False, default_to_multipart=True)  # quoted, `image[]` would be another field
    for name, part in content.parts:
        if isinstance(part, LocalImage):
            file_name = _NOT_IN_NAMES.sub("_", part.path.rpartition("/")[2])  # as every server reads it
            form.add_field(name, await _file(part, photos), filename=file_name, content_type=part.media_type)
        else:
            _utf8(part)
            form.add_field(name, part)
    return form


async def _file(image: LocalImage, photos: EncodedPhotos) -> io.BytesIO:
    return io.BytesIO(b"".join((await photos.get(image, base64=False)).pieces))


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        message = "the request holds half a surrogate pair, which is no text; mend the prompt"
        raise JobError(Code.INVALID_REQUEST, message) from None
