"""The photos of one manifest: found, known by their bytes, decoded once in threads, and prepared when they are sent.

Memory is bounded by the threads: each has one photo at most, as bytes and decoded. Whatever was seen is remembered
(cache.py), and what was prepared is kept beside it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import stat
import threading
from collections import Counter, OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from batchflux.errors import Code, JobError
from batchflux.models import Reference
from batchflux.output import durable
from batchflux.output.base import SUFFIXES, TEMPORARY
from batchflux.photos import heic
from batchflux.photos.cache import Cache
from batchflux.photos.facts import SENT_AS_IS, Facts, Kind, inspect, kind_of
from batchflux.photos.find import joined, missing, on_disk
from batchflux.photos.prepare import VERSION, prepare
from batchflux.photos.steps import STEPS, Settings, steps_of, target_of, too_large

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from batchflux.models import Job

MAX_SENT = 20 << 20  # bytes of a photo in a request
MAX_READ = 256 << 20  # bytes of one that is made smaller
THREADS = 8
LARGE_PIXELS, LARGE_BYTES = 20_000_000, 10_000_000  # more than all APIs take: Black Forest Labs names 20 MB or 20 MP
_KEPT = 16_384  # photos remembered in memory
_BATCH = 500
_NOT_IN_NAMES, _LONGEST_STEM = re.compile(r"[^\w.-]"), 40
_HEAD = 64

Key = TypeVar("Key")
Value = TypeVar("Value")


class _Recent(OrderedDict[Key, Value], Generic[Key, Value]):
    """A mapping that forgets the oldest."""

    def __setitem__(self, key: Key, value: Value) -> None:
        super().__setitem__(key, value)
        if len(self) > _KEPT:
            self.popitem(last=False)


@dataclass(slots=True)
class Seen:
    """What local photos there are: how many, of how many bytes, and `broken` ones among them, which cannot be sent.

    `steps` counts what is done to them before they are sent, `large` those that are more than some APIs take even then.
    `in_buckets` are how many others there are, which are not looked at.
    """

    photos: int = 0
    bytes: int = 0
    broken: int = 0
    large: int = 0
    in_buckets: int = 0
    steps: Counter[str] = field(default_factory=Counter)

    def as_counts(self) -> dict[str, Any]:
        """Return it as JSON data, the steps in their order."""
        counts = {name: getattr(self, name) for name in ("photos", "bytes", "broken", "large", "in_buckets")}
        return counts | {"prepared": {name: self.steps[name] for name in STEPS if self.steps[name]}}


class Photos:
    """The photos that a manifest in the folder `base` names.

    `settings` are its `references`. With `output`, the output folder, photos are decoded; without, they are only found
    and told by their bytes. `reaches` tells whether the provider can reach a URL. Close it when the run is over.
    """

    def __init__(
        self,
        base: Path,
        settings: Settings | None = None,
        output: Path | None = None,
        reaches: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self.seen = Seen()
        self._base, self._settings, self._reaches = base, settings or Settings(), reaches
        self._written = self._settings.written
        self._how = f"{VERSION} {self._settings.text()}"
        self._cache = None if output is None else Cache(output)
        self._references: _Recent[str, Reference] = _Recent()
        self._looks: _Recent[str, Future[Facts]] = _Recent()  # by the digest of a photo's bytes
        self._judged: _Recent[Reference, Reference] = _Recent()
        self._counted: set[int] = set()
        self._copies: _Recent[str, asyncio.Future[Reference]] = _Recent()
        self._workers = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def reference(self, source: str) -> Reference:
        """Return the Reference that a user wrote as `source`, a path or URL; its `fault` says what is wrong with it.

        What is wrong with a photo's pixels is found by `judged`. A photo that cannot be read is looked at again each
        time: that there are too many open files, say, is not for ever.
        """
        made = self._references.get(source)
        if made is None:
            try:
                made = self._references[source] = self._found(source)
            except OSError as error:
                path = joined(self._base, source)
                fault = f"the reference {source} cannot be read: {error.strerror}; looked at {path}"
                made = Reference(source=source, path=path, fault=fault, settings=self._written)
        return made

    def url(self, source: str) -> Reference:
        """Return the Reference of a URL."""
        fault = None
        if not self._reaches(source):
            fault = (
                f"the reference {source.partition('?')[0]} is at an address that the provider cannot reach: give the "
                "file's path, or name the host in provider.allow_hosts where it can"
            )
        return Reference(source=source, url=source, fault=fault)

    def object(self, address: str) -> Reference:
        """Return the Reference of an object in a bucket; it is known by its address."""
        before = len(self._counted)
        self._counted.add(hash(address))
        self.seen.in_buckets += len(self._counted) - before
        return Reference(source=address, url=address)

    def _found(self, source: str) -> Reference:
        """Look for a photo; OSError: it is there, as far as is known, and cannot be read."""
        path, fault, digest, kind, size = joined(self._base, source), None, None, None, None
        try:
            path = on_disk(self._base, source) or path
            found = Path(path).stat()
            size, fault = found.st_size, self._unfit(found)
            if fault is None:
                digest, kind = self._digest(path, found)
                fault = "is not a PNG, JPEG, WEBP or GIF picture; save it as one, as PNG" if kind is None else None
        except (FileNotFoundError, NotADirectoryError):
            fault = missing(self._base, source)
        except ValueError:
            fault = "is not a path"
        if digest is not None and kind is not None and self._cache is not None:
            self._begin_look(path, digest, kind)
        return Reference(
            source=source,
            path=path,
            sha256=digest,
            size=size,
            media_type=None if kind is None else _media_type(target_of(kind, transparent=False), kind),
            fault=None if fault is None else f"the reference {source} {fault}",
            settings=self._written,
        )

    def _unfit(self, found: os.stat_result) -> str | None:
        most = MAX_READ if self._settings.shrinks else MAX_SENT
        if not stat.S_ISREG(found.st_mode):
            return "is not a file"
        if found.st_size > most:
            remedy = "" if self._settings.shrinks else "; references.max_bytes: 10MB sends it smaller"
            return f"has {found.st_size} bytes; at most {most} can be sent{remedy}"
        return None if found.st_size else "is empty"

    def _digest(self, path: str, found: os.stat_result) -> tuple[str, Kind | None]:
        known = self._cache.digest(path, found) if self._cache is not None else None
        if known is None:
            known = _digest(path, (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_dev, found.st_ino))
            if self._cache is not None:
                self._cache.note_digest(path, found, *known)
        return known

    def _begin_look(self, path: str, digest: str, kind: Kind) -> Future[Facts]:
        """Have a photo decoded by a thread, unless it was before."""
        look = self._looks.get(digest)
        if look is None:
            known = self._cache.facts(digest) if self._cache is not None else None
            if known is None:
                look = self._threads().submit(self._look, path, digest, kind)
            else:
                look = Future()
                look.set_result(known)
            self._looks[digest] = look
        return look

    def _look(self, path: str, digest: str, kind: Kind) -> Facts:
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            return Facts(kind, 0, fault=f"cannot be read: {error.strerror}")
        if hashlib.sha256(data).hexdigest() != digest:
            return Facts(kind, 0, fault="changes while it is looked at; begin again when it is whole")
        facts = inspect(data, kind)
        if self._cache is not None and facts.fault != heic.MISSING:
            self._cache.note_facts(digest, facts)
        return facts

    def judged(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """Pass on jobs, what is wrong with their photos told; photos of the next jobs are decoded meanwhile."""
        stream = iter(jobs)
        while batch := list(islice(stream, _BATCH)):
            for job in batch:
                if any(image.path is not None for image in job.references):
                    yield job.with_references(tuple(map(self._judge, job.references)))
                else:
                    yield job
        if self._cache is not None:
            self._cache.save()

    def _judge(self, image: Reference) -> Reference:
        """Return a reference with all that is known of its photo, and the copy that was made of it before."""
        if image.path is None:
            return image
        made = self._judged.get(image)
        if made is None:
            facts = self._facts(image)
            made = image
            fault = None if facts is None else facts.fault or too_large(facts, self._settings)
            if fault is not None:
                made = replace(image, fault=f"the reference {image.source} {fault}")
            elif facts is not None and (steps := steps_of(facts, self._settings)):
                kind = target_of(facts.kind, transparent=facts.transparent and self._settings.flatten is None)
                made = replace(image, media_type=f"image/{kind}", steps=steps, copy=self._copy_before(image))
            if facts is None or facts.bytes:  # it was read
                self._judged[image] = made
            self._count(made, facts)
        return made

    def _facts(self, image: Reference) -> Facts | None:
        """Return what a photo is; None where it has not been found, or is not looked at. Waits for the thread.

        What could not be read as it was looked at may be there by now, or the same bytes elsewhere: nothing is told of
        them then.
        """
        if image.fault is not None or image.sha256 is None or image.path is None or self._cache is None:
            return None
        look = self._looks.get(image.sha256)
        facts = None if look is None else look.result()
        if facts is not None and facts.bytes:
            return facts
        try:
            with Path(image.path).open("rb") as file:
                kind = kind_of(file.read(_HEAD))
        except OSError:
            return facts
        if kind is None:
            return facts
        self._looks.pop(image.sha256, None)
        return self._begin_look(image.path, image.sha256, kind).result()

    def _count(self, image: Reference, facts: Facts | None) -> None:
        """Count a photo once, however it is written."""
        mark = hash(image.path)
        if mark in self._counted:
            return
        self._counted.add(mark)
        seen = self.seen
        seen.photos += 1
        seen.broken += image.fault is not None
        if facts is None or image.fault is not None:
            return
        seen.bytes += facts.bytes
        steps = steps_of(facts, self._settings)
        seen.steps.update(steps)
        few = self._settings.max_side is not None or facts.width * facts.height <= LARGE_PIXELS
        small = self._settings.max_bytes is not None or "scaled" in steps or facts.bytes <= LARGE_BYTES
        seen.large += not (few and small)

    def received(self, image: Reference, data: bytes) -> Reference:
        """Keep the bytes of a reference that lies elsewhere beside the copies; return it as that file.

        Its fault says what is wrong with them. Raises StorageError: no copy can be kept. Waits until they are decoded.
        """
        kind, digest = kind_of(data[:_HEAD]), hashlib.sha256(data).hexdigest()
        if kind is None or self._cache is None:
            return replace(image, fault=f"the reference {image.source} is not a PNG, JPEG, WEBP or GIF picture")
        place = self._cache.folder / f"{_short(Path(image.source).stem)}-{digest[:16]}.{kind}"
        _write(place, data)
        made = self._judge(self.reference(str(place)))
        fault = made.fault and made.fault.replace(str(place), image.source)
        return replace(made, source=image.source, fault=fault)

    async def ready(self, job: Job) -> Job:
        """Return a job with copies of the photos that are not sent as they are, each made once, in a thread.

        Raises JobError `reference`: a photo changed, or cannot be converted; StorageError: no copy can be kept.
        """
        if not any(image.steps for image in job.references):
            return job
        return job.with_references(tuple([await self._with_copy(image) for image in job.references]))

    async def _with_copy(self, image: Reference) -> Reference:
        if not image.steps or image.sha256 is None:
            return image
        making = self._copies.get(image.sha256)
        if making is None:
            loop = asyncio.get_running_loop()
            making = asyncio.ensure_future(loop.run_in_executor(self._threads(), self._copy, image))
            self._copies[image.sha256] = making
        try:
            copy = await asyncio.shield(making)
        except BaseException:
            if making.done():
                self._copies.pop(image.sha256, None)  # another job may find the photo put back
            raise
        return replace(image, copy=copy)

    def _copy(self, image: Reference) -> Reference:
        """Make the copy of a photo that is sent, unless it is there, whole."""
        before, cache = self._copy_before(image), self._cache
        if before is not None and before.path is not None:
            try:
                if hashlib.sha256(Path(before.path).read_bytes()).hexdigest() == before.sha256:
                    return before
            except OSError:
                pass
        if cache is None or image.path is None or image.sha256 is None:
            raise ValueError(f"{image.source} was not looked at, so nothing is to be done to it")
        try:
            data = Path(image.path).read_bytes()
        except OSError as error:
            why = f"cannot be read: {error.strerror}; put the file back and run again"
            raise JobError(Code.REFERENCE, f"reference {image.path} {why}") from None
        kind = kind_of(data)
        if hashlib.sha256(data).hexdigest() != image.sha256 or kind is None:
            raise JobError(Code.REFERENCE, f"reference {image.path} changed since the plan; run again")
        try:
            facts = cache.facts(image.sha256) or inspect(data, kind)
            made, made_kind = prepare(data, facts, self._settings, MAX_SENT)
        except ValueError as error:
            raise JobError(Code.REFERENCE, f"the reference {image.source} {error}") from None
        digest = hashlib.sha256(made).hexdigest()
        name = f"{_short(Path(image.path).stem)}-{image.sha256[:16]}-{digest[:8]}{SUFFIXES[made_kind][0]}"
        _write(cache.folder / name, made)
        cache.note_copy(image.sha256, self._how, name, digest, made_kind)
        cache.save()
        return _copy_at(cache.folder / name, digest, made_kind)

    def _copy_before(self, image: Reference) -> Reference | None:
        if self._cache is None or image.sha256 is None:
            return None
        known = self._cache.copy(image.sha256, self._how)
        return None if known is None else _copy_at(self._cache.folder / known[0], known[1], known[2])

    def _threads(self) -> ThreadPoolExecutor:
        with self._workers:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(min(THREADS, os.cpu_count() or 2), "batchflux-photos")
            return self._pool

    def close(self) -> None:
        """Drop what has not begun, wait for what has, and remember what was seen."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        if self._cache is not None:
            self._cache.close()


