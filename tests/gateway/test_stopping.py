"""How the command ends: once asked it finishes what is under way, asked twice it ends at once and says so."""

from __future__ import annotations

import signal
import threading
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.program import program

if TYPE_CHECKING:
    from batchflux.testing.program import Program

__all__ = ["program"]

MANIFEST = "version: 1\nname: g\nprovider: {name: simulator, price: 0.04, options: {latency: 3}}\n"


def ask(url: str) -> None:
    """Ask for a picture, and let go of whatever comes of it."""
    body, told = b'{"prompt": "a mug"}', {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/images/generations", data=body, headers=told)  # noqa: S310  http
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  as above
            answer.read()
    except OSError:
        return


@pytest.mark.slow
@pytest.mark.parametrize(("times", "code"), [(1, 0), (2, 128 + signal.SIGINT)])
def test_a_signal_drains_and_a_second_one_ends_at_once(program: Program, times: int, code: int) -> None:
    program.write("g.yaml", MANIFEST)
    gateway = program.start("gateway", "g.yaml", "--out", "out", "--port", "0")
    assert gateway.stdout is not None
    url = gateway.stdout.readline().strip()
    client = threading.Thread(target=ask, args=(url,))
    client.start()
    log = program.folder / "out" / "ledger.db"
    for _ in range(200):
        if log.exists() and program.ledger():
            break
        threading.Event().wait(0.02)
    for _ in range(times):
        gateway.send_signal(signal.SIGINT)
        threading.Event().wait(0.3)
    ended = program.finish(gateway)
    client.join()
    assert ended.code == code, ended.said
    (job,) = program.ledger().values()
    assert job["status"] == ("done" if times == 1 else "pending"), job
