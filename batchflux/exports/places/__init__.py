"""Where an export is written: a folder of this machine, or a bucket."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from batchflux.errors import UsageError, quoted
from batchflux.exports.places.base import STORE, Pictures, Place
from batchflux.exports.places.bucket import BucketDestination
from batchflux.exports.places.folder import SET_ASIDE, Destination, Folder
from batchflux.output.stores.base import SCHEMES, Address, in_bucket

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from batchflux.output.stores.opening import Stores

__all__ = ["SET_ASIDE", "STORE", "Folder", "Pictures", "Place", "destination", "opened"]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:/")


def destination(text: str) -> Path | Address:
    """Return where a user's text leads: to a folder, as a file:// address does, or into a bucket; UsageError."""
    if text.startswith("file:///"):
        return Path(unquote(text.removeprefix("file://")))
    if in_bucket(text):
        try:
            place = Address.of(text)
        except ValueError as error:
            raise UsageError(f"{error}.") from None
        return place._replace(key=place.key.rstrip("/"))
    if _SCHEME.match(text):
        buckets = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise UsageError(f"{quoted(text)} is no folder, and no bucket that an export can be written to: {buckets}.")
    return Path(text)


def opened(
    dest: Path | Address, out: Path, kind: str, stores: Callable[[], Stores], mirror: str | None = None
) -> AbstractContextManager[Place]:
    """Return what holds the place of an export while it is entered; entering it raises UsageError and FolderBusy.

    `mirror` is the address of the bucket that has the pictures of `out`, too: UsageError where one lies in the other.
    """
    if isinstance(dest, Path):
        return Destination(dest, out, kind)
    ours, theirs = f"{dest}/", f"{mirror}/"
    if mirror is not None and (ours.startswith(theirs) or theirs.startswith(ours)):
        what = f"{dest} and {mirror}, which mirrors {out}, lie in each other"
        raise UsageError(f"{what}, and an export never changes what it is made from: choose a prefix beside it.")
    return BucketDestination(stores().at(dest), dest, kind)
