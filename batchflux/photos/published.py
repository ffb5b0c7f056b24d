"""References in buckets: local ones are put there for APIs that fetch them, and those that lie there are sent.

The key of what is put is that of its content, so that to put it again, from here or from another machine, changes
nothing. A signed link is a secret: it is made when a request is built, and kept nowhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from batchflux.errors import Code, JobError, UsageError
from batchflux.failpoints import reach
from batchflux.output.base import SUFFIXES
from batchflux.output.stores.base import Address, PlaceError
from batchflux.photos.photos import MAX_SENT
from batchflux.transport.threads import Unawaited

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from batchflux.models import Job, Reference
    from batchflux.output.stores.base import ObjectStore
    from batchflux.output.stores.opening import Stores
    from batchflux.photos.photos import Photos

Made = TypeVar("Made")

PLACE = "{key}"
UNSIGNED = "?signature"  # ends a link that is only shown, and would be signed
LINK_LIFE = 7200.0  # seconds that a link to a reference in a bucket is good for, unless the manifest says otherwise
THREADS = 8  # photos that are put, or read, at once: the bytes of so many are in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Where local references are put: below the address `to`; None where they travel as bytes.

    `url` is the template of their links, in which `{key}` is an object's key, quoted; None where links are signed.
    Signed ones, to what lies in any bucket, are good for so many `seconds`.
    """

    to: str | None = None
    url: str | None = None
    seconds: float = LINK_LIFE

    @property
    def where(self) -> str:
        """The name under which the ledger has what was put."""
        return f"bucket {self.to}"

    def takes(self, image: Reference) -> bool:
        """Whether a reference is put into the bucket for an API that takes links."""
        return self.to is not None and image.url is None and image.fault is None and image.sha256 is not None

    def concerns(self, image: Reference) -> bool:
        """Whether anything is to be done about a reference: it is put into a bucket, or lies in one."""
        return image.address is not None or self.takes(image)

    def signs(self, image: Reference) -> bool:
        """Whether the link to a reference is to be signed; what an API calls a file that was uploaded to it is not."""
        if image.address is None or image.path is None:
            return image.address is not None
        return self.to is not None and image.address == self.address(image)

    def address(self, image: Reference) -> str:
        """Return the address of what is sent of a local reference."""
        sent = image.copy or image
        kind: Any = (sent.media_type or "").rpartition("/")[2]
        place = Address.of(self.to or "")
        return str(place._replace(key=place.below(f"{sent.sha256}{SUFFIXES[kind][0]}")))

    def url_of(self, address: str) -> str:
        """Return the link to what was put at an address; the address itself where a link has yet to be signed."""
        return address if self.url is None else self.url.replace(PLACE, quote(Address.of(address).key))

    def shown(self, job: Job) -> Job:
        """Return a job whose API takes links with its references as a plan shows them: nothing is put, or signed."""
        return job.with_references(tuple(map(self._shown, job.references)))

    def _shown(self, image: Reference) -> Reference:
        url = self.url_of(self.address(image)) if self.takes(image) else image.url
        made = replace(image, url=url)
        return made if made.address is None else replace(made, url=f"{url}{UNSIGNED}")


@dataclass(slots=True, kw_only=True)
class Unpublished:
    """Counts the local references of jobs that have yet to be put into a bucket, and their bytes as they are now.

    `there` are the digests of those that lie there, as hashes; `links` tells whether a job's references are published.
    """

    published: Published
    links: Callable[[Job], bool]
    there: set[int]
    photos: int = 0
    bytes: int = 0

    def take(self, job: Job) -> None:
        """Count those of one job that no job before it had."""
        for image in job.references if self.links(job) else ():
            if self.published.takes(image) and (mark := hash((image.copy or image).sha256)) not in self.there:
                self.there.add(mark)
                self.photos += 1
                self.bytes += (image.copy and image.copy.size) or image.size or 0


