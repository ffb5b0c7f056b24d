"""The server that APIs call: it is there as long as the run is, and answers each call at once.

Who does not know a hook's path gets 404, whatever else is sent; nothing of such a request is read. The answers:

200: verified; 400: cut off; 401: not signed by the API; 404: no such path; 405: no POST; 408: the body came too slowly;
413: it is too large; 503: the keys that it is verified by cannot be had now. Nothing is redirected: APIs do not follow.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from aiohttp import web

from batchflux.models import SigningKeys
from batchflux.transport.serving import hang_up, listen_at, logger_of, next_connection
from batchflux.webhooks.api import Call, WrongSignatureError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from batchflux.models import HttpRequest, Reply
    from batchflux.webhooks.wakes import Hook, Wakes

MAX_BODY = 4 << 20  # bytes; a call of Replicate holds the input, with photos as data URLs
MOST_CONNECTIONS = 64
BODY_SECONDS = 10.0  # that a body may take
HEAD_SECONDS = 20.0  # that a connection may take to its first request's end, or rest between two
KEYS_HOLD = 24 * 3600.0  # seconds that keys are believed
KEYS_REST, KEYS_AWAY = 300.0, 30.0  # seconds between two questions for keys, whatever calls come; while there are none
KEYS_SECONDS = 10.0  # that a question may take; a call waits for it
_PATIENCE, _LINGER = 2.0, 1.0  # seconds that answers under way have when it stops, and that what is not read is drained
_REMEDIES = (
    "write an address of this machine under webhooks.listen, as 127.0.0.1:8788",
    "write another under webhooks.listen, and lead webhooks.public_url there",
)


class _Known(NamedTuple):
    """The keys of a hook, when they came, and when they were last asked for; None: there are none to believe."""

    keys: tuple[str, ...] | None = None
    at: float = -math.inf
    asked: float = -math.inf


class Keys:
    """The keys by which calls are verified, asked for when a call comes, and again now and then.

    `ask` performs a request for them as each of a provider's API keys, which may be of several accounts, and yields
    what it is answered.
    """

    def __init__(self, ask: Callable[[Hook, HttpRequest], AsyncIterator[Reply]]) -> None:
        self._ask = ask
        self._clock = asyncio.get_running_loop().time
        self._known: dict[Hook, _Known] = {}
        self._asking: dict[Hook, asyncio.Lock] = {}

    async def of(self, hook: Hook, *, but: tuple[str, ...] | None = None) -> tuple[str, ...] | None:
        """Return a hook's keys, other ones than `but` where those are not right; None: they cannot be had now."""
        request = hook.api.keys()
        if request is None:
            return (hook.secret,)
        async with self._asking.setdefault(hook, asyncio.Lock()):
            known, now = self._known.get(hook, _Known()), self._clock()
            if now - known.at >= KEYS_HOLD:
                known = known._replace(keys=None)
            if known.keys in (None, but) and now - known.asked >= (KEYS_AWAY if known.keys is None else KEYS_REST):
                found = await self._asked(hook, request)
                known = _Known(found, now, now) if found else known._replace(asked=now)
            self._known[hook] = known
            return known.keys

    async def _asked(self, hook: Hook, request: HttpRequest) -> tuple[str, ...]:
        """Ask for keys; there are none where nobody answers in time."""
        found: dict[str, None] = {}
        with suppress(TimeoutError):
            async with asyncio.timeout(KEYS_SECONDS):
                async for reply in self._ask(hook, request):
                    found |= dict.fromkeys(reply.keys if isinstance(reply, SigningKeys) else ())
        return tuple(found)


class Receiver:
    """Takes the calls for `wakes` while it is entered; `answers` counts them by status.

    Raises UsageError, as it is entered, when `host` and `port` cannot be listened at.
    """

    def __init__(self, wakes: Wakes, host: str, port: int, keys: Keys, now: Callable[[], float] = time.time) -> None:
        self.answers: Counter[int] = Counter()
        self._wakes, self._where, self._keys, self._now = wakes, (host, port), keys, now

    async def __aenter__(self) -> Self:
        listener = await asyncio.to_thread(listen_at, *self._where, _REMEDIES)
        options: dict[str, Any] = {"keepalive_timeout": HEAD_SECONDS, "lingering_time": _LINGER}
        served = web.Server(self._answered, access_log=None, logger=logger_of("batchflux.webhooks"), **options)
        self._runner = web.ServerRunner(served, shutdown_timeout=_PATIENCE)
        await self._runner.setup()
        self._listening = await asyncio.get_running_loop().create_server(
            lambda: next_connection(served, MOST_CONNECTIONS), sock=listener.socket
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await hang_up(self._listening)
        await self._runner.cleanup()

    async def _answered(self, request: web.BaseRequest) -> web.StreamResponse:
        status = await self._status(request)
        self.answers[status] += 1
        not_allowed = status == web.HTTPMethodNotAllowed.status_code
        return web.Response(status=status, headers={"Allow": "POST"} if not_allowed else {})

    async def _status(self, request: web.BaseRequest) -> int:
        hook = self._hook_at(request.path)
        if hook is None:
            return web.HTTPNotFound.status_code
        if request.method != "POST":
            return web.HTTPMethodNotAllowed.status_code
        try:
            body = await _body(request)
        except TimeoutError:
            return web.HTTPRequestTimeout.status_code
        except (web.RequestPayloadError, OSError):  # cut off, or garbled
            return web.HTTPBadRequest.status_code
        if body is None:
            return web.HTTPRequestEntityTooLarge.status_code
        headers = {name.lower(): value for name, value in request.headers.items()}
        return await self._taken(hook, Call(headers=headers, body=body, at=self._now()))

    def _hook_at(self, path: str) -> Hook | None:
        """Return whose path it is; a proxy before us may have put anything in front of it."""
        last = path.rpartition("/")[2].encode(errors="surrogatepass")
        found = [hook for hook in self._wakes.hooks.values() if hmac.compare_digest(hook.path.encode(), last)]
        return next(iter(found), None)

    async def _taken(self, hook: Hook, call: Call) -> int:
        """Verify a call and pass it on; return what it is answered."""
        keys = await self._keys.of(hook)
        if keys is None:
            return web.HTTPServiceUnavailable.status_code
        if not _verified(hook, call, keys):
            newer = await self._keys.of(hook, but=keys)
            if newer in (None, keys) or not _verified(hook, call, newer or ()):
                return web.HTTPUnauthorized.status_code
        self._wakes.called(hook, *hook.api.tasks(call))
        return web.HTTPOk.status_code


def _verified(hook: Hook, call: Call, keys: tuple[str, ...]) -> bool:
    try:
        hook.api.verify(call, keys)
    except WrongSignatureError:
        return False
    return True


async def _body(request: web.BaseRequest) -> bytes | None:
    """Return a request's body; None: it is too large. TimeoutError: it came too slowly."""
    if (request.content_length or 0) > MAX_BODY:
        return None
    body = bytearray()
    async with asyncio.timeout(BODY_SECONDS):
        async for data in request.content.iter_any():
            body += data
            if len(body) > MAX_BODY:
                return None
    return bytes(body)
