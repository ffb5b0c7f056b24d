"""Makes what the page shows small: thumbnails of pictures and copies of local references.

Each is made once (see places.py for the names), whole or not at all. A picture that is missing or does not decode has
none, and never stops the others. Pillow lets other threads work while it decodes, so all cores take part.
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from batchflux.errors import StorageError
from batchflux.output.base import REFERENCES, THUMBS
from batchflux.report.places import Places, inside, thumb_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from batchflux.ledger.ledger import Known

THUMB_SIDE = 320
REFERENCE_SIDE = 1600
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_AHEAD = 64
_PAPER = (246, 245, 242)  # what shows through where a picture is transparent

# For the whole process, as in storage/verify.py: the filters are shared by all threads.
warnings.simplefilter("error", Image.DecompressionBombWarning)


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
    except Exception:  # noqa: BLE001  decoders raise a dozen kinds for broken bytes; all mean that there is no picture
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

    def __init__(self, folder: Path, places: Places) -> None:
        self._folder = folder
        self._places = places
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
            copy = self._places.copy_name(source)
            original = self._places.source_of(copy)
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
