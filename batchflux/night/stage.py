"""The world of a rehearsed night behind the engine's ports: nothing is sent, and nothing is written.

A task is rehearsed as one call that takes as long as the task did, for it holds its slot just so long.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from batchflux.errors import Code, JobError
from batchflux.ledger.tables import currency
from batchflux.models import (
    Collected,
    Cost,
    Exchanged,
    Finished,
    HttpRequest,
    Json,
    Link,
    Listed,
    Stored,
    Uploaded,
)
from batchflux.night.weather import REFUSAL_SECONDS
from batchflux.providers import Provider

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence

    from batchflux.capabilities import Capabilities
    from batchflux.ledger.batches import Batch, Closing, Freed
    from batchflux.ledger.reconcile import Work
    from batchflux.models import Inline, Job, Leaving, Outcome, Received, Reference
    from batchflux.night.learned import Writing
    from batchflux.night.weather import Sky, Turnstile
    from batchflux.providers.base import Lost
    from batchflux.transport import CallTimes
    from batchflux.transport.lines import Lines

NOWHERE = "https://rehearsal.invalid/"  # a name that is nobody's (RFC 2606); nothing is ever fetched from it
_POLLED, _ASKED, _PUT = "poll", "list", "put"


class Rehearsed(Provider):
    """A provider whose requests say no more than whom they ask; what it can carry is as its `real` one says."""

    def __init__(self, real: Provider) -> None:
        self._real = real
        self.api, self.style = real.api, real.style  # type: ignore[misc]  # those of another class, as it is wrapped

    def capabilities(self, model: str) -> Capabilities:
        """Return what the real one can carry, but that nobody can tell what became of a lost request in the night."""
        return replace(self._real.capabilities(model), finds_lost=False)

    def takes_links(self, job: Job) -> bool:
        """As the real one."""
        return self._real.takes_links(job)

    def submit(self, job: Job, attempt: int) -> HttpRequest:
        """Return a request that names model and style."""
        said = Json(value={"model": job.model, "style": job.style})
        return HttpRequest(method="POST", url="", content=said, reader=_unread)

    def poll(self, job: Job, handle: str) -> HttpRequest:
        """Return a poll, of a task that an earlier run left."""
        return HttpRequest(method="GET", url=_POLLED, reader=_unread, repeatable=True)

    def recover(self, job: Job, lost: Lost) -> HttpRequest:
        """Return the question what became of a request that an earlier run lost."""
        return HttpRequest(method="GET", url=_ASKED, reader=_unread, repeatable=True)

    def upload(self, image: Reference) -> HttpRequest | None:
        """Return a request where the real one uploads."""
        if self._real.upload(image) is None:
            return None
        return HttpRequest(method="PUT", url=_PUT, reader=_unread, repeatable=True)


def _unread(_status: int, _headers: Mapping[str, str]) -> Any:
    raise RuntimeError("a rehearsal answers with replies, not with bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One provider in one night: its sky, and how long its calls may take."""

    sky: Sky
    times: CallTimes


class Stage:
    """An Executor whose answers come from the skies of providers, by their names in the manifest.

    The secret of a key is its name here.
    """

    def __init__(self, places: Mapping[str, Place]) -> None:
        self._places = places

    async def exchange(
        self,
        request: HttpRequest,
        *,
        provider: Provider,
        secret: str | None,
        at: tuple[str, str],
        on_sent: Callable[[], None] | None = None,
    ) -> Exchanged:
        """Let a call take its time, and end as it is drawn; free steps take none. JobError: it failed."""
        if request.repeatable:
            return Exchanged(reply=_free(request.url), seconds=0.0)
        if on_sent is not None:
            on_sent()
        place = self._places[at[0]]
        async with _let_in(place.sky, secret or "") as turnstiles:
            made = await _made(request, place)
            pauses = [pause for turnstile in turnstiles if (pause := turnstile.pause()) is not None]
            return replace(made, pause=max(pauses)) if pauses else made

    def lines(
        self, request: HttpRequest, *, provider: Provider, secret: str | None, at: tuple[str, str]
    ) -> AsyncGenerator[bytes]:
        """No batch is rehearsed."""
        raise RuntimeError("a rehearsal has no batches")

    async def write_lines(self, name: str, lines: Iterable[tuple[str, Json]]) -> Lines:
        """No batch is rehearsed."""
        raise RuntimeError("a rehearsal has no batches")

    async def drop_lines(self, name: str) -> None:
        """There are none."""

    async def keep(self, job: Job, picture: Inline) -> str:
        """Return a name; nothing is kept."""
        return job.file_name

    async def keep_answer(self, job: Job, attempt: int, body: bytes) -> str:
        """Return a name; nothing is kept."""
        return job.file_name

    async def collect(self, job: Job, asset: Link | str, attempt: int) -> Collected:
        """Let a download take its time, and end as it is drawn. JobError: there is no picture."""
        if isinstance(asset, str):
            return Collected(stored=_stored(job))
        fetch = self._places[job.provider].sky.fetch()
        await asyncio.sleep(fetch.seconds)
        if fetch.code is not None:
            raise JobError(fetch.code, "as it was seen before", final=True)
        return Collected(stored=_stored(job), seconds=fetch.seconds)

    async def beside(self, job: Job, own: Stored | None, more: Sequence[Link | Inline]) -> str:
        """Say nothing: what comes beside a picture is not rehearsed."""
        return ""


