"""Performs steps in this event loop: HTTP by the transport, pictures by the image store."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from batchflux.errors import Code, JobError
from batchflux.models import Collected, Inline
from batchflux.output.base import FURTHER
from batchflux.redaction import redacted, without_own
from batchflux.transport.lines import write_lines
from batchflux.transport.links import to_url

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence

    from yarl import URL

    from batchflux.models import Exchanged, HttpRequest, Job, Json, Link, Stored
    from batchflux.output.image_store import ImageStore
    from batchflux.providers import Provider
    from batchflux.transport import Transport
    from batchflux.transport.lines import Lines


class LocalExecutor:
    """The Executor of one process, over open transports.

    `transports` has one, with the address to which the key may go, for each provider by its name, and for each address
    of a fleet. `secrets` are all keys of the run: an answer may quote another job's, and no message may show any.
    """

    def __init__(
        self,
        transports: Mapping[tuple[str, str], tuple[Transport, str]],
        images: ImageStore,
        secrets: Collection[str] = (),
    ) -> None:
        self._transports = transports
        self._downloads = {name: transport for (name, _), (transport, _) in reversed([*transports.items()])}
        self._images = images
        self._secrets = secrets

    async def exchange(
        self,
        request: HttpRequest,
        *,
        provider: Provider,
        secret: str | None,
        at: tuple[str, str],
        on_sent: Callable[[], None] | None = None,
    ) -> Exchanged:
        """Perform one API step; the key goes to the provider's own hosts only. Raises JobError."""
        transport, base_url = self._transports[at]
        headers = {} if secret is None or request.keyless else provider.authorize(secret)
        request = request if request.keyless else addressed(request, provider, base_url)
        return await transport.exchange(request, headers=headers, secrets=self._secrets, on_sent=on_sent)

    async def lines(
        self, request: HttpRequest, *, provider: Provider, secret: str | None, at: tuple[str, str]
    ) -> AsyncGenerator[bytes]:
        """Perform a free API step whose answer is lines, and give them as they come. Raises JobError."""
        transport, base_url = self._transports[at]
        headers = {} if secret is None or request.keyless else provider.authorize(secret)
        request = request if request.keyless else addressed(request, provider, base_url)
        async with aclosing(transport.lines(request, headers=headers, secrets=self._secrets)) as lines:
            async for line in lines:
                yield line

    async def write_lines(self, name: str, lines: Iterable[tuple[str, Json]]) -> Lines:
        """Write the lines of a batch into a file of its own. Raises StorageError."""
        return await write_lines(self._images.batch_file(name), lines)

    async def drop_lines(self, name: str) -> None:
        """Remove the file of a batch."""
        await asyncio.to_thread(self._images.batch_file(name).unlink, missing_ok=True)

    async def keep(self, job: Job, picture: Inline) -> str:
        """Keep the bytes that came with an answer durably; return their name. Raises StorageError."""
        return await self._images.spool(job, picture)

    async def keep_answer(self, job: Job, attempt: int, body: bytes) -> str:
        """Keep an answer that was not understood, without secrets; return its name. Raises StorageError."""
        quiet = await asyncio.to_thread(_without, self._secrets, job, body)
        return await self._images.keep_answer(job, attempt, quiet)

    async def collect(self, job: Job, asset: Link | str, attempt: int) -> Collected:
        """Fetch a link, or take the bytes kept under a name; verify the picture and put it in its place.

        Raises JobError when it cannot be had or is not what was ordered, StorageError when the folder cannot take it.
        """
        if isinstance(asset, str):
            return Collected(stored=await self._images.store(job, asset, attempt))
        if (before := await self._images.kept_before(job, attempt)) is not None:
            return Collected(stored=before)
        fetched = await self._downloads[job.provider].fetch(asset.url)
        return Collected(stored=await self._images.store(job, fetched, attempt), seconds=fetched.seconds)

    async def beside(self, job: Job, own: Stored | None, more: Sequence[Link | Inline]) -> str:
        """Keep further pictures of an answer beside the job's own; return remarks that say so."""
        # All at once: the job has not ended, and a drain waits, until the slowest of them came.
        said = await asyncio.gather(*(self._one_beside(job, own, *each) for each in enumerate(more, 2)))
        return "; ".join(dict.fromkeys(filter(None, said)))

    async def _one_beside(self, job: Job, own: Stored | None, number: int, asset: Link | Inline) -> str:
        try:
            source = asset.data if isinstance(asset, Inline) else await self._downloads[job.provider].fetch(asset.url)
            name = await self._images.store_beside(job, own, number, source)
        except JobError as error:
            if error.code is Code.ECHOED_INPUT:
                return ""
            where = "" if isinstance(asset, Inline) else f" from {redacted(asset.url)}"
            return f"the answer had another picture, which could not be kept{where} ({error.message})"
        return "" if name is None else f"{FURTHER}{name}"


def _without(secrets: Collection[str], job: Job, body: bytes) -> bytes:
    return without_own(body.decode(errors="surrogateescape"), job, secrets).encode(errors="surrogateescape")


def addressed(request: HttpRequest, provider: Provider, base_url: str) -> HttpRequest:
    """Return the request as it may be sent with the provider's key.

    An answer may name any address for the next step. One that is neither the provider's own nor one that its API
    vouches for gets no key; so the same path is asked for below the provider's own address. The key of a proxy before
    an API stays at the proxy, as does what a provider asks of another host of its API. JobError `unsafe_url`: the
    address is none.
    """
    if not request.url.lower().startswith(("http://", "https://")):
        return request
    there, own = to_url(request.url), to_url(base_url)
    if there.origin() == own.origin() or (_vouched(there, provider) and _vouched(own, provider)):
        return request
    below = own.raw_path.rstrip("/")
    below = "" if there.raw_path.startswith(f"{below}/") else below
    return replace(request, url=f"{own.origin()}{below}{there.raw_path_qs}")


def _vouched(url: URL, provider: Provider) -> bool:
    return provider.may_have_key((url.raw_host or "").lower(), https=url.scheme == "https")
