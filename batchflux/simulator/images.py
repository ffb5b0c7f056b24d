"""Give pictures by links that say what is in them, and serve those links.

A link is `/v1/files/TOKEN.png`; TOKEN is the recipe as compressed JSON in URL-safe base64, so any simulator draws the
picture again, byte for byte. Uploaded references are named by digest and come from the reference cache, which outlives
the process. A token is taken from anyone, so every field is checked and bounded when it is read.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
import unicodedata
import zlib
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from batchflux.simulator.drawing import MEDIA_TYPES, REFERENCES_DRAWN, SUFFIXES, Recipe, draw, parse_ratio
from batchflux.simulator.options import MAX_SIZE, MIN_SIZE
from batchflux.simulator.replies import dumps
from batchflux.simulator.requests import sniff

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from batchflux.simulator.references import ReferenceCache
    from batchflux.simulator.requests import ImageRequest

    T = TypeVar("T")

UNSAFE_URL = "http://169.254.169.254/latest/meta-data/picture"
KEPT_BYTES = 8 << 20
_CAPTION = 120
_TOKEN_LIMIT = 4096
_TEXT_LIMIT = 4096
_REFERENCE = re.compile(r"f[0-9a-f]{64}|u[0-9a-f]{16}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{32}", re.ASCII)
_WORKERS = 2
_FIELDS = tuple(entry.name for entry in fields(Recipe))


class BadLinkError(Exception):
    """A link that this simulator never gave."""


class ReferenceGoneError(Exception):
    """A link whose upload is no longer kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenImage:
    """A picture as it is given: two links to it, or its bytes."""

    url: str
    download_url: str
    media_type: str
    data: bytes | None = field(default=None, repr=False)

    @property
    def base64(self) -> str:
        """The bytes for JSON."""
        return base64.b64encode(self.data or b"").decode()


def recipe_for(request: ImageRequest, size: int, *, fault: str | None = None, turn: int = 0, salt: int = 0) -> Recipe:
    """Return how the picture for `request` is drawn, `size` pixels long.

    `salt` changes it where no seed was asked for. Without a reference there is nothing to echo.
    """
    references = [f"f{upload.sha256}" for upload in request.uploads]
    urls = [f"u{_hash(url, 8)}" for url in request.urls]
    everything = [*urls, *references]
    asked = [request.prompt, everything, request.seed, request.aspect_ratio]
    if salt and request.seed is None:
        asked.append(salt)
    if fault == "echoed_input" and not everything:
        fault = None
    return Recipe(
        digest=_hash(dumps(asked).decode(), 16),
        caption=caption(request.prompt),
        references=tuple(everything[:REFERENCES_DRAWN]),
        ratio=request.aspect_ratio or "",
        output_format=request.output_format,
        size=size,
        fault=fault or "",
        turn=turn if fault else 0,
    )


def links(recipe: Recipe, origin: str, urls: tuple[str, ...] = ()) -> GivenImage:
    """Return the links to the picture of `recipe`, for a client that knows this server as `origin`.

    `urls` are the references that came as URLs; the first of them is what an echo gives.
    """
    media_type = MEDIA_TYPES[recipe.output_format]
    if recipe.fault == "echoed_input" and urls:
        return GivenImage(url=urls[0], download_url=urls[0], media_type=media_type)
    if recipe.fault == "unsafe_link":
        url = f"{UNSAFE_URL}.{SUFFIXES[recipe.output_format]}"
        return GivenImage(url=url, download_url=url, media_type=media_type)
    path = file_path(recipe)
    return GivenImage(
        url=f"{origin}/v1/files/{path}", download_url=f"{origin}/v1/files/download/{path}", media_type=media_type
    )


