"""Admit requests as an API does, and do what every paid endpoint does before it answers.

A request is admitted by its key, by rate, by how many are in flight, and by how many tasks of its key are unfinished.
The rate is a token bucket: it holds `burst` requests and refills at `rate` a second. A refused request takes nothing.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import re
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web

from batchflux.simulator.faults import ChosenFaults, FaultPlan, between, fraction
from batchflux.simulator.images import ReferenceGoneError
from batchflux.simulator.references import NotAPictureError
from batchflux.simulator.replies import (
    Refusal,
    Reply,
    as_detail,
    detail_reply,
    error_answer,
    error_reply,
    invalid,
    malformed_key,
    rate_limited,
    unauthorized,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from batchflux.simulator.images import ImageStore
    from batchflux.simulator.journal import Journal
    from batchflux.simulator.options import SimulatorOptions
    from batchflux.simulator.replies import Api, Chunks
    from batchflux.simulator.requests import ImageRequest

_LARGE_BODY = 32_768
BFL_ACTIVE_TASKS = 24
_KEY = re.compile(r"[\w.:-]+", re.ASCII)


def authorize(headers: Mapping[str, str], api: Api, keys: frozenset[str] | None) -> str:
    """Return the API key that a request carries: `x-key` at BFL, a bearer token elsewhere; "" without one.

    Raises:
        Refusal: keys are asked for and this is none of them.
    """
    kind, _, token = headers.get("Authorization", "").partition(" ")
    key = headers.get("x-key", "") if api == "bfl" else token if kind.lower() == "bearer" else ""
    if keys is None:
        return key
    if api == "bfl" and not key:
        raise Refusal(detail_reply(403, "Not authenticated"))
    if api == "bfl" and not _KEY.fullmatch(key):
        raise Refusal(malformed_key())
    known = [hmac.compare_digest(key.encode(), accepted.encode()) for accepted in keys]
    if not any(known):
        raise Refusal(unauthorized())
    return key


def check_active_tasks(active: int, limit: int | None, api: Api) -> None:
    """Check how many tasks of one account are unfinished.

    Raises:
        Refusal: 429, one more would be too many.
    """
    most = BFL_ACTIVE_TASKS if limit is None and api == "bfl" else limit
    if most is not None and active >= most:
        message = f"Active tasks limit exceeded: at most {most} unfinished tasks are allowed."
        raise Refusal(error_reply(429, message, "requests", code="active_tasks_limit"))


class Throttle:
    """Counts what is let in. `clock` gives seconds that never go back."""

    def __init__(
        self, *, rate: float | None, burst: int | None, concurrency: int | None, clock: Callable[[], float]
    ) -> None:
        self._rate = rate
        self._size = float(burst) if burst is not None else max(1.0, rate or 1.0)
        self._concurrency = concurrency
        self._clock = clock
        self._tokens = self._size
        self._at = clock()
        self.in_flight = 0

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Hold a place while a request is answered.

        Raises:
            Refusal: 429, too many at once or too fast.
        """
        if self._concurrency is not None and self.in_flight >= self._concurrency:
            message = f"At most {self._concurrency} requests at once are allowed for this token."
            reply = error_reply(429, message, "new_api_error", code="token_concurrency_limit_reached")
            raise Refusal(reply)
        self._take()
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def headers(self) -> dict[str, str]:
        """Return the x-ratelimit headers as things stand; none without a rate."""
        if self._rate is None:
            return {}
        self._refill()
        return {
            "x-ratelimit-limit-requests": str(math.floor(self._size)),
            "x-ratelimit-remaining-requests": str(math.floor(self._tokens)),
            "x-ratelimit-reset-requests": f"{math.ceil((self._size - self._tokens) / self._rate * 1000)}ms",
        }

    def _refill(self) -> None:
        now = self._clock()
        self._tokens = min(self._size, self._tokens + (now - self._at) * (self._rate or 0))
        self._at = now

    def _take(self) -> None:
        if self._rate is None:
            return
        self._refill()
        if self._tokens >= 1:
            self._tokens -= 1
            return
        raise Refusal(rate_limited((1 - self._tokens) / self._rate, self.headers()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One request for a content: how many came before it, its faults, and its latency in seconds.

    `chance` is what every further draw for this request depends on.
    """

    number: int
    faults: ChosenFaults
    latency: float
    chance: tuple[object, ...]

    def error_answer(self, api: Api, chunks: Chunks) -> Reply | None:
        """Return the answer of the fault that comes in place of a good one, if there is such a fault."""
        return error_answer(self.faults.instead or "", api, chunks, fraction("pick", *self.chance))


class Endpoint:
    """What all endpoints of one simulator share; `closing` is set when it stops."""

    def __init__(self, options: SimulatorOptions, journal: Journal, throttle: Throttle, images: ImageStore) -> None:
        self.options = options
        self.journal = journal
        self.throttle = throttle
        self.images = images
        self.closing = asyncio.Event()
        self._plan = FaultPlan(seed=options.seed, rules=options.faults, script=options.script)

    async def admit(
        self, http: web.Request, api: Api, answer: Callable[[bytes, str], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Return what `answer` gives for the body and the key of a request that is let in, or the refusal."""
        self.journal.received += 1
        try:
            raw = await http.read()
            key = authorize(http.headers, api, self.options.keys)
            with self.throttle.admitted():
                return await answer(raw, key)
        except web.HTTPRequestEntityTooLarge:
            message = "The request is larger than 64 MB."
            reply = error_reply(413, message, "invalid_request_error", code="request_too_large")
        except Refusal as refusal:
            reply = refusal.reply
        except ReferenceGoneError:
            reply = error_reply(500, "An upload was dropped from the cache.", "server_error")
        return self.response(reply, api)

    def response(self, reply: Reply, api: Api) -> web.Response:
        """Return `reply` in the form of the API, and count it."""
        told = as_detail(reply) if api == "bfl" else reply
        self.journal.by_status[told.status] += 1
        return whole(told, self.throttle.headers())

    async def validated(self, raw: bytes, parse: Callable[[bytes], ImageRequest]) -> ImageRequest:
        """Return the request in a body, once its uploads are kept.

        Raises:
            Refusal: the body or a picture in it is wrong, or the cache folder cannot be written.
        """
        request = parse(raw) if len(raw) < _LARGE_BODY else await self.images.off_loop(partial(parse, raw))
        for upload in request.uploads:
            try:
                await self.images.off_loop(partial(self.images.references.keep, upload))
            except NotAPictureError as error:
                raise invalid(f"{upload.place} is not a picture that can be decoded.", upload.place) from error
            except OSError as error:
                message = f"The simulator cannot keep an upload: {error.strerror}; free or change its cache_dir."
                raise Refusal(error_reply(500, message, "server_error")) from error
        return request

    def turn(self, request: ImageRequest) -> Turn:
        """Count a request and choose its faults and latency."""
        number = self.journal.ask(request.content)
        faults = self._plan.choose(request, number)
        self.journal.faults.update(faults.names)
        chance = (self.options.seed, request.content, number)
        return Turn(
            number=number,
            faults=faults,
            latency=between(*self.options.latency, "latency", *chance),
            chance=chance,
        )

    async def pause(self, seconds: float) -> None:
        """Wait, unless the simulator closes."""
        if seconds <= 0:
            return
        try:
            await asyncio.wait_for(self.closing.wait(), seconds)
        except TimeoutError:
            return
