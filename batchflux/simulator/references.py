"""Keep uploaded references on disk, so that a link drawn from one works after a restart, on any port.

A link cannot carry a photo, and a preview small enough for a URL makes an ugly picture. So each upload is reduced to
at most 1024 pixels and kept under its SHA-256 in a private folder (mode 0700) of bounded size; the least recently
used go first. The folder is refused when it belongs to somebody else: it lies in the shared temp folder.
"""

from __future__ import annotations

import os
import stat
import tempfile
import threading
import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps, UnidentifiedImageError

from batchflux.errors import UsageError

if TYPE_CHECKING:
    from batchflux.simulator.requests import Upload

REDUCED = 1024
LIMIT = 256 << 20
_QUALITY = 92
_FORMATS = ("PNG", "JPEG", "WEBP")


class NotAPictureError(Exception):
    """An upload that cannot be decoded."""


class ReferenceCache:
    """The folder of uploads. Safe to use from several threads, and by several processes at once.

    `limit` is in bytes. The folder is made when first needed.
    """

    def __init__(self, folder: str, limit: int = LIMIT) -> None:
        self._folder = Path(folder)
        self._limit = limit
        self._lock = threading.Lock()
        self._used: int | None = None

    def keep(self, upload: Upload) -> None:
        """Make sure that `upload` is kept.

        Raises:
            NotAPictureError: its bytes cannot be decoded whole.
            UsageError: the folder cannot be used.
        """
        path = self._folder / f"{upload.sha256}.jpg"
        if not self._touch(path):
            self._write(path, reduce(upload.data))

    def keep_original(self, upload: Upload) -> None:
        """Keep the upload's own bytes, to send them back as a relay that did nothing would."""
        path = self._folder / f"{upload.sha256}.orig"
        if not self._touch(path):
            self._write(path, upload.data)

    def reduced(self, digest: str) -> bytes | None:
        """Return the reduced upload as a JPEG, or None when it is gone."""
        return self._read(f"{digest}.jpg")

    def original(self, digest: str) -> bytes | None:
        """Return the upload's own bytes, or None when they were not kept."""
        return self._read(f"{digest}.orig")

    def _read(self, name: str) -> bytes | None:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    @staticmethod
    def _touch(path: Path) -> bool:
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def _write(self, path: Path, data: bytes) -> None:
        with self._lock:
            if not self._folder.is_dir():  # a cleaner of the temp folder may have taken it
                self._used = None
            self.prepare()
            handle, temporary = tempfile.mkstemp(dir=self._folder, prefix=".new-")
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(temporary).replace(path)
            self._used = (self._used or 0) + len(data)
            if self._used > self._limit:
                self._prune()

    def prepare(self) -> None:
        """Make the folder, unless it is there.

        Raises:
            UsageError: it cannot be made, or others may write into it.
        """
        if self._used is not None:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self._folder.lstat()
        except OSError as error:
            raise UsageError(
                f"The simulator's cache folder {self._folder} cannot be used: {error.strerror}; "
                "name another as cache_dir."
            ) from error
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise UsageError(
                f"The simulator's cache folder {self._folder} is not yours alone to write; name another as cache_dir."
            )
        self._used = sum(size for _, size, _ in self._files())

    def _files(self) -> list[tuple[float, int, Path]]:
        found = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                try:
                    info = entry.stat(follow_symlinks=False)
                except FileNotFoundError:  # another process pruned it
                    continue
                if stat.S_ISREG(info.st_mode):
                    found.append((info.st_mtime, info.st_size, Path(entry.path)))
        return found

    def _prune(self) -> None:
        files = sorted(self._files())
        used = sum(size for _, size, _ in files)
        for _, size, path in files[:-1]:
            if used <= self._limit // 2:
                break
            path.unlink(missing_ok=True)
            used -= size
        self._used = used


def reduce(data: bytes) -> bytes:
    """Return the picture in `data`, upright, without transparency, at most 1024 pixels long, as a JPEG.

    Raises:
        NotAPictureError: the bytes are not one whole PNG, JPEG or WebP.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(data), formats=_FORMATS) as opened:
                opened.load()
                upright = ImageOps.exif_transpose(opened)
    except (
        OSError,
        SyntaxError,
        ValueError,
        UnidentifiedImageError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise NotAPictureError(str(error)) from error
    plain = _opaque(upright)
    plain.thumbnail((REDUCED, REDUCED), Image.Resampling.LANCZOS, reducing_gap=3)
    out = BytesIO()
    plain.save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()


def _opaque(picture: Image.Image) -> Image.Image:
    if picture.has_transparency_data:
        clear = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    return picture.convert("RGB")
