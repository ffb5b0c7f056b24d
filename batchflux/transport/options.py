"""What the transport can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportOptions:
    """How the one HTTP client behaves. Times in seconds, sizes in bytes.

    `timeout` bounds a whole API call, waiting for a connection included; `connect_timeout` getting a connection (free
    place in the pool, DNS, TCP, TLS); `first_byte_timeout` the wait from the request's last byte to the answer's
    headers (None: as long as the whole); `idle_timeout` the pause between two pieces of an answer;
    `download_timeout` a whole download with its redirects. `connections` is the size of the pool, `max_bytes` the
    largest picture taken. Downloads over `spool_over` go to a temporary file in `spool_dir`. `resolve` gives names a
    fixed address and port, which count as the provider's own.
    """

    base_url: str
    timeout: float
    connections: int
    max_bytes: int
    spool_dir: str
    connect_timeout: float = 15
    first_byte_timeout: float | None = None
    idle_timeout: float = 120
    download_timeout: float = 300
    spool_over: int = MIB
    resolve: Mapping[str, tuple[str, int]] = field(default_factory=dict)
