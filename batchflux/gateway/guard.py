"""Who is let in, and with how much: whose key a request has, that its body is bounded, and what every answer says.

With client keys a request is let in for its key, which no page of somebody else's knows, whatever Host or Origin say.
Without them whoever reaches the port is `local`. It listens on loopback then, but any page in a browser of this machine
reaches that too. So Host must be ours (a name made to point here, DNS rebinding, is not), and what a browser says of
where a request comes from (Sec-Fetch-Site, Origin) must be this server, or a site that the user allowed. A form of
another site, which a browser sends without asking, says so. What says that it came through a proxy or a tunnel may come
from anywhere.

Pictures need no key: who has the name of one, which nobody guesses, was given it. `/health` says ok, or why
not, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from contextlib import contextmanager
from traceback import extract_tb
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

from batchflux.errors import UsageError, quoted
from batchflux.gateway.answering.send import refused
from batchflux.gateway.clients import LOCAL, Client, ClientKeys
from batchflux.gateway.orders import RefusalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from aiohttp.typedefs import Handler

CLIENT = web.RequestKey("client", Client)
"""Whose a request is, once it is let in."""

_BODY = web.RequestKey("body", bytes)
MAX_BODY = 64 << 20  # bytes
MOST_HELD = 512 << 20  # bytes of all bodies that are being answered
MOST_OF_ONE = 256 << 20  # of them, of one client
BODY_SECONDS = 120.0  # that a body may take
HEALTH, IMAGES, METRICS = "/health", "/images/", "/metrics"
MOST_VALUES = 200_000  # of a JSON body: each of them takes 30 times its bytes in memory
_VALUES = (b",", b"[", b"{")  # none of which is in base64
JSON = "application/json"
_BODIES = frozenset({JSON, "multipart/form-data"})
_OWN_SITES = frozenset({"same-origin", "none"})  # none: typed, pasted or opened by a program
_PROXIED = ("X-Forwarded-For", "Forwarded", "X-Real-IP", "CF-Connecting-IP")  # what proxies and tunnels say of others
_HOST = re.compile(r"[a-z0-9.-]+|[0-9a-f:.]+", re.ASCII)
_ASKED_HEADERS = re.compile(r"[A-Za-z0-9_, -]{1,2000}", re.ASCII)
_PREFLIGHT_SECONDS = "600"
_TOLD = ("jobs", "cost", "currency", "joined", "size", "dropped", "missing", "further", "reference")
_TOLD_HEADERS = ", ".join((*(f"x-batchflux-{name}" for name in _TOLD), "retry-after"))
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
_SAID = {  # of aiohttp's own refusals → code and sentence
    404: (
        "unknown_url",
        "There is nothing at this address: base URLs end in /v1, and /v1/models lists the models.",
    ),
    405: ("method_not_allowed", "This address takes another method; base URLs end in /v1."),
    413: ("request_too_large", f"The body is larger than {MAX_BODY >> 20} MB: send fewer or smaller pictures."),
}
_BEGUN = web.RequestKey("begun", bool)
_OF_OURS = {  # a fault of ours, by the method
    "GET": RefusalError(500, "internal_error", "The gateway failed by a fault of its own.", kind="server_error"),
    "POST": RefusalError(
        400,
        "unknown_outcome",
        "The gateway failed by a fault of its own: what it bought is on record; do not send the same again.",
    ),
}
_LOGGER = logging.getLogger("batchflux.gateway")


def origins_of(texts: Iterable[str]) -> frozenset[str]:
    """Read sites that may use the gateway from a browser. UsageError: one is no site, or would be any."""
    return frozenset(map(_origin, texts))


def _origin(text: str) -> str:
    try:
        parts = urlsplit(text.strip().lower().removesuffix("/"))
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    named = f"[{host}]" if host and ":" in host else host
    origin = f"{parts.scheme}://{named}{'' if port is None else f':{port}'}"
    sound = host and _HOST.fullmatch(host) and origin == parts.geturl()
    if not sound or parts.scheme not in {"http", "https"}:
        example = "http://localhost:3000 or https://chat.example.com, without a path"
        raise UsageError(f"--allow-origin {quoted(text)} is no site; name one as browsers do: {example}.")
    return origin.removesuffix({"http": ":80", "https": ":443"}[parts.scheme])


class Guard:
    """Decides about requests, by client keys, or without them by `hosts`: our Host headers on loopback.

    `origins` are sites that browsers may use the gateway from.
    """

    def __init__(
        self, keys: ClientKeys | None, hosts: frozenset[str] = frozenset(), origins: frozenset[str] = frozenset()
    ) -> None:
        self._keys, self._hosts, self._origins = keys, hosts, origins
        self._held: Counter[str] = Counter()

    def app(self) -> web.Application:
        """Return an application without routes yet, whose requests and answers pass here."""
        made = web.Application(middlewares=[explain, self.admit])
        made.on_response_prepare.append(self._wrap_up)
        return made

    @web.middleware
    async def admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let a request pass, as a client's and with its body read; RefusalError says why not."""
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            return self._preflight(request)
        if request.path == HEALTH or request.path.startswith(IMAGES):
            return await handler(request)
        request[CLIENT] = self._client(request) if self._keys is None else _whose(request, self._keys)
        if request.path == METRICS and not request[CLIENT].metrics:
            raise RefusalError(403, "no_metrics", "This client may not read metrics: its entry needs metrics: true.")
        if request.match_info.http_exception is not None or not request.body_exists:
            return await handler(request)
        with self._room(request[CLIENT].name) as take:
            request[_BODY] = await _read(request, take)
            return await handler(request)

    def _client(self, request: web.Request) -> Client:
        """Return who calls on loopback without keys: the person at this machine, or a program of theirs."""
        host = request.headers.get("Host", "").lower()
        if host not in self._hosts:
            raise RefusalError(403, "unknown_host", "This server does not go by that name; client keys let it by any.")
        if (proxy := next(filter(request.headers.__contains__, _PROXIED), None)) is not None:
            message = f"This came through a proxy ({proxy}), from whoever reaches that: let clients have --client-keys."
            raise RefusalError(403, "proxied", message)
        origin = request.headers.get("Origin")
        elsewhere = request.headers.get("Sec-Fetch-Site", "none") not in _OWN_SITES
        if origin not in self._origins and (elsewhere or origin not in {None, f"http://{host}"}):
            remedy = "allow the site with --allow-origin, or give its client a key with --client-keys"
            raise RefusalError(403, "other_site", f"Requests of other sites' pages are not answered: {remedy}.")
        return LOCAL

    def _preflight(self, request: web.Request) -> web.Response:
        """Answer a browser's question whether a page may call."""
        if request.headers.get("Origin") not in self._origins:
            raise RefusalError(403, "other_site", "Pages of this site may not call: allow it with --allow-origin.")
        asked = request.headers.get("Access-Control-Request-Headers", "")
        headers = {"Access-Control-Allow-Methods": "GET, POST", "Access-Control-Max-Age": _PREFLIGHT_SECONDS}
        if _ASKED_HEADERS.fullmatch(asked):
            headers["Access-Control-Allow-Headers"] = asked
        if request.headers.get("Access-Control-Request-Private-Network") == "true":
            headers["Access-Control-Allow-Private-Network"] = "true"
        return web.Response(status=204, headers=headers)

    @contextmanager
    def _room(self, client: str) -> Iterator[Callable[[int], None]]:
        """Give what counts a client's body as it comes, until its request is answered; RefusalError: it is too much."""
        held = 0

        def take(size: int) -> None:
            nonlocal held
            if self._held.total() + size > MOST_HELD or self._held[client] + size > MOST_OF_ONE:
                message = "Too many large requests are under way; nothing was bought, ask again."
                raise RefusalError(503, "overloaded", message, kind="server_error", retry_after=2.0)
            held += size
            self._held[client] += size

        try:
            yield take
        finally:
            self._held[client] -= held
            self._held += Counter()  # of who holds none nothing stays

    async def _wrap_up(self, request: web.Request, response: web.StreamResponse) -> None:
        """Put on every answer what keeps browsers from doing more with it, and lets allowed sites read it."""
        request[_BEGUN] = True
        headers = response.headers
        headers.update(_HEADERS)
        pictures = request.path.startswith(IMAGES)
        headers.setdefault("Cross-Origin-Resource-Policy", "cross-origin" if pictures else "same-origin")
        headers.setdefault("Cache-Control", "no-store")
        headers.popall("Server", None)
        if response.status == web.HTTPUnauthorized.status_code:
            headers["WWW-Authenticate"] = 'Bearer realm="batchflux"'
        if self._origins:
            headers.add("Vary", "Origin")
        origin = request.headers.get("Origin")
        if origin in self._origins:
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = _TOLD_HEADERS


