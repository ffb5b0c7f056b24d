"""Links to pictures: who has one may look, for nobody can guess it."""

from __future__ import annotations

import base64
import hmac
import re

from batchflux.gateway.orders import RefusalError

_BYTES = 20  # of the signature: 160 bits, 32 letters of base32
_PREFIX = 16  # hex digits of a key, by which the ledger finds it
_NAME = re.compile(r"([0-9a-f]{16})-([a-z2-7]{32})\.[a-z0-9]{1,5}")
_LINK = re.compile(r"https?://[^/?#\s]+/(?:[^?#\s]*/)?images/([0-9a-f]{16}-[a-z2-7]{32}\.[a-z0-9]{1,5})", re.IGNORECASE)
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")


class Names:
    """The names of pictures: the beginning of a job's key (hex digits), and the key signed with the folder's secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def name(self, key: str, extension: str, place: int = 1) -> str:
        """Return `<prefix>-<signature>.<extension>`; `place` is 2 or more of a further picture of the job's answer."""
        return f"{key[:_PREFIX]}-{self._signature(key, place)}.{extension}"

    def prefix(self, name: str) -> str | None:
        """Return what the keys begin with that a name may be of; None where it is no name of a picture."""
        parts = _NAME.fullmatch(name)
        return parts[1] if parts else None

    def fits(self, name: str, key: str, place: int = 1) -> bool:
        """Whether a name is that of this key's picture, compared in constant time; `place` as in `name`."""
        parts = _NAME.fullmatch(name)
        return parts is not None and hmac.compare_digest(self._signature(key, place), parts[2])

    def _signature(self, key: str, place: int) -> str:
        which = key if place == 1 else f"{key} {place}"
        digest = hmac.digest(self._secret, f"batchflux gateway picture {which}".encode(), "sha256")
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


def named_by(url: str) -> str | None:
    """Return the name that a link has, if it is as ours are, whatever host it is of: who signed it is to be seen.

    The same server goes by several: as its proxy has it, from a container, by a public URL of before.
    """
    link = _LINK.fullmatch(url)
    return link[1] if link else None
