"""What pictures were made from, as it was then: local photos are held against their job's key, links are fetched once.

The key of a job is the digest of all that it asks for, the digests of its photos' own bytes among it. So a photo that
is another than the one that was sent gives another key. Where the ledger does not tell all that a key is made of
(another provider took the job over, an older version recorded it), the file must not have changed since the job was
sent, which its system keeps and nobody can put back. What links lead to is kept in `.references/` of the export: the
next export into it fetches nothing again, and a link that died in the meantime has its picture still.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import threading
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self, cast, get_args

from batchflux.engine.retry import Retrying, Tries
from batchflux.errors import RULES, Code, JobError, ManifestError, StorageError
from batchflux.exports.base import Photo
from batchflux.exports.places import STORE
from batchflux.exports.redo_manifest import job_of
from batchflux.exports.sent import Sent
from batchflux.folders.pictures import changed
from batchflux.manifest.identity import former_key, key_of_job
from batchflux.manifest.kept import kept
from batchflux.manifest.parts import ReferencesConfig
from batchflux.manifest.reading.yaml_nodes import Scalar, Table
from batchflux.models import Reference
from batchflux.output.base import SUFFIXES
from batchflux.output.durable import unreadable
from batchflux.output.stores.base import Address, in_bucket, read
from batchflux.photos import joined, on_disk
from batchflux.photos.facts import Kind, kind_of
from batchflux.photos.steps import Settings
from batchflux.providers import providers
from batchflux.redaction import redacted
from batchflux.transport import DownloadSlots, Proxies, Transport, TransportOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from batchflux.exports.places import Place
    from batchflux.ledger.tables import Known
    from batchflux.models import Job
    from batchflux.output.stores.opening import Stores

MOST_BYTES = 100 << 20  # of a picture behind a link
_HEAD = 64  # bytes that tell a kind
_KEPT = 16_384  # photos whose digests are remembered
_NOWHERE = "https://export.invalid"  # an export has no provider whose addresses would be trusted
_AT_ONCE = 16
_PAUSES = (0.5, 2.0)  # seconds before a link is tried again


class LeftOutError(Exception):
    """A picture cannot be exported; the text says why, as the end of a sentence."""


class References:
    """The references of an output folder's jobs, while it is entered. `base` is what local ones are relative to.

    `stores` has those that are in buckets; `allow_hosts` are private addresses that may be fetched from. With `sent`
    they are what was sent of photos, not their files.
    """

    def __init__(
        self,
        out: Path,
        base: Path | None,
        place: Place,
        stores: Callable[[], Stores],
        allow_hosts: Sequence[str] = (),
        *,
        sent: bool = False,
    ) -> None:
        settings = _settings_of(out)
        self._base, self._settings = base, "" if settings is None else settings.written
        self._sent = Sent(settings or Settings()) if sent else None
        self._links = _Links(place, stores, allow_hosts)
        self._apis = [*dict.fromkeys(api for api, _ in providers()), "simulator"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._links.close()

    def begin(self, jobs: Iterable[Known]) -> None:
        """Begin to fetch what the links of jobs lead to."""
        for known in jobs:
            for source in json.loads(known.spec)["images"]:
                if "://" in source:
                    self._links.begin(source)

    def of(self, known: Known) -> tuple[Photo, ...]:
        """Return a job's references; LeftOutError where one is gone, or is not the one that was sent."""
        job = job_of(known)
        found = [self._found(image.source) for image in job.references]
        if any(one.sha256 for one in found):
            self._check(known, job.with_references(found), found)
        photos = [self._photo(one) for one in found[: len(job.images)]]
        return tuple(photos if self._sent is None else map(self._sent.of, photos))

    def _found(self, source: str) -> Reference:
        if "://" in source:
            return Reference(source=source, url=source)
        if self._base is None:
            raise LeftOutError("the folder does not tell where its local references are")
        try:
            path = on_disk(self._base, source) or joined(self._base, source)
            state = Path(path).stat()
            digest, kind = _digest(path, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        except (OSError, ValueError) as error:
            says = error.strerror if isinstance(error, OSError) else "it is no path"
            raise LeftOutError(f"its reference {source} cannot be read: {says}") from None
        return Reference(
            source=source, path=path, sha256=digest, media_type=kind, size=state.st_size, settings=self._settings
        )

    def _check(self, known: Known, job: Job, found: Sequence[Reference]) -> None:
        """See that local references are what they were; LeftOutError."""
        if any(key == known.key.hex() for key in self._keys(job, found)):
            return
        sent, local = known.started_at or 0.0, [one for one in found if one.path is not None]
        if any(Path(str(one.path)).stat().st_ctime >= sent for one in local):
            names = " or ".join(one.source for one in local)  # the key is of all of them
            raise LeftOutError(f"its reference {names} is not the file that was sent: put that back")

    def _keys(self, job: Job, found: Sequence[Reference]) -> Iterator[str]:
        """Yield the keys that such a job may have been given."""
        for named in (None, job.provider):
            for api in self._apis:
                yield key_of_job(replace(job, key_provider=named), api)
        values = {name: getattr(job, name) for name in job.__dataclass_fields__}
        yield former_key(values, job.provider, job.prompt, found[: len(job.images)])

    def _photo(self, one: Reference) -> Photo:
        if one.url is not None:
            return self._links.photo(one.url)
        path, digest, kind = Path(one.path or ""), one.sha256 or "", one.media_type or ""
        known: dict[str, Any] = {"source": one.source, "mark": digest, "suffix": _suffix(kind), "size": one.size or 0}
        return Photo(**known, read=lambda: read_checked(path, digest))


class _Links:
    """Fetches what links lead to, each once, into a place; in a thread with a loop of its own, once there is one."""

    def __init__(self, place: Place, stores: Callable[[], Stores], allow_hosts: Sequence[str]) -> None:
        self._place, self._stores = place, stores
        self._options = TransportOptions(
            base_url=_NOWHERE,
            timeout=60,
            connections=_AT_ONCE,
            max_bytes=MOST_BYTES,
            spool_over=MOST_BYTES,
            spool_dir=str(place.spool),
            slots=DownloadSlots(_AT_ONCE, _AT_ONCE),
            allow_hosts=tuple(allow_hosts),
            proxies=Proxies.of(None, os.environ),
        )
        self._transport = Transport(self._options)
        self._fetching: dict[str, Future[str]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stack = ExitStack()

    def begin(self, url: str) -> None:
        """Begin to fetch, unless it is here."""
        if url not in self._fetching and self._kept(url) is None:
            self._fetching[url] = self._run(self._fetch(url))

    def photo(self, url: str) -> Photo:
        """Return what a link leads to; LeftOutError where it cannot be had."""
        name = self._kept(url)
        if name is None:
            self.begin(url)
            try:
                name = self._fetching[url].result()
            except JobError as error:
                raise LeftOutError(f"its reference cannot be fetched: {error.message}") from None
        suffix, size = PurePosixPath(name).suffix, self._place.size(name) or 0
        return Photo(source=url, mark=url, suffix=suffix, size=size, read=partial(self._read, name))

    def close(self) -> None:
        """End what is under way."""
        self._stack.close()

    def _kept(self, url: str) -> str | None:
        """Return the name of the file of what a link led to."""
        names = (_name(url) + _suffix(kind) for kind in get_args(Kind))
        return next((name for name in names if self._place.size(name) is not None), None)

    def _read(self, name: str) -> bytes:
        data = self._place.read(name)
        if data is None:
            raise StorageError(f"{name} is gone from {self._place.address}: export again to fetch it again")
        return data

    async def _fetch(self, url: str) -> str:
        async with self._options.slots:
            data = await self._patiently(url)
        kind = kind_of(data[:_HEAD])
        if kind is None:
            raise JobError(Code.DOWNLOAD, f"{redacted(url)} leads to no picture")
        name = _name(url) + _suffix(kind)
        await asyncio.to_thread(self._place.put, name, data)
        self._fetching.pop(url, None)
        return name

    async def _patiently(self, url: str) -> bytes:
        return await Retrying(_pause, asyncio.sleep)(lambda: self._bytes(url), Tries())

    async def _bytes(self, url: str) -> bytes:
        if in_bucket(url):
            return await asyncio.to_thread(self._object, Address.of(url))
        fetched = await self._transport.fetch(url)
        if fetched.data is not None:
            return fetched.data
        path = Path(fetched.path or "")
        try:
            return await asyncio.to_thread(path.read_bytes)
        finally:
            await asyncio.to_thread(path.unlink)

    def _object(self, address: Address) -> bytes:
        try:
            data = read(self._stores().at(address), address.key)
        except StorageError as error:  # after its own tries
            raise JobError(Code.DOWNLOAD, str(error), final=True) from None
        if data is None:
            raise JobError(Code.DOWNLOAD, f"there is no {address}", dead=True)
        return data

    def _run(self, work: Coroutine[Any, Any, str]) -> Future[str]:
        if self._loop is None:
            self._loop = loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, name="batchflux-links", daemon=True)
            thread.start()
            asyncio.run_coroutine_threadsafe(self._transport.__aenter__(), loop).result()
            self._stack.callback(_stop, loop, thread, self._transport)
        return asyncio.run_coroutine_threadsafe(work, self._loop)


def _pause(tries: Tries, error: JobError) -> float | None:
    """Return the seconds to wait before a link is fetched again, None to give up."""
    tries.used += 1
    again = RULES[error.code].fetch_again and not (error.dead or error.final)
    return _PAUSES[tries.used - 1] if again and tries.used <= len(_PAUSES) else None


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread, transport: Transport) -> None:
    async def end() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await transport.__aexit__()

    asyncio.run_coroutine_threadsafe(end(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def read_checked(path: Path, sha256: str) -> bytes:
    """Return the bytes of a file; StorageError where they are not those of this digest."""
    data = _read(path)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise changed(path)
    return data


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


@lru_cache(maxsize=_KEPT)
def _digest(path: str, *_state: int) -> tuple[str, str]:
    """Return the digest of a file's bytes, and of what kind they are ('' for none that is known); OSError."""
    with Path(path).open("rb") as stream:
        kind = kind_of(stream.read(_HEAD))
        stream.seek(0)
        return hashlib.file_digest(stream, "sha256").hexdigest(), kind or ""


def _name(url: str) -> str:
    """Return the name, without suffix, of what a link leads to."""
    return f"{STORE}/" + hashlib.sha256(url.encode(errors="surrogatepass")).hexdigest()[:32]


def _suffix(kind: str) -> str:
    return SUFFIXES.get(cast("Any", kind), (f".{kind}" if kind else "",))[0]


def _settings_of(out: Path) -> Settings | None:
    """Return what a folder's manifest says is done to photos; None where it cannot tell."""
    said = kept(out).pairs.get("references")
    with suppress(ManifestError, ValueError):
        if isinstance(said, Table):
            given = {name: node.text for name, node in said.pairs.items() if isinstance(node, Scalar)}
            return Settings(**ReferencesConfig.model_validate(given).model_dump(exclude={"publish"}))
    return None
