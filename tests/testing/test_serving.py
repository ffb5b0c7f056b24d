"""The thread in which a stand-in is served ends with its test, whatever comes in between."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from batchflux.errors import UsageError
from batchflux.testing.serving import serving, threaded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert not set(threading.enumerate()) - before


def test_a_server_that_is_left_at_once_ends() -> None:
    """However its thread and the test's take turns."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(100):
            with serving(web.Application()) as url:
                assert url
    finally:
        sys.setswitchinterval(usual)


def test_it_ends_with_a_test_that_fails() -> None:
    with pytest.raises(AssertionError, match="mine"), serving(web.Application()):
        raise AssertionError("mine")


def test_a_port_that_is_taken_is_said_at_once() -> None:
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as taken,
        pytest.raises(UsageError, match="in use"),
        serving(web.Application(), taken.getsockname()[1]),
    ):
        raise AssertionError("two cannot listen there")


def test_what_fails_to_begin_has_ended_when_that_is_said() -> None:
    """However long it takes to clear up behind it."""
    cleared: list[str] = []
    lingering: list[asyncio.Task[None]] = []

    async def linger() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.2)
            cleared.append("all")

    @asynccontextmanager
    async def failing() -> AsyncIterator[None]:
        lingering.append(asyncio.create_task(linger()))
        await asyncio.sleep(0)
        if lingering:
            raise OSError("not here")
        yield

    with pytest.raises(OSError, match="not here"), threaded(failing):
        raise AssertionError("it cannot begin")
    assert cleared == ["all"]
