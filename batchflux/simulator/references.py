"""Keep uploaded references on disk, so that a link drawn from one works after a restart, on any port.

A link cannot carry a photo, and a preview small enough for a URL makes an ugly picture. So each upload is reduced to
at most 1024 pixels and kept under its SHA-256 in a private folder (mode 0700) of bounded size; the least recently
used go first. The folder is refused when it belongs to somebody else: it lies in the shared temp folder.
"""

from __future__ import annotations

import os
import stat
import tempfile
import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from batchflux.errors import UsageError

if TYPE_CHECKING:
    from batchflux.simulator.requests import Upload

REDUCED = 1024
LIMIT = 256 << 20


class NotAPictureError(Exception):
    """An upload that cannot be decoded."""


class NoPictureError(Exception):
    """A link that leads nowhere: it was never given, or its upload is no longer kept."""


class ReferenceCache:
    """The folder of uploads, at most `limit` bytes. Safe to use by several threads and processes at once."""

    def __init__(self, folder: str, limit: int = LIMIT) -> None:
        self._folder = Path(folder)
        self._limit = limit

    def keep(self, upload: Upload) -> None:
        """Keep `upload`, reduced; raise NotAPictureError when it cannot be decoded, UsageError for a bad folder."""
        if not self._touch(f"{upload.sha256}.jpg"):
            self._write(f"{upload.sha256}.jpg", reduce(upload.data))

    def keep_original(self, upload: Upload) -> None:
        """Keep the upload's own bytes, to send them back as a relay that did nothing would."""
        if not self._touch(f"{upload.sha256}.orig"):
            self._write(f"{upload.sha256}.orig", upload.data)

    def reduced(self, digest: str) -> bytes:
        """Return the reduced upload as a JPEG, or raise NoPictureError when it is gone."""
        return self._read(f"{digest}.jpg")

    def original(self, digest: str) -> bytes:
        """Return the upload's own bytes, or raise NoPictureError when they were not kept."""
        return self._read(f"{digest}.orig")

    def prepare(self) -> None:
        """Make the folder, or raise UsageError when it cannot be made or others may write into it."""
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

    def _touch(self, name: str) -> bool:
        try:
            os.utime(self._folder / name)
        except FileNotFoundError:
            return False
        return True

    def _read(self, name: str) -> bytes:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError as error:
            raise NoPictureError from error

    def _write(self, name: str, data: bytes) -> None:
        self.prepare()  # once more: a cleaner of the temp folder may have taken it
        handle, temporary = tempfile.mkstemp(dir=self._folder, prefix=".new-")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).replace(self._folder / name)
        self._prune()

    def _prune(self) -> None:
        """Beyond the limit, remove files down to half of it; the newest stays."""
        files = []
        for path in self._folder.iterdir():
            try:
                found = path.lstat()
            except FileNotFoundError:  # another process pruned it
                continue
            if stat.S_ISREG(found.st_mode):
                files.append((found.st_mtime, found.st_size, path))
        used = sum(size for _, size, _ in files)
        if used <= self._limit:
            return
        for _, size, path in sorted(files)[:-1]:
            if used <= self._limit // 2:
                break
            path.unlink(missing_ok=True)
            used -= size


def reduce(data: bytes) -> bytes:
    """Return `data` upright, opaque and at most 1024 pixels long as a JPEG, or raise NotAPictureError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
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