class ImageStore:
    """Draws pictures off the event loop and keeps the last ones, bounded in bytes.

    `close` waits for what is being drawn; `kept_bytes` is the size of those kept.
    """

    def __init__(self, references: ReferenceCache, kept_bytes: int = KEPT_BYTES) -> None:
        self.references = references
        self._limit = kept_bytes
        self._kept: OrderedDict[Recipe, bytes] = OrderedDict()
        self.kept_bytes = 0
        self._threads = ThreadPoolExecutor(_WORKERS, thread_name_prefix="batchflux-simulator-draw")

    async def off_loop(self, work: Callable[[], T]) -> T:
        """Run `work` in one of the store's threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def keep_echo(self, request: ImageRequest, recipe: Recipe) -> None:
        """Keep the first upload's own bytes, when the picture's link is to give them back."""
        if recipe.fault == "echoed_input" and request.uploads and not request.urls:
            await self.off_loop(partial(self.references.keep_original, request.uploads[0]))

    async def inlined(self, given: GivenImage, recipe: Recipe) -> GivenImage:
        """Return `given` with the picture's bytes, unless it is an echoed URL.

        Raises:
            ReferenceGoneError: a reference it is drawn from is no longer kept.
        """
        if recipe.fault == "echoed_input" and not recipe.references[0].startswith("f"):
            return given
        data = await self.picture(recipe)
        return replace(given, data=data, media_type=media_type_of(recipe, data))

    async def picture(self, recipe: Recipe) -> bytes:
        """Return the picture's bytes, as the recipe's fault would have them.

        Raises:
            ReferenceGoneError: a reference it is drawn from is no longer kept.
        """
        if recipe.fault == "echoed_input":
            return await self.off_loop(lambda: self._original(recipe))
        plain = without_fault(recipe)
        data = self._kept.get(plain)
        if data is None:
            data = await self.off_loop(lambda: draw(plain, self._reference))
            self._keep(plain, data)
        else:
            self._kept.move_to_end(plain)
        return data[: len(data) // 2] if recipe.fault == "truncated_image" else data

    def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _keep(self, recipe: Recipe, data: bytes) -> None:
        if recipe not in self._kept:
            self.kept_bytes += len(data)
        self._kept[recipe] = data
        while self.kept_bytes > self._limit:
            _, dropped = self._kept.popitem(last=False)
            self.kept_bytes -= len(dropped)

    def _reference(self, digest: str) -> bytes:
        data = self.references.reduced(digest)
        if data is None:
            raise ReferenceGoneError
        return data

    def _original(self, recipe: Recipe) -> bytes:
        data = self.references.original(recipe.references[0][1:]) if recipe.references else None
        if data is None:
            raise ReferenceGoneError
        return data


def media_type_of(recipe: Recipe, data: bytes) -> str:
    """Return the media type that goes with the picture; an echo keeps its own, a wrong kind hides behind the asked."""
    asked = MEDIA_TYPES[recipe.output_format]
    return sniff(data) or asked if recipe.fault == "echoed_input" else asked


def without_fault(recipe: Recipe) -> Recipe:
    """Return the recipe of what is drawn: the fault's own kind and ratio, and no fault."""
    plain = replace(recipe, fault="", turn=0)
    if recipe.fault == "wrong_kind":
        return replace(plain, output_format="png" if recipe.output_format == "jpeg" else "jpeg")
    if recipe.fault == "wrong_ratio":
        ratio = parse_ratio(recipe.ratio) if recipe.ratio else None
        return replace(plain, ratio="21:9" if ratio is None else "9:16" if ratio > 1 else "16:9")
    return plain


def caption(prompt: str) -> str:
    """Return the prompt as the caption can show it: the built-in font knows ASCII, so accents go and the rest too."""
    plain = unicodedata.normalize("NFKD", prompt)
    kept = "".join(char if " " <= char <= "~" else " " for char in plain if not unicodedata.combining(char))
    words = " ".join(kept.split())
    if not words:
        return f"prompt {_hash(prompt, 4)}"
    return words if len(words) <= _CAPTION else f"{words[: _CAPTION - 3].rstrip()}..."


def file_path(recipe: Recipe) -> str:
    """Return the link's path below `/v1/files/`."""
    values = [getattr(recipe, name) for name in _FIELDS]
    token = base64.urlsafe_b64encode(zlib.compress(dumps(values), 9)).decode().rstrip("=")
    return f"{token}.{SUFFIXES[recipe.output_format]}"


def decode(path: str) -> Recipe:
    """Return the recipe of a link's path.

    Raises:
        BadLinkError: the path is not one that `file_path` gives.
    """
    token, _, suffix = path.rpartition(".")
    if len(token) > _TOKEN_LIMIT:
        raise BadLinkError
    try:
        packed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        unpacker = zlib.decompressobj()
        values = json.loads(unpacker.decompress(packed, _TEXT_LIMIT))
    except (binascii.Error, ValueError, zlib.error, RecursionError) as error:
        raise BadLinkError from error
    recipe = _checked(values)
    if SUFFIXES[recipe.output_format] != suffix:
        raise BadLinkError
    return recipe


def _checked(values: Any) -> Recipe:
    match values:
        case [str(digest), str(text), list(references), str(ratio), str(kind), int(size), str(_), int(turn)]:
            good = (
                _DIGEST.fullmatch(digest)
                and len(text) <= _CAPTION
                and (not ratio or parse_ratio(ratio))
                and kind in SUFFIXES
                and len(references) <= REFERENCES_DRAWN
                and all(isinstance(name, str) and _REFERENCE.fullmatch(name) for name in references)
                and not isinstance(turn, bool)
                and MIN_SIZE <= size <= MAX_SIZE
            )
            if good:
                return Recipe(**dict(zip(_FIELDS, [digest, text, tuple(references), *values[3:]], strict=True)))
    raise BadLinkError


def _hash(text: str, size: int) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).hexdigest()
