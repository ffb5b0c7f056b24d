"""Admit requests as an API does, and do what every paid endpoint does before it answers.

The rate is a token bucket of `burst` requests that refills at `rate` a second; a refused request takes nothing. Faults
are given by the first rule of the script that matches the prompt and is not used up, otherwise by drawing each of
`faults` in the order written. Draws depend on seed, content and how often that content was asked, so that chance
repeats in every process. A fault that an API cannot show is passed over for it.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import re
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeVar

from aiohttp import web

from batchflux.simulator import replies
from batchflux.simulator.apis import DIALECTS, Asked, is_own, key_in, told
from batchflux.simulator.faults import CALLS, FAULTS
from batchflux.simulator.fetching import fetched, not_had
from batchflux.simulator.images import NoPictureError, NotAPictureError, recipe_for
from batchflux.simulator.replies import Chunks, Refusal, error_reply
from batchflux.simulator.requests import parse_request, upload_of
from batchflux.simulator.webhooks import Caller

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from batchflux.simulator.drawing import Recipe
    from batchflux.simulator.faults import Stage
    from batchflux.simulator.images import ReferenceCache
    from batchflux.simulator.journal import Journal
    from batchflux.simulator.options import SimulatorOptions
    from batchflux.simulator.replies import Api, Reply
    from batchflux.simulator.requests import ImageRequest

    Handler = Callable[[web.Request, ImageRequest, str], Awaitable[web.StreamResponse]]

T = TypeVar("T")
_UPLOADED = re.compile(r"/v1/files/uploads/([0-9a-f]{64})\.\w+\Z")
_KEY = re.compile(r"[\w.:-]+", re.ASCII)


def authorize(headers: Mapping[str, str], api: Api, keys: frozenset[str] | None) -> str:
    """Return the key of a request, "" without one, or raise Refusal: it is none of `keys`."""
    key = key_in(headers, api)
    if keys is None or (api in DIALECTS and DIALECTS[api].open):
        return key
    if api == "bfl" and not key:
        raise Refusal(replies.json_reply({"detail": "Not authenticated"}, 403))
    if api == "bfl" and not _KEY.fullmatch(key):
        raise Refusal(replies.MALFORMED_KEY)
    known = [hmac.compare_digest(key.encode(), accepted.encode()) for accepted in keys]
    if not any(known):
        raise Refusal(replies.plain_error("auth"))
    return key


async def _asked(http: web.Request) -> Asked:
    """Read a request whole; of a multipart body its parts."""
    path, query = http.match_info, http.query
    if http.content_type != "multipart/form-data":
        return Asked(raw=await http.read(), path=path, query=query)
    try:
        parts = [(name, await _part(value)) for name, value in (await http.post()).items()]
    except ValueError as error:
        raise replies.invalid("The body is not valid multipart/form-data.", None) from error
    return Asked(form=tuple(parts), path=path, query=query)


async def _part(value: str | bytes | bytearray | web.FileField) -> str | bytes:
    if isinstance(value, web.FileField):
        with value.file as file:
            return await asyncio.to_thread(file.read)
    return value if isinstance(value, str) else bytes(value)


def _own_answer(request: ImageRequest, turn: Turn) -> Reply | None:
    """Return what the API itself answers in the place of a good one, where a fault is its own."""
    fault = DIALECTS[request.api].faults.get(turn.of("instead")) if request.api in DIALECTS else None
    return None if fault is None else fault(request)


class Throttle:
    """Counts what is let in. `clock` gives seconds that never go back."""

    def __init__(self, options: SimulatorOptions, clock: Callable[[], float]) -> None:
        self._rate, self._concurrency, self._clock = options.rate, options.concurrency, clock
        self._size = float(options.burst) if options.burst is not None else max(1.0, options.rate or 1.0)
        self._tokens, self._at = self._size, clock()
        self.in_flight = 0

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Hold a place while a request is answered, or raise Refusal: 429, too many at once or too fast."""
        if self._concurrency is not None and self.in_flight >= self._concurrency:
            message = f"At most {self._concurrency} requests at once are allowed for this token."
            raise Refusal(error_reply(429, message, "new_api_error", "token_concurrency_limit_reached"))
        if self._rate is not None:
            self._refill(self._rate)
            if self._tokens < 1:
                raise Refusal(replies.rate_limited((1 - self._tokens) / self._rate, self.headers()))
            self._tokens -= 1
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def headers(self) -> dict[str, str]:
        """Return the x-ratelimit headers as things stand; none without a rate."""
        if self._rate is None:
            return {}
        self._refill(self._rate)
        return {
            "x-ratelimit-limit-requests": str(math.floor(self._size)),
            "x-ratelimit-remaining-requests": str(math.floor(self._tokens)),
            "x-ratelimit-reset-requests": f"{math.ceil((self._size - self._tokens) / self._rate * 1000)}ms",
        }

    def _refill(self, rate: float) -> None:
        now = self._clock()
        self._tokens = min(self._size, self._tokens + (now - self._at) * rate)
        self._at = now


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One request for a content: how many came before it, when it came, its latency in seconds, and its faults."""

    number: int
    at: int  # epoch second: whenever its answer is read, it says this
    latency: float
    faults: frozenset[str]  # of each stage one at most, of `form` any number
    chance: tuple[object, ...]  # what every further draw depends on

    def of(self, stage: Stage) -> str:
        """Return the fault of a stage, "" without one."""
        return next((name for name in self.faults if FAULTS[name].stage == stage), "")

    def draw(self, what: str) -> float:
        """Return this request's number in [0, 1) for `what`."""
        return fraction(what, *self.chance)

    def pick(self, what: str, choices: Sequence[T]) -> T:
        """Return one of `choices`, drawn for `what`."""
        return choices[int(self.draw(what) * len(choices))]

    def chunks(self, model: str) -> Chunks:
        """Return what makes the frames of the chat completion."""
        return Chunks(id=f"chatcmpl-{int(self.draw('id') * 16**12):012x}", created=self.at, model=model)


