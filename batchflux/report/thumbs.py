"""The pictures of the page: where it finds them, and the small ones that are made for it.

A derived file is named after what it was derived from, so that it is made once, and again when its source changed. A
thumbnail carries the beginnings of the job's key and of the picture's digest, a reference's copy a digest of the file's
path, size and time of change. A remote reference has no copy: the page links to it and never loads it.

Small pictures are made whole or not at all. A picture that is missing or does not decode has none, and never stops the
others. Pillow lets other threads work while it decodes, so all cores take part.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import struct
import threading
import warnings
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from PIL import Image, ImageOps

from batchflux.errors import StorageError
from batchflux.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator
    from concurrent.futures import Future

    from batchflux.ledger.tables import Known

THUMBS = "thumbs"
REFERENCES = "thumbs/references"
THUMB_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{12})\.jpg")
_LONGEST_LABEL = 120
THUMB_SIDE = 320
REFERENCE_SIDE = 1600
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_AHEAD = 64
_NO_PICTURE = (  # what decoders raise for broken bytes
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,
    Image.DecompressionBombError,
    struct.error,
    zlib.error,
)
_PAPER = (246, 245, 242)  # what shows through where a picture is transparent

# For the whole process: the filters are shared by all threads.
warnings.simplefilter("error", Image.DecompressionBombWarning)


def thumb_name(known: Known) -> str:
    """Return the name of a picture's thumbnail in `thumbs/`, '' when the job has no picture."""
    if known.file_name is None or known.sha256 is None:
        return ""
    return f"{known.key.hex()[:16]}-{known.sha256[:12]}.jpg"


def inside(folder: Path, name: str) -> Path | None:
    """Return the file that a name relative to the folder means, None when it would leave the folder."""
    parts = PurePosixPath(name)
    return None if parts.is_absolute() or ".." in parts.parts else folder / parts


def is_url(source: str) -> bool:
    """Whether a reference is a remote one."""
    return source.lower().startswith(("http://", "https://"))


class PictureUrls:
    """Finds the URLs of the pictures of one output folder, relative to it.

    Args:
        folder: the output folder.
        base: the manifest's folder, which local references are relative to; None when the ledger does not tell.
        made: names of thumbnails and copies that are there; None when a server makes them as they are asked for.
    """

    def __init__(self, folder: Path, base: Path | None, made: Container[str] | None = None) -> None:
        self._folder = folder
        self._base = base
        self._made = made
        self._sources: dict[str, Path] = {}
        self._known: dict[str, dict[str, Any]] = {}

    def thumb(self, known: Known) -> str:
        """Return the URL of a job's thumbnail, '' when there is none."""
        name = thumb_name(known)
        return f"{THUMBS}/{name}" if name and self._is_there(name) else ""

    def full(self, known: Known) -> str:
        """Return the URL of a job's picture, '' when its file is not there."""
        path = None if known.file_name is None else inside(self._folder, known.file_name)
        return quote(known.file_name or "") if path is not None and path.is_file() else ""

    def reference(self, source: str) -> dict[str, Any]:
        """Return how the page shows a reference: `label`, and `src` of its copy or the `url` to link to."""
        found = self._known.get(source)
        if found is None:
            found = self._known[source] = self._reference(source)
        return found

    def copy_name(self, source: str) -> str:
        """Return the name of a local reference's copy in `thumbs/references/`, '' when it has no file."""
        if self._base is None or is_url(source):
            return ""
        try:
            path = Path(os.path.normpath(self._base / source))
            found = path.stat()
        except (OSError, ValueError):
            return ""
        mark = f"{path}\0{found.st_size}\0{found.st_mtime_ns}"
        name = f"{hashlib.sha256(mark.encode(errors='surrogateescape')).hexdigest()[:24]}.jpg"
        self._sources[name] = path
        return name

    def source_of(self, name: str) -> Path | None:
        """Return the file that a reference's copy of this name is made from, None when no row asked for it."""
        return self._sources.get(name)

    def _reference(self, source: str) -> dict[str, Any]:
        if is_url(source):
            link = redacted(source)
            return {"label": _short(link), "src": None, "url": link}
        name = self.copy_name(source)
        src = f"{REFERENCES}/{name}" if name and self._is_there(name) else None
        return {"label": _short(source), "src": src, "url": None}

    def _is_there(self, name: str) -> bool:
        return self._made is None or name in self._made


