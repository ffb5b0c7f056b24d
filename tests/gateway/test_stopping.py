"""How the command ends: once asked it finishes what is under way, asked twice it ends at once and says so."""

from __future__ import annotations

import signal
import threading
import urllib.request
from typing import TYPE_CHECKING

import pytest

from batchflux.testing.bank import PRICE
from tests.program import bank, program
from tests.waiting import wait_until

if TYPE_CHECKING:
    from batchflux.testing.bank import Bank
    from batchflux.testing.program import Program

__all__ = ["bank", "program"]

MANIFEST = "version: 1\nname: g\nprovider: {{name: tuzi, base_url: '{url}', keys: [TEST_KEY], price: {price}}}\n"


def ask(url: str) -> None:
    """Ask for a picture, and let go of whatever comes of it."""
    body, told = b'{"prompt": "job a"}', {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/images/generations", data=body, headers=told)  # noqa: S310  http
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  as above
            answer.read()
    except OSError:
        return


@pytest.mark.slow
@pytest.mark.parametrize(("times", "code"), [(1, 0), (2, 128 + signal.SIGINT)])
def test_a_signal_drains_and_a_second_one_ends_at_once(program: Program, bank: Bank, times: int, code: int) -> None:
    bank.held = lambda: True
    program.write("g.yaml", MANIFEST.format(url=bank.url, price=PRICE))
    gateway = program.start("gateway", "g.yaml", "--out", "out", "--port", "0")
    assert gateway.stdout is not None
    assert gateway.stderr is not None
    client = threading.Thread(target=ask, args=(gateway.stdout.readline().strip(),))
    client.start()
    wait_until(lambda: bank.posts["a"] > 0)
    gateway.send_signal(signal.SIGINT)
    while not gateway.stderr.readline().startswith("Stopping: what is under way is finished"):
        assert gateway.poll() is None
    if times == 1:
        bank.held = None
    else:
        gateway.send_signal(signal.SIGINT)
    ended = program.finish(gateway)
    client.join()
    assert ended.code == code, ended.said
    assert ("Stopped at once" in ended.err) == (times == 2)
    (job,) = program.ledger().values()
    assert job["status"] == ("done" if times == 1 else "pending"), job
