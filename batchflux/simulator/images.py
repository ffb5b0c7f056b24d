"""Give pictures by links that say what is in them, and keep the uploads that they are drawn from.

A link is `/v1/files/TOKEN.png`; TOKEN is the recipe as compressed JSON in URL-safe base64, so any simulator draws the
picture again, byte for byte, on any port. A token is taken from anyone, so every field is checked when it is read.
Uploads do not fit into it: each is reduced and kept under its SHA-256 in a private folder of bounded size, from which
the least recently used go first; one of somebody else's is refused, because it lies in the shared temp folder.
"""

from __future__ import annotations

import base64
import os
import re
import stat
import tempfile
import unicodedata
import warnings
import zlib
from contextlib import suppress
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from batchflux.errors import UsageError
from batchflux.output.base import SUFFIXES
from batchflux.simulator.drawing import LONGEST_CAPTION, REFERENCES_DRAWN, Recipe, draw, parse_ratio, pixels
from batchflux.simulator.replies import dumps
from batchflux.simulator.requests import sniff

if TYPE_CHECKING:
    from batchflux.simulator.options import SimulatorOptions
    from batchflux.simulator.requests import ImageRequest, Upload

REDUCED = 1024
LIMIT = 256 << 20
UNSAFE_URL = "http://169.254.169.254/latest/meta-data/picture"
_LONGEST = 4096  # of a token, and of its text

warnings.simplefilter("error", Image.DecompressionBombWarning)  # for the process: pictures are read in several threads


class NotAPictureError(Exception):
    """An upload that cannot be decoded, or has too many pixels."""


class NoPictureError(Exception):
    """A link that leads nowhere: it was never given, or its upload is no longer kept."""


class ReferenceCache:
    """The folder of uploads, at most `limit` bytes. Safe to use by several threads and processes at once."""

    def __init__(self, folder: str, limit: int = LIMIT) -> None:
        self._folder, self._limit = Path(folder), limit

    def keep(self, upload: Upload, kind: str = "jpg") -> None:
        """Keep `upload` reduced, or its own bytes as kind `orig`; raises NotAPictureError, and what `prepare` does."""
        name = f"{upload.sha256}.{kind}"
        with suppress(FileNotFoundError):
            os.utime(self._folder / name)
            return
        data = reduce(upload.data) if kind == "jpg" else upload.data
        self.prepare()  # once more: a cleaner of the temp folder may have taken it
        handle, temporary = tempfile.mkstemp(dir=self._folder, prefix=".new-")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).replace(self._folder / name)
        self._prune(name)

    def read(self, digest: str, kind: str = "jpg") -> bytes:
        """Return an upload as it was kept, or raise NoPictureError."""
        try:
            return (self._folder / f"{digest}.{kind}").read_bytes()
        except FileNotFoundError as error:
            raise NoPictureError from error

    def prepare(self) -> None:
        """Make the folder, or raise UsageError when it cannot be made or others may write into it."""
        place = f"The simulator's cache folder {self._folder}"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self._folder.lstat()
        except OSError as error:
            raise UsageError(f"{place} cannot be used: {error.strerror}; name another as cache_dir.") from error
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise UsageError(f"{place} is not yours alone to write; name another as cache_dir.")

    def _prune(self, kept: str) -> None:
        """Beyond the limit, remove the oldest files down to half of it, and never the one that was just `kept`.

        Files of one moment have one time.
        """
        files = []
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):  # another process pruned it
                found = path.lstat()
                if stat.S_ISREG(found.st_mode):
                    files.append((found.st_mtime, found.st_size, path))
        used = sum(size for _, size, _ in files)
        most = used if used <= self._limit else self._limit // 2
        for _, size, path in sorted(files):
            if used > most and path.name != kept:
                path.unlink(missing_ok=True)
                used -= size