def _hits(options: SimulatorOptions, prompt: str, content: str, number: int, *, batches: bool = False) -> Iterator[str]:
    left = number
    for step in options.script:
        if step.match in prompt and (FAULTS[step.fault].stage == "batch") is batches:
            if step.times is None or left < step.times:
                yield step.fault
                return
            left -= step.times
    for rule in options.faults:
        in_time = rule.times is None or number < rule.times
        known = (FAULTS[rule.fault].stage == "batch") is batches
        if known and in_time and fraction(options.seed, rule.fault, content, number) < rule.rate:
            yield rule.fault


def fraction(*parts: object) -> float:
    """Return a number in [0, 1) that depends on `parts` and on nothing else."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()) / (1 << 64)


def between(low: float, high: float, *parts: object) -> float:
    """Return a number in [low, high) that depends on `parts` only."""
    return low + (high - low) * fraction(*parts)


class Endpoint:
    """What all endpoints of one simulator share; `closing` is set when it stops."""

    def __init__(self, options: SimulatorOptions, journal: Journal, cache: ReferenceCache) -> None:
        self.options, self.journal, self.cache = options, journal, cache
        self.throttle = Throttle(options, time.monotonic)
        self.closing = asyncio.Event()
        self.caller = Caller(journal)

    async def admit(self, http: web.Request, api: Api, answer: Handler, model: str = "") -> web.StreamResponse:
        """Return what `answer` gives for a request that is let in and its key, or the refusal."""
        self.journal.received += 1
        try:
            asked = await _asked(http)
            if api == "standard" and is_own(asked.raw):
                api = "openai"
            key = authorize(http.headers, api, self.options.keys)
            with self.throttle.admitted():
                return await answer(http, await asyncio.to_thread(self.validated, asked, api, model), key)
        except web.HTTPRequestEntityTooLarge:
            says = "The request is larger than 64 MB."
            reply = error_reply(413, says, "invalid_request_error", "request_too_large")
        except Refusal as refusal:
            reply = refusal.reply
        except NoPictureError:
            reply = error_reply(500, "An upload was dropped from the cache.", "server_error")
        return self.response(reply, api)

    def response(self, reply: Reply, api: Api) -> web.Response:
        """Return `reply` in the form of the API, and count it."""
        said = told(reply, api)
        self.journal.by_status[said.status] += 1
        return replies.whole(said, self.throttle.headers())

    async def cut(self, http: web.Request, reply: Reply) -> web.StreamResponse:
        """Send the first half of `reply` and close the connection, whose length promised the rest."""
        self.journal.by_status[reply.status] += 1
        headers = {**self.throttle.headers(), "Content-Type": reply.content_type}
        response = web.StreamResponse(status=reply.status, headers=headers)
        if reply.content_type == replies.JSON_TYPE:
            response.content_length = len(reply.body)
        await response.prepare(http)
        await response.write(reply.body[: len(reply.body) // 2])
        if http.transport is not None:
            http.transport.close()
        return response

    async def hang(self, http: web.Request) -> web.StreamResponse:
        """Answer nothing until the simulator closes."""
        await self.closing.wait()
        return replies.reset(http)

    def validated(self, asked: Asked, api: Api, model: str = "") -> ImageRequest:
        """Return the request in a body once its uploads are kept, or raise the Refusal of what is wrong."""
        parsed = DIALECTS[api].parse(asked) if api in DIALECTS else parse_request(api, asked.raw, model)
        request = self._uploaded(parsed)
        for upload in request.uploads:
            try:
                self.cache.keep(upload)
            except NotAPictureError as error:
                raise replies.invalid(f"{upload.place} is not a picture that can be decoded.", upload.place) from error
            except OSError as error:
                message = f"The simulator cannot keep an upload: {error.strerror}; free or change its cache_dir."
                raise Refusal(error_reply(500, message, "server_error")) from error
        return request

    def _uploaded(self, request: ImageRequest) -> ImageRequest:
        """Return the request with the pictures behind its links: those uploaded here before, or all, with `fetch`."""
        uploads, urls = [], []
        for url in request.urls:
            if (found := _UPLOADED.search(url)) is not None:
                try:
                    uploads.append(upload_of(self.cache.read(found[1], "orig"), "upload"))
                except NoPictureError as error:
                    raise not_had(url) from error
            elif self.options.fetch:
                uploads.append(fetched(url))
            else:
                urls.append(url)
        return replace(request, urls=tuple(urls), uploads=(*request.uploads, *uploads)) if uploads else request

    def turn(self, request: ImageRequest, without: frozenset[str] = frozenset()) -> Turn:
        """Count a request and choose its latency and faults: the first that replaces the answer stands alone.

        Faults `without` which it cannot be are passed over.
        """
        number = self.journal.asked.add(request.content)
        faults: dict[str, str] = {}
        for name in _hits(self.options, request.prompt, request.content, number):
            stage = FAULTS[name].stage
            if request.api in FAULTS[name].apis and name not in without:
                faults.setdefault(name if stage == "form" else stage, name)
        met = frozenset([faults["instead"]] if "instead" in faults else faults.values())
        self.journal.faults.update(met)
        chance = (self.options.seed, request.content, number)
        latency = between(*self.options.latency, "latency", *chance)
        return Turn(number=number, at=int(time.time()), latency=latency, faults=met, chance=chance)

    def batch_fault(self, api: Api, text: str, number: int) -> str:
        """Return the fault of a batch, "" without one: `text` is its first line, `number` how many came before it."""
        hits = _hits(self.options, text, f"{api} batch", number, batches=True)
        fault = next((name for name in hits if api in FAULTS[name].apis), "")
        self.journal.faults.update(filter(None, (fault,)))
        return fault

    def refusal(self, request: ImageRequest, turn: Turn) -> Reply | None:
        """Return what is answered in the place of a picture, where a fault says so."""
        return _own_answer(request, turn) or replies.error_answer(
            turn.of("instead"), request.api, turn.chunks(request.model), turn.draw("pick")
        )

    async def instead(self, http: web.Request, request: ImageRequest, turn: Turn) -> web.StreamResponse | None:
        """Return the answer of the fault by which nothing is made; None when there is no such fault."""
        if "hang" in turn.faults:
            return await self.hang(http)
        error = self.refusal(request, turn)
        if error is not None and request.api in CALLS:
            await self.pause(turn.latency)
        return None if error is None else self.response(error, request.api)

    async def recipe(self, request: ImageRequest, turn: Turn) -> Recipe:
        """Return the recipe of the picture; when it is to echo an upload, the upload's own bytes are kept."""
        fault = turn.of("link")
        if fault == "echoed_input" and request.inline and not request.uploads:
            fault = ""  # what stands behind a URL cannot come in the answer
        recipe = recipe_for(request, self.options, fault, turn.number)
        if recipe.fault == "echoed_input" and request.uploads and (request.inline or not request.urls):
            await asyncio.to_thread(self.cache.keep, request.uploads[0], "orig")
        return recipe

    async def pause(self, seconds: float) -> None:
        """Wait, unless the simulator closes."""
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.closing.wait(), seconds)
