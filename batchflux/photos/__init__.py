"""Local reference photos: found, looked at once, and made ready to be sent. The original is never touched."""

from __future__ import annotations

from batchflux.photos import heic
from batchflux.photos.find import is_allowed, is_private, joined, near, on_disk, reach_of
from batchflux.photos.globs import matches
from batchflux.photos.photos import Photos
from batchflux.photos.published import LINK_LIFE, Buckets, Published, Unpublished
from batchflux.photos.steps import Settings

__all__ = [
    "LINK_LIFE",
    "Buckets",
    "Photos",
    "Published",
    "Settings",
    "Unpublished",
    "heic",
    "is_allowed",
    "is_private",
    "joined",
    "matches",
    "near",
    "on_disk",
    "reach_of",
]