def shrink(source: Path, target: Path, side: int) -> bool:
    """Make `target`, a JPEG of at most `side` pixels a side, from the picture `source`; False when it has no picture.

    Raises:
        StorageError: the folder cannot take it.
    """
    try:
        with Image.open(source, formats=_FORMATS) as picture:
            picture.draft("RGB", (side * 3 // 2, side * 3 // 2))
            picture.thumbnail((side, side), reducing_gap=2.0)
            small = _flat(ImageOps.exif_transpose(picture))
    except _NO_PICTURE:
        return False
    beside = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        small.save(beside, "JPEG", quality=82)
        beside.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):  # where nothing can be written, nothing is to be removed
            beside.unlink(missing_ok=True)
        raise StorageError(
            f"{target.parent} cannot take thumbnails ({error.strerror}): free space or repair its permissions, "
            "then make the report again."
        ) from error
    return True


def _flat(picture: Image.Image) -> Image.Image:
    if picture.mode in {"RGBA", "LA", "PA"} or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        paper = Image.new("RGB", layer.size, _PAPER)
        paper.paste(layer, mask=layer.getchannel("A"))
        return paper
    return picture.convert("RGB")


class Thumbs:
    """Makes the thumbnails and copies of one output folder, as many at once as there are cores.

    Raises:
        StorageError: their folder cannot be read.
    """

    def __init__(self, folder: Path, urls: PictureUrls) -> None:
        self._folder = folder
        self._urls = urls
        self.there = _names(folder / THUMBS) | _names(folder / REFERENCES)
        self.made = 0
        self.missing: list[str] = []
        self._asked: set[str] = set()

    def make(self, rows: Iterable[tuple[Known, list[str]]], step: Callable[[], None]) -> None:
        """Make what is not there yet for these jobs and the references they name; call `step` after each job.

        `there` then holds the names of all that can be shown, `missing` the ids of jobs whose picture cannot.

        Raises:
            StorageError: the folder cannot take them.
        """
        with ThreadPoolExecutor(os.cpu_count() or 2, "batchflux-thumbs") as threads:
            under_way: deque[tuple[str, str | None, Future[bool]]] = deque()
            for known, sources in rows:
                for name, of, source, target, side in self._wanted(known, sources):
                    under_way.append((name, of, threads.submit(shrink, source, target, side)))
                while len(under_way) > _AHEAD:
                    self._note(*under_way.popleft())
                step()
            while under_way:
                self._note(*under_way.popleft())

    def _wanted(self, known: Known, sources: list[str]) -> Iterator[tuple[str, str | None, Path, Path, int]]:
        name = thumb_name(known)
        if name and name not in self.there:
            picture = inside(self._folder, known.file_name or "")
            if picture is None or not picture.is_file():
                self.missing.append(known.id)
            else:
                yield name, known.id, picture, self._folder / THUMBS / name, THUMB_SIDE
        for source in sources:
            if source in self._asked:
                continue
            self._asked.add(source)
            copy = self._urls.copy_name(source)
            original = self._urls.source_of(copy)
            if copy not in self.there and original is not None:
                yield copy, None, original, self._folder / REFERENCES / copy, REFERENCE_SIDE

    def _note(self, name: str, of: str | None, done: Future[bool]) -> None:
        if done.result():
            self.there.add(name)
            self.made += 1
        elif of is not None:
            self.missing.append(of)


def _names(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.name.endswith(".jpg")}
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise StorageError(
            f"{folder} cannot hold thumbnails ({error.strerror}): move it away, then make the report again."
        ) from error


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_LABEL else f"{text[: _LONGEST_LABEL - 1]}…"