def body_of(request: web.Request) -> bytes:
    """Return what came with a request that was let in; the guard has read all of it."""
    body: bytes = request.get(_BODY, b"")
    return body


def _whose(request: web.Request, keys: ClientKeys) -> Client:
    """Return whose key a request has: as a bearer token, or as x-api-key, which some shells send."""
    kind, _, bearer = request.headers.get("Authorization", "").strip().partition(" ")
    key = bearer.strip() if kind.lower() == "bearer" else request.headers.get("x-api-key", "").strip()
    client = keys.find(key) if key else None
    if client is None:
        wrong = "This key is none of this server's" if key else "This server needs a key, as Authorization: Bearer KEY"
        raise RefusalError(401, "invalid_api_key", f"{wrong}; who runs it makes one by batchflux gateway-key.")
    return client


async def _read(request: web.Request, take: Callable[[int], None]) -> bytes:
    """Return a body; RefusalError: it is of no kind that is taken, too large, slow or cut off."""
    if request.content_type not in _BODIES:
        sent = quoted(request.headers.get("Content-Type", ""))
        message = f"found Content-Type {sent}; allowed is application/json, and multipart/form-data for edits."
        raise RefusalError(415, "unsupported_media_type", message)
    if (request.content_length or 0) > MAX_BODY:
        raise _too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for data in request.content.iter_any():
                take(len(data))
                body += data
                if len(body) > MAX_BODY:
                    raise _too_large()
    except TimeoutError:
        raise RefusalError(408, "request_too_slow", f"The body took longer than {BODY_SECONDS:g} s.") from None
    except (web.RequestPayloadError, OSError):
        raise RefusalError(400, "broken_body", "The body was cut off, or is garbled.") from None
    if request.content_type == JSON and sum(map(body.count, _VALUES)) > MOST_VALUES:
        message = f"The body has more than {MOST_VALUES:,} values: pictures go in as base64, and prompts as one text."
        raise RefusalError(400, "too_many_values", message)
    return bytes(body)


