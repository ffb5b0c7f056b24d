"""A picture's link says what is in the picture, so that any simulator draws it again, byte for byte.

The link is `/v1/files/TOKEN.png`; TOKEN is the recipe as compressed JSON in URL-safe base64. Uploaded references are
named by digest and come from the spool, which outlives the process; everything else is in the link itself. A token
is taken from anyone, so every field is checked and bounded when it is read.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import unicodedata
import zlib
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from batchflux.simulator.options import MAX_SIZE, MIN_SIZE
from batchflux.simulator.drawing import parse_ratio
from batchflux.simulator.replies import dumps

if TYPE_CHECKING:
    from batchflux.models import Format
    from batchflux.simulator.requests import Ask

DRAWN_REFERENCES = 4
_CAPTION = 120
_TOKEN_LIMIT = 4096
_TEXT_LIMIT = 4096
_REFERENCE = re.compile(r"f[0-9a-f]{64}|u[0-9a-f]{16}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{32}", re.ASCII)
_SUFFIXES: dict[Format, str] = {"jpeg": "jpg", "png": "png"}
MEDIA_TYPES: dict[Format, str] = {"jpeg": "image/jpeg", "png": "image/png"}


class BadLinkError(Exception):
    """A link that this simulator never gave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything a picture is drawn from.

    `digest` covers prompt, references, ratio, and seed or salt, and drives every choice of the drawing. `references`
    are `f` and the SHA-256 of an upload, or `u` and a digest of a URL; of many, the first four are drawn. `fault` is
    what happens to whoever fetches the link, `turn` sets the links of repeated requests apart when there is one.
    """

    digest: str
    caption: str
    references: tuple[str, ...] = ()
    ratio: str = ""
    output_format: Format = "jpeg"
    size: int = 512
    fault: str = ""
    turn: int = 0

    @property
    def path(self) -> str:
        """The link's path below `/v1/files/`."""
        return f"{encode(self)}.{_SUFFIXES[self.output_format]}"


def recipe_for(ask: Ask, size: int, *, fault: str = "", turn: int = 0, salt: int = 0) -> Recipe:
    """Return how the picture for `ask` is drawn, `size` pixels long; `salt` changes it where no seed was asked for."""
    references = [f"f{upload.sha256}" for upload in ask.uploads]
    urls = [f"u{_hash(url, 8)}" for url in ask.urls]
    everything = [*urls, *references]
    asked = [ask.prompt, everything, ask.seed, ask.aspect_ratio]
    if salt and ask.seed is None:
        asked.append(salt)
    return Recipe(
        digest=_hash(dumps(asked).decode(), 16),
        caption=caption(ask.prompt),
        references=tuple(everything[:DRAWN_REFERENCES]),
        ratio=ask.aspect_ratio or "",
        output_format=ask.output_format,
        size=size,
        fault=fault,
        turn=turn if fault else 0,
    )


def caption(prompt: str) -> str:
    """Return the prompt as the caption can show it: the built-in font knows ASCII, so accents go and the rest too."""
    plain = unicodedata.normalize("NFKD", prompt)
    kept = "".join(char if " " <= char <= "~" else " " for char in plain if not unicodedata.combining(char))
    words = " ".join(kept.split())
    if not words:
        return f"prompt {_hash(prompt, 4)}"
    return words if len(words) <= _CAPTION else f"{words[: _CAPTION - 3].rstrip()}..."


def encode(recipe: Recipe) -> str:
    """Return the token of `recipe`."""
    fields = [
        recipe.digest,
        recipe.caption,
        list(recipe.references),
        recipe.ratio,
        recipe.output_format,
        recipe.size,
        recipe.fault,
        recipe.turn,
    ]
    return base64.urlsafe_b64encode(zlib.compress(dumps(fields), 9)).decode().rstrip("=")


def decode(path: str) -> Recipe:
    """Return the recipe of a link's path.

    Raises:
        BadLinkError: the path is not one that `Recipe.path` gives.
    """
    token, _, suffix = path.rpartition(".")
    if len(token) > _TOKEN_LIMIT:
        raise BadLinkError
    try:
        packed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        unpacker = zlib.decompressobj()
        fields = json.loads(unpacker.decompress(packed, _TEXT_LIMIT))
    except (binascii.Error, ValueError, zlib.error, RecursionError) as error:
        raise BadLinkError from error
    recipe = _checked(fields)
    if _SUFFIXES[recipe.output_format] != suffix:
        raise BadLinkError
    return recipe


def _checked(fields: Any) -> Recipe:
    match fields:
        case [str(digest), str(text), list(references), str(ratio), "jpeg" | "png" as kind, size, str(fault), turn]:
            good = (
                _DIGEST.fullmatch(digest)
                and len(text) <= _CAPTION
                and (not ratio or parse_ratio(ratio))
                and len(references) <= DRAWN_REFERENCES
                and all(isinstance(name, str) and _REFERENCE.fullmatch(name) for name in references)
                and all(type(whole) is int for whole in (size, turn))
                and MIN_SIZE <= size <= MAX_SIZE
            )
            if good:
                return Recipe(
                    digest=digest,
                    caption=text,
                    references=tuple(references),
                    ratio=ratio,
                    output_format=kind,
                    size=size,
                    fault=fault,
                    turn=turn,
                )
    raise BadLinkError


def _hash(text: str, size: int) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).hexdigest()
