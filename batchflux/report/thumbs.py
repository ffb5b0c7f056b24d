"""The pictures of the page: where it finds them, and the small ones that are made for it.

A derived file is named after what it was derived from, so that it is made once, and again when its source changed: of
a picture that is in the mirror alone, too. A remote reference has no copy: the page links to it and never loads it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import struct
import threading
import warnings
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from PIL import Image, ImageOps

from batchflux.errors import StorageError, UsageError
from batchflux.folders.pictures import FolderPictures, Whence
from batchflux.output.base import REFERENCES, THUMBS
from batchflux.output.durable import remedy_of
from batchflux.photos import heic, joined, on_disk
from batchflux.provenance import carries
from batchflux.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from batchflux.ledger.tables import Known

THUMB_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{12})\.jpg")
_TEMPORARY = re.compile(r"\.[0-9a-f-]{24,29}\.jpg\.([1-9][0-9]{0,8})\.[0-9]+\.tmp")
THUMB_SIDE = 320
REFERENCE_SIDE = 1600
_LONGEST_LABEL = 120
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000")
_AT_ONCE = 256
_READERS = 8  # threads, at least, where pictures come out of a bucket
_BROKEN = (ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError, SyntaxError)
_BROKEN_TOO = (TypeError, ValueError, Warning, Image.DecompressionBombError, struct.error, zlib.error)
_HEAD = 512  # bytes of a thumbnail, in which its comment is
_CARRIES = re.compile(rb"batchflux: carries ([a-z0-9 ]*);")  # the comment of a thumbnail: what its picture says
_PAPER = (246, 245, 242)  # what shows through where a picture is transparent

warnings.simplefilter("error", Image.DecompressionBombWarning)  # for the process: all threads share the filters


def thumb_name(known: Known) -> str:
    """Return the name of a picture's thumbnail in `thumbs/`, '' when the job has no picture."""
    if known.file_name is None or known.sha256 is None:
        return ""
    return f"{known.key.hex()[:16]}-{known.sha256[:12]}.jpg"


def is_url(source: str) -> bool:
    """Whether a reference is a remote one."""
    return source.lower().startswith(("http://", "https://"))


class PictureUrls:
    """Finds the URLs of the pictures of one output folder, relative to it; `base` is of local references.

    When `served`, thumbnails and copies need not be there: a server makes them when they are asked for, and gives out
    what is in the mirror. `sign` is for how many seconds pictures there get a signed link, None: they get none.
    """

    def __init__(
        self,
        folder: Path,
        base: Path | None,
        *,
        served: bool = False,
        pictures: FolderPictures | None = None,
        sign: int | None = None,
    ) -> None:
        self.folder, self._base, self._served, self._sign = folder, base, served, sign
        self.pictures = pictures or FolderPictures(folder, Whence())
        self._shown: dict[str, dict[str, Any]] = {}
        self._carried: dict[str, tuple[str, ...]] = {}
        self.originals: dict[str, Path] = {}  # name of a reference's copy → the file that it is made of

    def file(self, name: str | None) -> Path | None:
        """Return the file of this name in the folder; None when there is none, or none that can be looked at."""
        return self.pictures.path(name)

    def thumb(self, known: Known) -> str:
        """Return the URL of a job's thumbnail, '' when there is none."""
        return self._made(THUMBS, thumb_name(known))

    def carries(self, name: str) -> tuple[str, ...]:
        """Return what a picture says of its origin (see batchflux.provenance), as its thumbnail tells; () without one.

        The thumbnail was told when it was made, from the picture's own bytes.
        """
        if name not in self._carried:
            self._carried[name] = _carried(self.file(f"{THUMBS}/{name}")) if name else ()
        return self._carried[name]

    def full(self, known: Known) -> str:
        """Return the URL of a job's picture, '' when it is not there; UsageError, StorageError: it cannot be signed."""
        name = known.file_name or ""
        if self.file(name) or (self._served and known.mirrored):
            return quote(name)
        if not known.mirrored:
            return ""
        found = self.pictures.file_url(known.mirrored)
        return self.pictures.link(known.mirrored, self._sign) if self._sign and not found else found

    def apart(self, known: Known) -> str | None:
        """Return the address of a job's picture in the mirror where it is there alone, else None."""
        return self.pictures.address(known.mirrored) if known.mirrored and not self.file(known.file_name) else None

    def reference(self, source: str) -> dict[str, Any]:
        """Return how the page shows a reference: `label`, and `src` of its copy or the `url` to link to."""
        if source not in self._shown:
            url = redacted(source) if is_url(source) else None
            src = self._made(REFERENCES, self.copy_name(source)) or None
            label = url or source
            if len(label) > _LONGEST_LABEL:
                label = f"{label[: _LONGEST_LABEL - 1]}…"
            self._shown[source] = {"label": label, "src": src, "url": url}
        return self._shown[source]

    def copy_name(self, source: str) -> str:
        """Return the name of a local reference's copy in `thumbs/references/`, '' when it has no file."""
        if self._base is None or is_url(source):
            return ""
        try:
            path = Path(on_disk(self._base, source) or joined(self._base, source))
            found = path.stat()
        except (OSError, ValueError):
            return ""
        mark = f"{path}\0{found.st_size}\0{found.st_mtime_ns}"
        name = f"{hashlib.sha256(mark.encode(errors='surrogateescape')).hexdigest()[:24]}.jpg"
        self.originals[name] = path
        return name

    def _made(self, folder: str, name: str) -> str:
        url = f"{folder}/{name}" if name else ""
        return url if self._served or self.file(url) else ""


