"""A batchflux gateway over HTTP: pictures bought by their keys, manifests expanded, what was made before."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import aiohttp

from . import content

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

SHORTEST = 0.2  # seconds between two times that a call is sent
MOST_MEANINGS = 8  # of one key
PATIENCE = 600.0  # seconds that a call waits in all for a gateway that says: later, and nothing was bought
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=15)  # a picture takes its time; an interrupt ends the wait
_TOO_MANY, _UNAVAILABLE = 429, 503
_FOR_ALL = frozenset({"invalid_api_key", "insufficient_quota"})  # the next call ends the same way


class GatewayError(Exception):
    """A call that gave no picture, in the gateway's own sentence. `wait`: nothing was bought, ask again in seconds."""

    def __init__(self, message: str, code: str = "", wait: float | None = None) -> None:
        super().__init__(message)
        self.code, self.wait = code, wait

    @property
    def for_all(self) -> bool:
        """Whether other calls would end in the same way."""
        return self.code in _FOR_ALL


@dataclass(frozen=True)
class Call:
    """One picture to be bought: `images` and `mask` are files, `links` addresses; `key` is what it is bought by."""

    prompt: str
    key: str
    model: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    images: tuple[bytes, ...] = field(default=(), repr=False)
    links: tuple[str, ...] = ()
    mask: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Made:
    """One picture: `job` names it in the gateway's folder; `new` tells whether it was bought now."""

    data: bytes = field(repr=False)
    job: str
    cost: Decimal | None
    currency: str
    new: bool


class Gateway:
    """One gateway, for as long as a node runs."""

    def __init__(self, address: str, key: str | None) -> None:
        self._address = address
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=_TIMEOUT, headers=self._headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def make(self, call: Call, patience: float = PATIENCE) -> Made:
        """Buy a picture, or get it again; GatewayError. It is asked for again only where nothing was bought."""
        try:
            return await self._bought(call)
        except GatewayError as error:
            if error.wait is None or error.wait > patience:
                raise
            wait = error.wait
        await asyncio.sleep(wait)
        return await self.make(call, patience - wait)

    async def _bought(self, call: Call) -> Made:
        """Buy a picture by its key, or by the next one.

        The gateway says that a key was of something else where it makes another picture of the same words today (its
        own model is another), or where the same pixels come as another file.
        """
        key = call.key
        for number in range(1, MOST_MEANINGS):
            try:
                return await self._asked(call, key)
            except GatewayError as error:
                if error.code != "idempotency_key_reused":
                    raise
            key = content.key_of(of=call.key, meaning=number)
        return await self._asked(call, key)

    async def _asked(self, call: Call, key: str) -> Made:
        body = {**call.fields, "prompt": call.prompt, "n": 1, "response_format": "b64_json"}
        if call.model:
            body["model"] = call.model
        path = "edits" if call.images or call.links else "generations"
        sent: dict[str, Any] = {"json": {**body, "images": list(call.links)} if call.links else body}
        if call.images:
            sent = {"data": _form(body, call)}
        headers, raw = await self._request("POST", f"/v1/images/{path}", headers={"Idempotency-Key": key}, **sent)
        return Made(
            data=_picture(raw),
            job=headers.get("x-batchflux-jobs", ""),
            cost=_amount(headers.get("x-batchflux-cost")),
            currency=headers.get("x-batchflux-currency", ""),
            new=headers.get("x-batchflux-joined") != "true",
        )

    async def expand(self, manifest: str) -> Mapping[str, Any]:
        """Return the jobs of a manifest and what they cost; buys nothing. GatewayError: what is wrong with it."""
        _, raw = await self._request("POST", "/v1/batchflux/expand", json={"manifest": manifest})
        return _listing(raw, "jobs")

    async def results(self, limit: int, after: str | None) -> Mapping[str, Any]:
        """Return a page of what was made for this key, newest first, and where the next one begins; GatewayError."""
        page = f"/v1/batchflux/results?limit={limit}" + (f"&after={quote(after, safe='')}" if after else "")
        return _listing((await self._request("GET", page))[1], "data")

    async def picture(self, url: str) -> bytes:
        """Return the picture behind a link of this gateway, whatever name the link calls it by; GatewayError."""
        name = urlsplit(url).path.rpartition("/images/")[2]
        return (await self._request("GET", f"/images/{quote(name, safe='')}"))[1]

    async def _request(self, method: str, path: str, **sent: Any) -> tuple[Mapping[str, str], bytes]:
        url = f"{self._address}{path}"
        try:
            async with self._session.request(method, url, allow_redirects=False, **sent) as response:
                raw = await response.read()
                if response.status != 200:  # noqa: PLR2004
                    raise _refused(response.status, response.headers, raw, self._address)
                return response.headers, raw
        except aiohttp.ClientConnectorError as error:
            raise GatewayError(
                f"No gateway answers at {self._address} ({error.os_error.strerror}): is it running?"
            ) from None
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            raise GatewayError(
                f"The connection to the gateway at {self._address} broke ({type(error).__name__}). Queue this again: "
                "what was under way is asked for by the same key, and paid for once."
            ) from None


def _form(body: Mapping[str, Any], call: Call) -> aiohttp.FormData:
    form = aiohttp.FormData()
    for name, value in body.items():
        form.add_field(name, str(value))
    for number, data in enumerate(call.images, 1):
        form.add_field("image[]", data, filename=f"image-{number}.png", content_type="image/png")
    if call.mask is not None:
        form.add_field("mask", call.mask, filename="mask.png", content_type="image/png")
    return form


def _refused(status: int, headers: Mapping[str, str], raw: bytes, address: str) -> GatewayError:
    """Return what an answer says that is no picture."""
    try:
        told = json.loads(raw)["error"]
        message, code = str(told["message"]), str(told.get("code") or "")
    except (ValueError, TypeError, KeyError, AttributeError):
        return GatewayError(f"{address} answered {status} as no batchflux gateway does: is the address right?")
    later = status == _UNAVAILABLE or (status == _TOO_MANY and code == "rate_limit_exceeded")
    return GatewayError(message, code, _seconds(headers.get("Retry-After")) if later else None)


def _seconds(text: str | None) -> float | None:
    """Return what a Retry-After says; None: it does not say that to ask again would help."""
    return max(SHORTEST, float(text)) if text is not None and text.isascii() and text.isdigit() else None


def _mapping(raw: bytes) -> Mapping[str, Any]:
    try:
        made = json.loads(raw)
    except ValueError:
        made = None
    if not isinstance(made, dict):
        raise GatewayError("The gateway's answer cannot be read: is the address right?")
    return made


def _listing(raw: bytes, name: str) -> Mapping[str, Any]:
    made = _mapping(raw)
    rows = made.get(name)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise GatewayError("The gateway's answer cannot be read: is the address right?")
    return made


def _picture(raw: bytes) -> bytes:
    try:
        return base64.b64decode(_mapping(raw)["data"][0]["b64_json"], validate=True)
    except (LookupError, TypeError, binascii.Error):
        raise GatewayError("The gateway's answer has no picture in it: is the address right?") from None


def _amount(text: str | None) -> Decimal | None:
    try:
        return None if text is None else Decimal(text)
    except InvalidOperation:
        return None
