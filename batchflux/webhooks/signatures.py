"""The ways in which calls are signed; pure. Each comparison takes as long whatever was sent."""

from __future__ import annotations

import hmac
import re
from base64 import b64decode, b64encode
from hashlib import sha256
from typing import TYPE_CHECKING

from batchflux.webhooks.api import WrongSignatureError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from batchflux.webhooks.api import Call

TOLERANCE = 300.0  # seconds that a call's time may be off; a copy that is sent later is refused
MOST_SIGNATURES = 8  # in one header: one for each key while keys change
_SECONDS = re.compile(r"[0-9]{1,11}", re.ASCII)


def header(call: Call, name: str) -> str:
    """Return what a header says, or raise WrongSignatureError: it is missing."""
    value = call.headers.get(name)
    if not value:
        raise WrongSignatureError(f"the call has no {name}")
    return value


def timely(call: Call, name: str) -> str:
    """Return the time in a header (epoch seconds) as it is written, or raise WrongSignatureError: it is not now."""
    written = header(call, name)
    if not _SECONDS.fullmatch(written) or abs(call.at - int(written)) > TOLERANCE:
        raise WrongSignatureError(f"{name} is not within {TOLERANCE:g} s of now")
    return written


def sha256_hmac(key: bytes, text: bytes) -> bytes:
    """Return the HMAC-SHA256 of a text."""
    return hmac.new(key, text, sha256).digest()


def check_any(given: Iterable[str], right: Iterable[str]) -> None:
    """Raise WrongSignatureError unless one of those given is right; all are compared, whichever is."""
    known = [one.encode() for one in right]
    tried = [hmac.compare_digest(one.encode(errors="surrogatepass"), other) for one in given for other in known]
    if not any(tried):
        raise WrongSignatureError("the signature is not right")


def check_standard(call: Call, secrets: Collection[str]) -> None:
    """Verify a call by the Standard Webhooks (v1, symmetric); each secret is `whsec_` and base64."""
    name, at = header(call, "webhook-id"), timely(call, "webhook-timestamp")
    text = b".".join((name.encode(errors="surrogatepass"), at.encode(), call.body))
    right = [b64encode(sha256_hmac(key_in(secret), text)).decode() for secret in secrets]
    listed = header(call, "webhook-signature").split()[:MOST_SIGNATURES]
    check_any([one.removeprefix("v1,") for one in listed if one.startswith("v1,")], right)


def key_in(secret: str) -> bytes:
    """Return the key that a secret of the Standard Webhooks holds; ValueError where it is none."""
    return b64decode(secret.removeprefix("whsec_"), validate=True)


def check_hex(given: str, secret: str, body: bytes) -> None:
    """Verify `sha256=` and the hex digits of the HMAC-SHA256 of a body."""
    check_any([given.lower()], [f"sha256={sha256_hmac(secret.encode(), body).hex()}"])
