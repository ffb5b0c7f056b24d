"""Who is let in: the person who was given the address, in a browser that shows our own page; nobody else.

A page of anybody's in that browser, and any program on a shared machine, can reach a port on loopback. So:

- Host must be ours (a name made to point here, DNS rebinding, is not), Sec-Fetch-Site must not speak of another site;
  Origin, where there is one, must be ours, and a POST must have one. There is no CORS.
- The token lets in who looks, and gives the browser a cookie, named by port because all ports of a host share cookies.
  A POST needs the token in a header, which a form cannot send. Nothing logs it, or keeps what it answers. A program
  that only looks (Prometheus) may send it as a bearer token.
"""

from __future__ import annotations

import hmac
import secrets
from typing import TYPE_CHECKING

from aiohttp import web

from batchflux.transport.serving import host_of

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

PAGE_HEADER = "X-Batchflux-Token"
ASK_AGAIN = "Open the address that batchflux printed, with its token, by pasting it into the browser's address bar."
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox"
_OWN_SITES = frozenset({"same-origin", "none"})  # none: typed, pasted or opened by a program


class Guard:
    """Decides about requests: `hosts` are our Host headers; with `wildcard` the address a connection arrived at too."""

    def __init__(self, hosts: frozenset[str], port: int, *, wildcard: bool, token: str | None = None) -> None:
        self.token = token or secrets.token_urlsafe(32)
        self.cookie = f"batchflux_review_{port}"
        self._ticket = secrets.token_urlsafe(32)
        self._hosts, self._port, self._wildcard = hosts, port, wildcard

    @web.middleware
    async def admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let a request pass, or raise HTTPForbidden, which says why not."""
        host = request.headers.get("Host", "").lower()
        arrived = request.transport.get_extra_info("sockname") if self._wildcard and request.transport else None
        if host not in self._hosts and not (arrived and host == host_of(arrived[0], self._port)):
            raise web.HTTPForbidden(text="This server does not go by that name.")
        if request.headers.get("Sec-Fetch-Site", "none") not in _OWN_SITES:
            raise web.HTTPForbidden(text=f"Another site led here. {ASK_AGAIN}")
        origin = request.headers.get("Origin")
        if origin != f"http://{host}" and (origin is not None or request.method not in {"GET", "HEAD"}):
            raise web.HTTPForbidden(text="Requests of other pages are not answered.")
        if request.method not in {"GET", "HEAD"}:
            given, secret = request.headers.get(PAGE_HEADER, ""), self.token
            says = "The page's token is missing or of an earlier review."
        elif (sent := _token_of(request)) is not None:
            given, secret = sent, self.token
            says = "This is not the token of this review."
        else:
            given, secret = request.cookies.get(self.cookie, ""), self._ticket
            says = "This review is for who has its address."
        if not hmac.compare_digest(given.encode(errors="surrogatepass"), secret.encode()):
            raise web.HTTPForbidden(text=f"{says} {ASK_AGAIN}")
        return await handler(request)

    def welcome(self, response: web.StreamResponse) -> None:
        """Give who opened the page with the token a cookie, which lets in from here on."""
        response.set_cookie(self.cookie, self._ticket, path="/", httponly=True, samesite="Strict")


def _token_of(request: web.Request) -> str | None:
    """Return the token that a request has, in its address or a header; None without any."""
    kind, _, bearer = request.headers.get("Authorization", "").partition(" ")
    sent = request.query.get("token", request.headers.get(PAGE_HEADER))
    return bearer.strip() if sent is None and kind.lower() == "bearer" else sent


async def protect(request: web.Request, response: web.StreamResponse) -> None:
    """Put on every answer what keeps a browser from doing anything else with it."""
    response.headers.update(_HEADERS)
    response.headers.setdefault("Content-Security-Policy", _NOTHING)
    if "token" in request.query:  # a cache would keep it with the address
        response.headers["Cache-Control"] = "no-store"
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers.popall("Server", None)