def reduce(data: bytes) -> bytes:
    """Return `data` upright, opaque and at most 1024 pixels long as a JPEG, or raise NotAPictureError."""
    try:
        with Image.open(BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as opened:
            opened.load()
            upright = ImageOps.exif_transpose(opened)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise NotAPictureError(str(error)) from error
    if upright.has_transparency_data:
        clear = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    plain = upright.convert("RGB")
    plain.thumbnail((REDUCED, REDUCED), Image.Resampling.LANCZOS, reducing_gap=3)
    out = BytesIO()
    plain.save(out, "JPEG", quality=92)
    return out.getvalue()


def recipe_for(request: ImageRequest, options: SimulatorOptions, fault: str, turn: int) -> Recipe:
    """Return how the picture for `request` is drawn. Without a reference there is nothing to echo."""
    everything = [*(f"u{_hash(url, 8)}" for url in request.urls), *(f"f{upload.sha256}" for upload in request.uploads)]
    asked = [request.prompt, everything, request.seed, request.aspect_ratio]
    if (options.salt or options.varied) and request.seed is None:
        asked += [options.salt, turn if options.varied else 0]
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
    """Return the link to the picture, for who knows this server as `origin`; an echo gives the first of `urls`."""
    if recipe.fault == "echoed_input" and urls:
        return urls[0]
    if recipe.fault == "unsafe_link":
        return f"{UNSAFE_URL}{SUFFIXES[recipe.output_format][0]}"
    return f"{origin}/v1/files/{file_path(recipe)}"


def picture(recipe: Recipe, cache: ReferenceCache) -> bytes:
    """Return the picture's bytes, as its fault would have them, or raise NoPictureError when a reference is gone."""
    if recipe.fault == "echoed_input":
        return cache.read(recipe.references[0][1:] if recipe.references else "", "orig")
    if recipe.fault == "nsfw_picture":
        out = BytesIO()
        Image.new("RGB", pixels(parse_ratio(recipe.ratio) or 1, recipe.size)).save(out, recipe.output_format)
        return out.getvalue()
    changes = {}
    if recipe.fault == "wrong_kind":
        changes = {"output_format": "png" if recipe.output_format == "jpeg" else "jpeg"}
    elif recipe.fault == "wrong_ratio":
        ratio = parse_ratio(recipe.ratio)
        changes = {"ratio": "21:9" if ratio is None else "9:16" if ratio > 1 else "16:9"}
    data = draw(recipe.model_copy(update=changes), cache.read)
    return data[: len(data) // 2] if recipe.fault == "truncated_image" else data


def media_type_of(recipe: Recipe, data: bytes) -> str:
    """Return the media type that goes with the picture; an echo keeps its own, a wrong kind hides behind the asked."""
    return (recipe.fault == "echoed_input" and sniff(data)) or f"image/{recipe.output_format}"


def caption(prompt: str) -> str:
    """Return the first words of `prompt`, as the built-in font can show them: it knows ASCII only."""
    letters = (char for char in unicodedata.normalize("NFKD", prompt) if not unicodedata.combining(char))
    words = " ".join(re.sub(r"[^!-~]", " ", "".join(letters)).split()) or f"prompt {_hash(prompt, 4)}"
    return words if len(words) <= LONGEST_CAPTION else f"{words[: LONGEST_CAPTION - 3].rstrip()}..."


def file_path(recipe: Recipe) -> str:
    """Return the link's path below `/v1/files/`."""
    packed = zlib.compress(recipe.model_dump_json(exclude_defaults=True).encode(), 9)
    return f"{base64.urlsafe_b64encode(packed).decode().rstrip('=')}{SUFFIXES[recipe.output_format][0]}"


def decode(path: str) -> Recipe:
    """Return the recipe of a path that `file_path` gave, or raise NoPictureError when it did not."""
    token, dot, suffix = path.rpartition(".")
    try:
        packed = base64.b64decode(token[:_LONGEST] + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        recipe = Recipe.model_validate_json(zlib.decompressobj().decompress(packed, _LONGEST))
    except (ValueError, zlib.error) as error:
        raise NoPictureError from error
    if dot + suffix != SUFFIXES[recipe.output_format][0] or (recipe.ratio and parse_ratio(recipe.ratio) is None):
        raise NoPictureError
    return recipe


def _hash(text: str, size: int) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).hexdigest()