def _too_large() -> RefusalError:
    return _of_aiohttp(web.HTTPRequestEntityTooLarge(MAX_BODY))


@web.middleware
async def explain(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer whatever is refused in OpenAI's shape.

    What fails by a fault of ours is logged without words of the request. Where that may have bought something, it is no
    5xx, by which clients send the same again.
    """
    try:
        return await handler(request)
    except RefusalError as error:
        return refused(error)
    except web.HTTPException as error:
        if error.status < web.HTTPBadRequest.status_code:
            raise
        answer = refused(_of_aiohttp(error))
        answer.headers.update({"Allow": error.headers["Allow"]} if "Allow" in error.headers else {})
        return answer
    except Exception as error:  # noqa: BLE001  the last that can say so in the shape that clients read
        _log(request, error)
        if _BEGUN in request:  # half an answer must not look whole
            raise ConnectionAbortedError from None
        return refused(_OF_OURS["POST" if request.method == "POST" else "GET"])


def _log(request: web.Request, error: Exception) -> None:
    """Log a fault of ours without its message, which may quote what a client sent."""
    where = " > ".join(f"{frame.filename}:{frame.lineno}" for frame in extract_tb(error.__traceback__))
    _LOGGER.error("%s while answering a %s: %s", type(error).__name__, request.method, where)


def _of_aiohttp(error: web.HTTPException) -> RefusalError:
    """Return a refusal of aiohttp's own as one of ours."""
    code, says = _SAID.get(error.status, ("bad_request", error.text or error.reason))
    return RefusalError(error.status, code, says)
