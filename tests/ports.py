"""Ports for servers that come later: until then, and again when they have gone, a call is refused."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def kept_port() -> Iterator[int]:
    """Keep a port from all who ask for any; a server that names it may listen there.

    A port that was picked and freed may be somebody else's by the time, or that of the call that looks for the server.
    """
    with socket.socket() as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do; whoever listens may join then
        keeper.bind(("127.0.0.1", 0))
        port: int = keeper.getsockname()[1]
        yield port
