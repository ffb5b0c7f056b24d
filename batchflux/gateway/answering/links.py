"""Links to pictures: who has one may look, for nobody can guess it."""

from __future__ import annotations

import base64
import hmac
import re
from hashlib import sha256

from batchflux.gateway.orders import RefusalError

_BYTES = 20  # of the signature: 160 bits, 32 letters of base32
_NAME = re.compile(r"([1-9][0-9]{0,17})-([a-z2-7]{32})\.[a-z0-9]{1,5}")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")


class Names:
    """The names of pictures: a job's number, signed with a secret of the output folder."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def name(self, number: int, extension: str) -> str:
        """Return `<number>-<signature>.<extension>`."""
        return f"{number}-{self._signature(number)}.{extension}"

    def number(self, name: str) -> int | None:
        """Return the number that a name is of; None where it is none of ours, compared in constant time."""
        parts = _NAME.fullmatch(name)
        number = int(parts[1]) if parts else 0
        right = hmac.compare_digest(self._signature(number), parts[2] if parts else "")
        return number if right else None

    def _signature(self, number: int) -> str:
        digest = hmac.digest(self._secret, f"batchflux gateway picture {number}".encode(), sha256)
        return base64.b32encode(digest[:_BYTES]).decode().lower()


def base_of(public_url: str | None, scheme: str, host: str) -> str:
    """Return what links begin with: the public URL, else where the client found us; without a slash at its end.

    Raises RefusalError: the Host header is none, and would stand in a link.
    """
    if public_url:
        return public_url.rstrip("/")
    if not _HOST.fullmatch(host):
        raise RefusalError(400, "invalid_host", "The Host header is no name of a server, so there is no link to give.")
    return f"{scheme}://{host}"


def link_of(base: str, name: str) -> str:
    """Return the link of a picture."""
    return f"{base}/images/{name}"
