"""What was sent of a photo: upright, in RGB, of a kind that every program reads.

Trainers do not turn photos that are stored on their side, and read neither HEIC nor all colours of CMYK: a pair would
have another photo than the API saw, or end the training. So pairs have the copies that are sent, in full size.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from batchflux.errors import StorageError
from batchflux.output.base import SUFFIXES
from batchflux.photos.facts import Facts, inspect, kind_of
from batchflux.photos.prepare import VERSION, prepare
from batchflux.photos.steps import Settings, steps_of, target_of

if TYPE_CHECKING:
    from batchflux.exports.base import Photo

_HEAD = 64  # bytes that tell a kind
_MOST = 1 << 30  # bytes of a copy, which nobody is sent
_KEPT = 16_384  # photos of which is remembered what is done to them


class _Copy(NamedTuple):
    facts: Facts
    suffix: str


class Sent:
    """Gives photos as they are sent, by the `references` of a folder's manifest, but never smaller."""

    def __init__(self, settings: Settings) -> None:
        self._settings = replace(settings, max_side=None, max_bytes=None)
        self._copies: dict[str, _Copy | None] = {}  # by mark; None: it is sent as it is
        self._last = ("", b"")  # the mark and bytes of a copy, for jobs of one photo follow each other

    def of(self, photo: Photo) -> Photo:
        """Return the photo, or its copy, which is made when it is read; StorageError: it cannot be read."""
        if photo.mark not in self._copies:
            if len(self._copies) >= _KEPT:
                self._copies.clear()
            self._copies[photo.mark] = self._copy(photo.read())
        copy = self._copies[photo.mark]
        if copy is None:
            return photo
        mark = f"{photo.mark} {VERSION} {self._settings.text()}"
        return replace(photo, mark=mark, suffix=copy.suffix, read=lambda: self._read(photo, copy.facts))

    def _copy(self, data: bytes) -> _Copy | None:
        kind = kind_of(data[:_HEAD])
        facts = None if kind is None else inspect(data, kind)
        if facts is None or facts.fault is not None or not (steps := steps_of(facts, self._settings)):
            return None  # what cannot be decoded here stays what it is
        clear = facts.transparent and "flattened" not in steps
        return _Copy(facts, SUFFIXES[target_of(facts.kind, transparent=clear)][0])

    def _read(self, photo: Photo, facts: Facts) -> bytes:
        mark, data = self._last
        if mark != photo.mark:
            try:
                data = prepare(photo.read(), facts, self._settings, _MOST).data
            except ValueError as error:
                raise StorageError(f"{photo.source} {error}; leave its pairs out with --only or --where") from None
            self._last = (photo.mark, data)
        return data