class Thumbs(NamedTuple):
    """How many thumbnails and copies were made, and the ids of jobs whose picture cannot be shown.

    `unread` says why of pictures that the mirror alone has, and did not give. `carries` counts the pictures that say
    something of their origin, by what.
    """

    made: int
    missing: list[str]
    unread: dict[str, str]
    carries: dict[str, int]


def make_thumbs(jobs: Iterable[Known], urls: PictureUrls, step: Callable[[], object]) -> Thumbs:
    """Make the thumbnails and copies that are not there yet; `step` is called for each job.

    A picture that cannot be shown never stops the others. StorageError: the folder cannot take them.
    """
    for folder in (THUMBS, REFERENCES):
        _sweep(urls.folder / folder)
    done, names = Thumbs(0, [], {}, {}), list[str]()
    wanted = _wanted(jobs, urls, names, step)
    number = max(os.cpu_count() or 2, _READERS if urls.pictures.mirror else 0)
    with ThreadPoolExecutor(number, "batchflux-thumbs") as threads:
        while batch := list(islice(wanted, _AT_ONCE)):
            for (job, *_), why in zip(batch, threads.map(_make, batch), strict=True):
                if why is None:
                    done = done._replace(made=done.made + 1)
                elif job is not None and why:
                    done.unread[job] = why
                elif job is not None:
                    done.missing.append(job)
    done.carries.update(Counter(mark for name in names for mark in urls.carries(name)))
    return done


class Wanted(NamedTuple):
    """A small copy to be made: the id of the job that has nothing to show without it, and of what; None: of nothing."""

    job: str | None
    source: Path | Callable[[], bytes | None] | None
    target: Path
    side: int


def _make(wanted: Wanted) -> str | None:
    """Make a small copy. Return why it cannot be: '' when its source is no picture, or not there; None: it is made."""
    source = wanted.source
    if source is None or isinstance(source, Path):
        return None if shrink(source, wanted.target, wanted.side) else ""
    try:
        data = source()
    except (StorageError, UsageError) as error:
        return str(error)
    if data is None:
        return "it is not there any more"
    return None if shrink(data, wanted.target, wanted.side) else ""


def _sweep(folder: Path) -> None:
    """Remove what killed reports and reviews were writing; what a process that lives writes stays."""
    with contextlib.suppress(OSError):  # no such folder, or it is read-only: then nothing is made in it, either
        for path in folder.glob(".*.tmp"):
            match = _TEMPORARY.fullmatch(path.name)
            if match is not None and not _writes(int(match[1])):
                path.unlink(missing_ok=True)


def _writes(process: int) -> bool:
    """Whether another process of this number lives: this one, which may have the number anew, has begun nothing yet."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return process != os.getpid()


def _wanted(jobs: Iterable[Known], urls: PictureUrls, names: list[str], step: Callable[[], object]) -> Iterator[Wanted]:
    """Yield what is not there yet; all thumbnails that there are then get into `names`."""
    seen: set[str] = set()
    for known in jobs:
        name = thumb_name(known)
        names.append(name)
        if name and not urls.thumb(known):
            source = urls.file(known.file_name) or _in_mirror(known, urls)
            yield Wanted(known.id, source, urls.folder / THUMBS / name, THUMB_SIDE)
        for source in json.loads(known.spec)["images"]:
            copy = "" if source in seen else urls.copy_name(source)
            seen.add(source)
            if copy and not urls.file(f"{REFERENCES}/{copy}"):
                yield Wanted(None, urls.originals[copy], urls.folder / REFERENCES / copy, REFERENCE_SIDE)
        step()


def _in_mirror(known: Known, urls: PictureUrls) -> Callable[[], bytes | None] | None:
    """Return what reads a picture that is in the mirror."""
    return partial(urls.pictures.in_mirror, known.mirrored, known.sha256 or "") if known.mirrored else None


def shrink(source: Path | bytes | None, target: Path, side: int) -> bool:
    """Make `target`, a JPEG of at most `side` pixels a side; False when `source` is no picture. Raises StorageError."""
    if source is None:
        return False
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
        carried = " ".join(sorted(carries(data)))
        with Image.open(io.BytesIO(data), formats=(*_FORMATS, "HEIF") if heic.can_read() else _FORMATS) as picture:
            picture.draft("RGB", (side * 3 // 2, side * 3 // 2))
            picture.thumbnail((side, side), reducing_gap=2.0)
            small = _flat(ImageOps.exif_transpose(picture))
    except (*_BROKEN, *_BROKEN_TOO):  # what decoders raise for broken bytes
        return False
    beside = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        small.save(beside, "JPEG", quality=82, comment=f"batchflux: carries {carried};")
        beside.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):  # where nothing can be written, nothing is to be removed
            beside.unlink(missing_ok=True)
        verb, remedy = "take", remedy_of(error)
        if isinstance(error, FileExistsError | NotADirectoryError):
            verb, remedy = "hold", "move it away"
        says = f"{target.parent} cannot {verb} thumbnails ({error.strerror}): {remedy}, then make the report again."
        raise StorageError(says) from error
    return True


def _carried(thumb: Path | None) -> tuple[str, ...]:
    """Return what a thumbnail says that its picture carries."""
    try:
        with (thumb or Path(os.devnull)).open("rb") as file:
            found = _CARRIES.search(file.read(_HEAD))
    except OSError:  # it was removed meanwhile
        return ()
    return tuple(found[1].decode().split()) if found else ()


def _flat(picture: Image.Image) -> Image.Image:
    if picture.mode in {"RGBA", "LA", "PA"} or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        paper = Image.new("RGB", layer.size, _PAPER)
        paper.paste(layer, mask=layer.getchannel("A"))
        return paper
    return picture.convert("RGB")
