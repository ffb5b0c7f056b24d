from __future__ import annotations

import socket

import pytest


@pytest.fixture
def free_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port
