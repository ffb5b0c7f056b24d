"""Call webhooks as the APIs do whose tasks have ended: signed with keys of its own, and as a fault has it.

Only this machine is called. What a call says of a picture leads nowhere: whoever believes it has none.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp

from batchflux.webhooks.ed25519 import Signer, available

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from batchflux.simulator.journal import Journal
    from batchflux.simulator.replies import Api
    from batchflux.simulator.requests import ImageRequest

    Signs = Callable[["_Hook", bytes], Mapping[str, str]]

NOWHERE = "https://nowhere.invalid/not-to-be-believed.png"
LATE_SECONDS = 10.0
TIMES = 3  # that `webhook_twice` calls
_RETRIES = (0.5, 2.0)  # seconds before a call that was not taken is made again
_SECONDS = 15.0  # that one may take
_SEED = sha256(b"the simulator's key for fal's webhooks").digest()
_SECRET = sha256(b"the simulator's secret for Replicate's webhooks").digest()[:24]
_WORDS = {  # of each API: under way, ended well, ended badly
    "bfl": ("Pending", "Ready", "Error"),
    "relay": ("in_progress", "SUCCESS", "FAILED"),
    "fal": ("IN_PROGRESS", "OK", "ERROR"),
    "replicate": ("processing", "succeeded", "failed"),
}


def public_keys() -> dict[str, Any]:
    """Return the key of fal's calls, as a JWKS; none where the extra `webhooks` is not installed."""
    return {"keys": [] if available() else [{"kty": "OKP", "crv": "Ed25519", "x": Signer(_SEED).public}]}


def shared_secret() -> dict[str, str]:
    """Return the secret of Replicate's calls."""
    return {"key": f"whsec_{b64encode(_SECRET).decode()}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hook:
    """The webhook of a task that has ended, `well` or not; `fault` says how it is called."""

    api: Api
    id: str
    url: str
    secret: str | None = field(repr=False)
    fault: str
    well: bool

    def said(self, when: int) -> bytes:
        """Return a call's body, in the words of its API: under way (0), or ended well (1) or badly (2)."""
        word = _WORDS[self.api][when]
        body: dict[str, Any] = {"id": self.id, "status": word, "output": NOWHERE, "error": None}
        match self.api:
            case "bfl":
                at = datetime.now(UTC).isoformat()
                body = {"id": self.id, "status": word, "result": {"sample": NOWHERE}, "timestamp": at}
            case "relay":
                body = {"task_id": self.id, "status": word, "progress": 1.0, "result": {"sample": NOWHERE}}
            case "fal":
                payload = {"images": [{"url": NOWHERE}]}
                body = {"request_id": self.id, "gateway_request_id": self.id, "status": word, "payload": payload}
        return json.dumps(body).encode()

    def forged(self) -> Iterator[tuple[str, bytes, Mapping[str, str]]]:
        """Yield calls that are none of the API's: with another body than was signed, and to a wrong path."""
        signed, body = _SIGNED[self.api](self, self.said(0)), self.said(2)
        if signed:
            yield self.url, body, signed
        yield f"{self.url[:-1]}{'0' if self.url[-1] != '0' else '1'}", body, {}


def _by_bfl(hook: _Hook, body: bytes) -> Mapping[str, str]:
    if not hook.secret:
        return {}
    return {"X-BFL-Signature": f"sha256={hmac.new(hook.secret.encode(), body, sha256).hexdigest()}"}


def _by_fal(hook: _Hook, body: bytes) -> Mapping[str, str]:
    names, at = (hook.id, "simulator"), str(int(time.time()))
    text = "\n".join((*names, at, sha256(body).hexdigest())).encode()
    values = (*names, at, Signer(_SEED).sign(text).hex())
    parts = ("Request-Id", "User-Id", "Timestamp", "Signature")
    return {f"X-Fal-Webhook-{part}": value for part, value in zip(parts, values, strict=True)}


def _by_replicate(hook: _Hook, body: bytes) -> Mapping[str, str]:
    name, at = f"msg_{hook.id}", str(int(time.time()))
    signature = b64encode(hmac.new(_SECRET, f"{name}.{at}.".encode() + body, sha256).digest()).decode()
    return {"webhook-id": name, "webhook-timestamp": at, "webhook-signature": f"v1,{signature}"}


_SIGNED: dict[str, Signs] = {
    "bfl": _by_bfl,
    "relay": lambda *_: {},
    "fal": _by_fal,
    "replicate": _by_replicate,
}


class Caller:
    """Makes the calls of one simulator, and counts in its journal what they were answered."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._session: aiohttp.ClientSession | None = None
        self._calling: set[asyncio.Task[None]] = set()

    def ended(self, request: ImageRequest, name: str, fault: str, *, well: bool) -> asyncio.Task[None] | None:
        """Call the webhook of a task that has ended, if it has one, beside what else is done."""
        if request.webhook_url is None or request.api not in _WORDS:
            return None
        url, secret = request.webhook_url, request.webhook_secret
        hook = _Hook(api=request.api, id=name, url=url, secret=secret, fault=fault, well=well)
        calling = asyncio.create_task(self._call(hook))
        self._calling.add(calling)
        calling.add_done_callback(self._calling.discard)
        return calling

    async def close(self) -> None:
        """End all calls."""
        for calling in self._calling:
            calling.cancel()
        await asyncio.gather(*self._calling, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _call(self, hook: _Hook) -> None:
        unsigned = hook.api == "fal" and available()
        if unsigned or not _is_here(hook.url):
            self._journal.webhooks["unsigned" if unsigned else "elsewhere"] += 1
            return
        times = 1
        match hook.fault:
            case "webhook_never":
                times = 0
            case "webhook_twice":
                times = TIMES
            case "webhook_late":
                await asyncio.sleep(LATE_SECONDS)
            case "webhook_forged":
                for url, body, headers in hook.forged():
                    await self._post(url, body, headers)
        ends = [1 if hook.well else 2] * times
        for when in (*ends, 0, 0) if hook.fault == "webhook_shuffled" else ends:
            await self._delivered(hook, hook.said(when))

    async def _delivered(self, hook: _Hook, body: bytes) -> None:
        """Make a call, and again when it is not taken."""
        for rest in (*_RETRIES, None):
            taken = await self._post(hook.url, body, _SIGNED[hook.api](hook, body))
            if taken or rest is None:
                return
            await asyncio.sleep(rest)

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> bool:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_SECONDS))
        said, known = "refused", {"Content-Type": "application/json", **headers}
        with suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with self._session.post(url, data=body, headers=known, allow_redirects=False) as answer:
                said = str(answer.status)
        self._journal.webhooks[said] += 1
        return said.startswith("2")


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"
