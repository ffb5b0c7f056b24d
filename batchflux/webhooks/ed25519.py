"""Signatures by Ed25519, which Python has not: the one place that needs the extra `webhooks`."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from batchflux.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

MISSING = "Ed25519, by which its calls are signed, needs an extra: pip install 'batchflux[webhooks]'"


def available() -> str | None:
    """Return what to install, None where it is."""
    return MISSING if find_spec("cryptography") is None else None


def ed25519() -> Any:
    """Return cryptography's module of Ed25519; UsageError: it is not installed."""
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519 as found  # noqa: PLC0415  an extra
    except ImportError as error:
        raise UsageError(f"{MISSING}.") from error
    return found


def verified(signature: bytes, text: bytes, keys: Iterable[str]) -> bool:
    """Whether one of the public keys (base64url of 32 bytes, as in a JWK's `x`) made the signature."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415  an extra

    module = ed25519()
    for key in keys:
        try:
            module.Ed25519PublicKey.from_public_bytes(_decoded(key)).verify(signature, text)
        except (InvalidSignature, ValueError):  # not by this one, or it is none
            continue
        return True
    return False


class Signer:
    """A key pair by a seed of 32 bytes, for who signs: the simulator."""

    def __init__(self, seed: bytes) -> None:
        self._private = ed25519().Ed25519PrivateKey.from_private_bytes(seed)
        self.public = urlsafe_b64encode(self._private.public_key().public_bytes_raw()).decode().rstrip("=")

    def sign(self, text: bytes) -> bytes:
        """Return the signature of a text."""
        made: bytes = self._private.sign(text)
        return made


def _decoded(key: str) -> bytes:
    return urlsafe_b64decode(key + "=" * (-len(key) % 4))