@lru_cache(maxsize=_KEPT)
def _digest(path: str, _state: tuple[int, ...]) -> tuple[str, Kind | None]:
    """Return the digest of a file's bytes and what kind of picture they are."""
    with Path(path).open("rb") as stream:
        kind = kind_of(stream.read(_HEAD))
        stream.seek(0)
        return hashlib.file_digest(stream, "sha256").hexdigest(), kind


def _short(stem: str) -> str:
    return _NOT_IN_NAMES.sub("_", stem)[:_LONGEST_STEM].strip(".")


def _media_type(converted: Kind, kind: Kind | str) -> str:
    return f"image/{kind if kind in SENT_AS_IS else converted}"


def _copy_at(place: Path, digest: str, kind: str) -> Reference:
    return Reference(source=place.name, path=str(place), sha256=digest, media_type=f"image/{kind}")


def _write(place: Path, data: bytes) -> None:
    """Put a copy in its place, whole or not at all; StorageError. Its digest is known, so it need not be synced."""
    temporary = place.with_name(f"{TEMPORARY}{os.getpid()}-{threading.get_ident()}")
    with durable.storing(place):
        try:
            place.parent.mkdir(mode=durable.PRIVATE, exist_ok=True)
            temporary.write_bytes(data)
            temporary.replace(place)
        finally:
            temporary.unlink(missing_ok=True)
