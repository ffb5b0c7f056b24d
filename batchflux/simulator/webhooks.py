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
from datetime import UTC, datetime
from hashlib import sha256
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp

from batchflux.simulator.faults import UNBILLED
from batchflux.webhooks.ed25519 import Signer, available

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from batchflux.simulator.journal import Journal
    from batchflux.simulator.queues.base import Task

    Signs = Callable[[Task, bytes], Mapping[str, str]]

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


def _said(task: Task, word: str) -> dict[str, Any]:
    """Return what a call says, in the words of its API."""
    match task.request.api:
        case "bfl":
            at = datetime.now(UTC).isoformat()
            return {"id": task.id, "status": word, "result": {"sample": NOWHERE}, "timestamp": at}
        case "relay":
            return {"task_id": task.id, "status": word, "progress": 1.0, "result": {"sample": NOWHERE}}
        case "fal":
            payload = {"images": [{"url": NOWHERE}]}
            return {"request_id": task.id, "gateway_request_id": task.id, "status": word, "payload": payload}
    return {"id": task.id, "status": word, "output": NOWHERE, "error": None}


def _by_bfl(task: Task, body: bytes) -> Mapping[str, str]:
    secret = task.request.webhook_secret
    if not secret:
        return {}
    return {"X-BFL-Signature": f"sha256={hmac.new(secret.encode(), body, sha256).hexdigest()}"}


def _by_fal(task: Task, body: bytes) -> Mapping[str, str]:
    names, at = (task.id, "simulator"), str(int(time.time()))
    text = "\n".join((*names, at, sha256(body).hexdigest())).encode()
    values = (*names, at, Signer(_SEED).sign(text).hex())
    parts = ("Request-Id", "User-Id", "Timestamp", "Signature")
    return {f"X-Fal-Webhook-{part}": value for part, value in zip(parts, values, strict=True)}


def _by_replicate(task: Task, body: bytes) -> Mapping[str, str]:
    name, at = f"msg_{task.id}", str(int(time.time()))
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

    def ended(self, task: Task) -> None:
        """Call the webhook of a task that has ended, if it has one, beside what else is done."""
        if task.request.webhook_url is not None and task.request.api in _WORDS:
            task.calling = asyncio.create_task(self._call(task, task.request.webhook_url))
            self._calling.add(task.calling)
            task.calling.add_done_callback(self._calling.discard)

    async def close(self) -> None:
        """End all calls."""
        for calling in self._calling:
            calling.cancel()
        await asyncio.gather(*self._calling, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _call(self, task: Task, url: str) -> None:
        if not _is_here(url):
            self._journal.webhooks["elsewhere"] += 1
            return
        if task.request.api == "fal" and available():
            self._journal.webhooks["unsigned"] += 1
            return
        fault = task.turn.of("webhook")
        if fault == "webhook_never":
            return
        if fault == "webhook_late":
            await asyncio.sleep(LATE_SECONDS)
        if fault == "webhook_forged":
            for forged, body, headers in _forged(task, url):
                await self._post(forged, body, headers)
        under_way, well, badly = _WORDS[task.request.api]
        word = badly if task.cancelled or task.fault in UNBILLED else well
        words = [word] * (TIMES if fault == "webhook_twice" else 1)
        words += [under_way] * (2 if fault == "webhook_shuffled" else 0)
        for each in words:
            await self._delivered(task, url, json.dumps(_said(task, each)).encode())

    async def _delivered(self, task: Task, url: str, body: bytes) -> None:
        """Make a call, and again when it is not taken."""
        for rest in (*_RETRIES, None):
            taken = await self._post(url, body, _SIGNED[task.request.api](task, body))
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


def _forged(task: Task, url: str) -> Iterator[tuple[str, bytes, Mapping[str, str]]]:
    """Yield calls that are none of the API's: with another body than was signed, without a signature, elsewhere."""
    under_way, _, badly = _WORDS[task.request.api]
    signed = _SIGNED[task.request.api](task, json.dumps(_said(task, under_way)).encode())
    body = json.dumps(_said(task, badly)).encode()
    if signed:
        yield url, body, signed
    yield f"{url[:-1]}{'0' if url[-1] != '0' else '1'}", body, {}


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"