class Buckets:
    """Puts references into buckets, makes links to what is there, or reads it; all in threads.

    UsageError: the bucket that they are put into cannot be opened.
    """

    def __init__(self, stores: Stores, photos: Photos, published: Published) -> None:
        self.published = published
        self._stores, self._photos = stores, photos
        self._pool = Unawaited(THREADS, "batchflux-buckets")
        if published.to is not None:
            stores.at(published.to)

    async def put(self, image: Reference) -> str:
        """Put what is sent of a local reference, unless it is there; return its address.

        Raises JobError `reference`: the file changed, or is gone; StorageError: the bucket cannot take it.
        """
        return await self._in_thread(lambda: self._put(image.copy or image, self.published.address(image)))

    def _put(self, sent: Reference, address: str) -> str:
        place, data = Address.of(address), b""
        try:
            data = Path(sent.path or "").read_bytes()
        except OSError as error:
            why = f"cannot be read: {error.strerror}; put the file back and run again"
            raise JobError(Code.REFERENCE, f"reference {sent.path} {why}") from None
        digest = hashlib.sha256(data).hexdigest()
        if digest != sent.sha256:
            raise JobError(Code.REFERENCE, f"reference {sent.path} changed since the plan; run again")
        reach("reference.publishing")
        self._stores.at(place).put(place.key, data, digest)
        reach("reference.published")
        return address

    async def sign(self, address: str) -> str:
        """Return a link to what lies at an address, good from now on; it is a secret. StorageError: it cannot be."""
        place = Address.of(address)
        seconds = int(self.published.seconds)
        return await self._in_thread(lambda: self._stores.at(place).sign(place.key, seconds))

    async def look(self, image: Reference) -> str | None:
        """Return why a reference in a bucket cannot be sent as a link: it is not to be had, or too large.

        Raises StorageError: the bucket cannot be asked, and perhaps no other.
        """
        return await self._in_thread(lambda: self._look(image))

    def _look(self, image: Reference) -> str | None:
        place = Address.of(image.url or "")
        try:
            found = next(iter(self._at(place).find(place.key)), None)
        except PlaceError as error:
            return None if self._is_read(place) else f"the reference {error}"
        if found is None or found.key != place.key:
            return _gone(image)
        return _too_large(image) if found.size > MAX_SENT else None

    def _is_read(self, place: Address) -> bool:
        """Whether what is at an address can be read, by its first bytes: many a key may read, and not list."""
        try:
            return self._at(place).fetch(place.key, _Bounded(0))
        except _TooLargeError:
            return True
        except PlaceError:
            return False

    async def read(self, image: Reference) -> Reference:
        """Return a reference that lies in a bucket as a photo, with its bytes in a file; `fault` says what is wrong.

        Raises StorageError: the bucket cannot be read, and perhaps no other.
        """
        return await self._in_thread(lambda: self._read(image))

    def _read(self, image: Reference) -> Reference:
        place, target = Address.of(image.url or ""), _Bounded()
        try:
            there = self._at(place).fetch(place.key, target)
        except _TooLargeError:
            return replace(image, fault=_too_large(image))
        except PlaceError as error:
            return replace(image, fault=f"the reference {error}")
        if not there:
            return replace(image, fault=_gone(image))
        return self._photos.received(image, target.getvalue())

    def _at(self, place: Address) -> ObjectStore:
        try:
            return self._stores.at(place)
        except UsageError as error:  # nothing is said of it, or what is said is wrong
            raise PlaceError(str(error)) from error

    async def _in_thread(self, work: Callable[[], Made]) -> Made:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        """Drop what has not begun; what has may be cut off."""
        self._pool.shutdown()


def _gone(image: Reference) -> str:
    return f"the reference {image.source} is not there; put it there and run again"


def _too_large(image: Reference) -> str:
    return f"the reference {image.source} has more than {MAX_SENT} bytes; make it smaller"


class _TooLargeError(Exception):
    """More bytes came than can be sent."""


class _Bounded(io.BytesIO):
    """Takes no more than so many bytes: as many as can be sent."""

    def __init__(self, most: int | None = None) -> None:
        super().__init__()
        self._most = MAX_SENT if most is None else most

    def write(self, data: Any) -> int:
        if self.tell() + memoryview(data).nbytes > self._most:
            raise _TooLargeError
        return super().write(data)

    def writelines(self, lines: Iterable[Any]) -> None:
        for line in lines:
            self.write(line)
