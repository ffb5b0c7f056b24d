"""What a request carries: JSON, a form or a file, with local pictures put in as it is sent.

The bytes that go out are the bytes the plan saw: a file that changed since then would make a picture that its job's
key does not stand for. JSON is written without its pictures, whose base64 is then put between the parts of the text:
megabytes are neither escaped nor copied. A file of our own may be larger than memory, and is read as the peer takes it.
"""

from __future__ import annotations

import io
import json
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aiohttp import FormData, Payload

from batchflux.errors import Code, JobError, StorageError
from batchflux.models import Bytes, Content, Json, LocalFile, LocalImage, Multipart
from batchflux.transport.encoded import EncodedPhoto, EncodedPhotos, base64_size
from batchflux.transport.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp.abc import AbstractStreamWriter

ONE_WRITE = 1 << 20  # bytes; more is sent in pieces, as the peer takes them
_PIECE = 1 << 18
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
_PLACE = secrets.token_hex(16)  # where a picture goes into a text; nobody else can have written it there

Encoded = tuple[bytes | AsyncIterator[bytes] | io.BytesIO | Payload | FormData | None, dict[str, str]]


async def encode(content: Content | None, photos: EncodedPhotos) -> Encoded:
    """Return a content as it goes over the wire, and the headers that say what it is; aiohttp adds those of a form.

    Raises JobError: `reference` when a local picture is unreadable or not what it was at plan time, `invalid_request`
    when a text cannot be written as UTF-8. StorageError: a file of our own is gone, or not as long as it was.
    """
    if content is None:
        return None, {}
    if isinstance(content, Json):
        return await _json(content, photos)
    if isinstance(content, Bytes):
        return await _file(content.image, photos), {"Content-Type": content.image.media_type}
    return await _form(content, photos), {}


def size_of_files(content: Content | None) -> int:
    """Return how many bytes of files of our own go out with a content."""
    found = [part for _, part in content.parts] if isinstance(content, Multipart) else []
    found += [content.image] if isinstance(content, Bytes) else []
    return sum(one.size for one in found if isinstance(one, LocalFile))


async def _json(content: Json, photos: EncodedPhotos) -> Encoded:
    parts = [part async for part in Template.of(content).parts(photos)]
    size = sum(part.size if isinstance(part, EncodedPhoto) else len(part) for part in parts)
    headers = {"Content-Type": "application/json"}
    if size <= ONE_WRITE:
        return b"".join(_pieces(parts)), headers
    return _sent(parts), {**headers, "Content-Length": str(size)}


class Template(NamedTuple):
    """JSON as text, with a mark where the base64 of each of the pictures goes."""

    text: bytes
    images: tuple[LocalImage, ...]

    @classmethod
    def of(cls, content: Json) -> Template:
        """Return a content as text; JobError `invalid_request` when it cannot be written as UTF-8."""
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
        return cls(text, tuple(images))

    def size(self) -> int:
        """Return how many bytes it will be by the sizes of its pictures, which are not read; JobError `reference`."""
        marks = len(self.images) * len(_PLACE)
        return len(self.text) - marks + sum(base64_size(image) for image in self.images)

    async def parts(self, photos: EncodedPhotos) -> AsyncIterator[bytes | EncodedPhoto]:
        """Give its parts in order, each picture when it is its turn; JobError `reference` as of `encode`."""
        first, *rest = self.text.split(_PLACE.encode()) if self.images else (self.text,)
        yield first
        for image, behind in zip(self.images, rest, strict=True):
            yield await photos.get(image, base64=True)
            yield behind


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
        if isinstance(part, LocalImage | LocalFile):
            file_name = _NOT_IN_NAMES.sub("_", part.path.rpartition("/")[2])  # as every server reads it
            form.add_field(name, await _file(part, photos), filename=file_name, content_type=part.media_type)
        else:
            _utf8(part)
            form.add_field(name, part)
    return form


async def _file(image: LocalImage | LocalFile, photos: EncodedPhotos) -> io.BytesIO | Payload:
    if isinstance(image, LocalFile):
        await in_thread(partial(_check, image))
        return _Streamed(image)
    return io.BytesIO(b"".join((await photos.get(image, base64=False)).pieces))


def _check(file: LocalFile) -> None:
    try:
        size = Path(file.path).stat().st_size
    except OSError as error:
        raise StorageError(f"{file.path} cannot be read: {error.strerror}; run again") from None
    if size != file.size:
        raise StorageError(f"{file.path} was written by somebody else; run again")


class _Streamed(Payload):
    """A file that is read as it goes out; a peer that gets less than was promised takes it for nothing."""

    _autoclose = True  # it is open while a piece is read only

    def __init__(self, file: LocalFile) -> None:
        super().__init__(file, content_type=file.media_type)
        self._file = file
        self._size = file.size

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("a file that is streamed is no text")

    def _piece(self, at: int) -> bytes:
        """Open it for one piece only: whoever waits for that may be gone before it is there."""
        with Path(self._file.path).open("rb") as source:
            source.seek(at)
            return source.read(min(_PIECE, self._file.size - at))

    async def write(self, writer: AbstractStreamWriter) -> None:
        at = 0
        while at < self._file.size and (piece := await in_thread(partial(self._piece, at))):
            await writer.write(piece)
            at += len(piece)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        message = "the request holds half a surrogate pair, which is no text; mend the prompt"
        raise JobError(Code.INVALID_REQUEST, message) from None
