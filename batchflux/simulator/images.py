"""Give pictures by links that say what is in them.

A link is `/v1/files/TOKEN.png`; TOKEN is the recipe as compressed JSON in URL-safe base64, so any simulator draws the
picture again, byte for byte. Uploaded references are named by digest and come from the reference cache, which outlives
the process. A token is taken from anyone, so every field is checked and bounded when it is read.
"""

from __future__ import annotations

import base64
import re
import unicodedata
import zlib
from hashlib import blake2b
from typing import TYPE_CHECKING

from batchflux.output.base import SUFFIXES
from batchflux.simulator.drawing import LONGEST_CAPTION, REFERENCES_DRAWN, Recipe, draw, parse_ratio
from batchflux.simulator.references import NoPictureError
from batchflux.simulator.replies import dumps
from batchflux.simulator.requests import sniff

if TYPE_CHECKING:
    from batchflux.simulator.options import SimulatorOptions
    from batchflux.simulator.references import ReferenceCache
    from batchflux.simulator.requests import ImageRequest

UNSAFE_URL = "http://169.254.169.254/latest/meta-data/picture"
_LONGEST = 4096  # of a token, and of its text


def recipe_for(request: ImageRequest, options: SimulatorOptions, fault: str, turn: int) -> Recipe:
    """Return how the picture for `request` is drawn. Without a reference there is nothing to echo."""
    everything = [*(f"u{_hash(url, 8)}" for url in request.urls), *(f"f{upload.sha256}" for upload in request.uploads)]
    asked = [request.prompt, everything, request.seed, request.aspect_ratio]
    if options.salt and request.seed is None:
        asked.append(options.salt)
    fault = "" if fault == "echoed_input" and not everything else fault
    return Recipe(
        digest=_hash(dumps(asked).decode(), 16),
        caption=caption(request.prompt),
        references=tuple(everything[:REFERENCES_DRAWN]),
        ratio=request.aspect_ratio or "",
        output_format=request.output_format,
        size=options.size,
        fault=fault,
        turn=turn if fault else 0,
    )


def link(recipe: Recipe, origin: str, urls: tuple[str, ...]) -> str:
    """Return the link to the picture of `recipe`, for a client that knows this server as `origin`.

    `urls` are the references that came as URLs; the first of them is what an echo gives.
    """
    if recipe.fault == "echoed_input" and urls:
        return urls[0]
    if recipe.fault == "unsafe_link":
        return f"{UNSAFE_URL}{_suffix(recipe)}"
    return f"{origin}/v1/files/{file_path(recipe)}"


def picture(recipe: Recipe, cache: ReferenceCache) -> bytes:
    """Return the picture's bytes, as its fault would have them, or raise NoPictureError when a reference is gone."""
    changes = {}
    match recipe.fault:
        case "echoed_input":
            return cache.original(recipe.references[0][1:] if recipe.references else "")
        case "wrong_kind":
            changes = {"output_format": "png" if recipe.output_format == "jpeg" else "jpeg"}
        case "wrong_ratio":
            ratio = parse_ratio(recipe.ratio)
            changes = {"ratio": "21:9" if ratio is None else "9:16" if ratio > 1 else "16:9"}
    data = draw(recipe.model_copy(update=changes), cache.reduced)
    return data[: len(data) // 2] if recipe.fault == "truncated_image" else data


def media_type_of(recipe: Recipe, data: bytes) -> str:
    """Return the media type that goes with the picture; an echo keeps its own, a wrong kind hides behind the asked."""
    return (recipe.fault == "echoed_input" and sniff(data)) or f"image/{recipe.output_format}"


def caption(prompt: str) -> str:
    """Return the first words of `prompt`, as the built-in font can show them: it knows ASCII only."""
    letters = (char for char in unicodedata.normalize("NFKD", prompt) if not unicodedata.combining(char))
    words = " ".join(re.sub(r"[^!-~]", " ", "".join(letters)).split())
    if len(words) > LONGEST_CAPTION:
        return f"{words[: LONGEST_CAPTION - 3].rstrip()}..."
    return words or f"prompt {_hash(prompt, 4)}"


def file_path(recipe: Recipe) -> str:
    """Return the link's path below `/v1/files/`."""
    packed = zlib.compress(recipe.model_dump_json(exclude_defaults=True).encode(), 9)
    return f"{base64.urlsafe_b64encode(packed).decode().rstrip('=')}{_suffix(recipe)}"


def decode(path: str) -> Recipe:
    """Return the recipe of a path that `file_path` gave, or raise NoPictureError when it did not."""
    token, dot, suffix = path.rpartition(".")
    try:
        packed = base64.b64decode(token[:_LONGEST] + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        recipe = Recipe.model_validate_json(zlib.decompressobj().decompress(packed, _LONGEST))
    except (ValueError, zlib.error) as error:
        raise NoPictureError from error
    if dot + suffix != _suffix(recipe) or (recipe.ratio and parse_ratio(recipe.ratio) is None):
        raise NoPictureError
    return recipe


def _suffix(recipe: Recipe) -> str:
    return SUFFIXES[recipe.output_format][0]


def _hash(text: str, size: int) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).hexdigest()