class _let_in:  # noqa: N801  as contextlib's own
    """Holds the places of a request that is let in; raises JobError when it is refused."""

    def __init__(self, sky: Sky, key: str) -> None:
        self._sky, self._turnstiles = sky, sky.turnstiles(key)
        self._inside = 0

    async def __aenter__(self) -> Sequence[Turnstile]:
        for turnstile in self._turnstiles:
            if (refusal := turnstile.refusal()) is not None:
                self._sky.refused += 1
                await self.__aexit__()
                await asyncio.sleep(REFUSAL_SECONDS)
                raise refusal
            self._inside += 1
        return self._turnstiles

    async def __aexit__(self, *_: object) -> None:
        for turnstile in self._turnstiles[: self._inside]:
            turnstile.leave()


def _free(url: str) -> Finished | Listed | Uploaded:
    if url == _PUT:
        return Uploaded(url=NOWHERE)
    return Listed(handles=()) if url == _ASKED else Finished(asset=Link(url=NOWHERE))


async def _made(request: HttpRequest, place: Place) -> Exchanged:
    said = request.content.value if isinstance(request.content, Json) else {}
    call = place.sky.call(said["model"], said["style"])
    if call.seconds > place.times.longest:
        await asyncio.sleep(place.times.longest)
        raise JobError(Code.UNKNOWN, "no answer came within limits.timeout")
    await asyncio.sleep(call.seconds)
    if call.code is not None:
        error = JobError(call.code, "as it was seen before", billed=call.billed)
        error.amount = None if call.cost is None else currency(call.cost)
        raise error
    cost = None if call.cost is None else Cost(amount=currency(call.cost))
    return Exchanged(reply=Finished(asset=Link(url=NOWHERE), cost=cost), seconds=call.seconds)


def _stored(job: Job) -> Stored:
    return Stored(file_name=job.file_name, width=1, height=1, bytes=1, sha256="")


class Record:
    """A Ledger that keeps nothing but counts: of what may have been billed, and of attempts.

    What has to be on record before the engine goes on takes its time, as `writing` says.
    """

    def __init__(self, writing: Writing) -> None:
        self._writing = writing
        self._uploads: dict[tuple[str, str], str] = {}
        self.attempts = self.possibly_billed = 0

    async def authorize(self, job: Job, leaving: Leaving) -> int:
        """Return the next number."""
        self.attempts += 1
        number = self.attempts
        await asyncio.sleep(self._writing.before)
        return number

    async def submitted(self, attempt: int, handle: str, cost: int | None) -> None:
        """Take the time of a record."""
        await asyncio.sleep(self._writing.after)

    async def captured(self, attempt: int, received: Received) -> None:
        """Take the time of a record."""
        await asyncio.sleep(self._writing.after)

    async def further(self, job: Job) -> list[str]:
        """Return none: each answer has one picture here."""
        return []

    async def handles_near(self, attempt: int, seconds: float) -> list[str]:
        """Return none: no task has a handle here."""
        return []

    async def found(self, attempt: int, received: Received) -> int:
        """Return the number that it has."""
        return attempt

    async def voided(self, attempt: int, *, unanswered: bool) -> None:
        """Count it no more."""
        self.attempts -= 1

    async def failed(self, attempt: int, error: JobError, **_more: Any) -> None:
        """Count what may have been billed."""
        self.possibly_billed += error.billed
        await asyncio.sleep(self._writing.after)

    async def finish(self, job: Job, outcome: Outcome) -> None:
        """Take no time: nobody waits for it."""

    async def upload_of(self, provider: str, sha256: str, now: float) -> str | None:
        """Return where a reference was put in this night."""
        return self._uploads.get((provider, sha256))

    async def uploaded(self, provider: str, sha256: str, url: str, expires: float | None) -> None:
        """Remember it for this night."""
        self._uploads[provider, sha256] = url


class NoBatches:
    """A BatchLedger of a night without batches."""

    async def open(self) -> list[Batch]:
        """Return none."""
        return []

    async def jobs(self, number: int) -> frozenset[str]:
        """Return none."""
        return frozenset()

    async def has(self, attempt: int) -> bool:
        """No attempt is one of a batch."""
        return False

    async def authorize(self, name: str, kind: str, sent: Sequence[tuple[Job, Leaving]]) -> list[int]:
        """No batch is rehearsed."""
        raise RuntimeError("a rehearsal has no batches")

    async def leaves(self, number: int, at: float) -> None:
        """No batch is rehearsed."""
        raise RuntimeError("a rehearsal has no batches")

    async def recorded(self, number: int, handle: str) -> None:
        """No batch is rehearsed."""
        raise RuntimeError("a rehearsal has no batches")

    async def closed(self, number: int, closing: Closing) -> Freed:
        """No batch is rehearsed."""
        raise RuntimeError("a rehearsal has no batches")


class Works:
    """A Source that gives work in the order in which it is listed."""

    def __init__(self, works: Sequence[Work]) -> None:
        self._left = iter(works)

    async def take(self) -> Work | None:
        """Return the next job to work on, None when there is no more."""
        return next(self._left, None)
