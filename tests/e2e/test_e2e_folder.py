"""What people do to an output folder: the ledger lost, the lock removed under a run. Nothing is ever paid twice."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.testing.bank import Bank
    from batchflux.testing.program import Program

JOBS = "".join(f"  - {{id: j{n}, prompt: job j{n}, output_format: png}}\n" for n in range(8))


@pytest.mark.parametrize("how", ["missing", "empty", "damaged"])
def test_a_lost_ledger_stops_the_run_before_anything_is_paid(
    program: Program, bank: Bank, manifest: Callable[..., str], how: str
) -> None:
    name = manifest(JOBS)
    assert program("run", name).code == 0
    ledger = program.out / "ledger.db"
    data = ledger.read_bytes()
    if how == "missing":
        ledger.unlink()
    else:
        ledger.write_bytes(b"" if how == "empty" else data[:4096] + bytes(len(data) - 4096))
    bank.forget()
    for command in ("plan", "run"):
        ended = program(command, name)
        assert ended.code == (3 if how == "damaged" else 2), ended.said
        assert re.fullmatch(r".*(is damaged|and no ledger).* or choose another folder with --out\.\n", ended.err)
    assert len(program.pictures()) == 8
    ledger.write_bytes(data)
    assert program("run", name).code == 0
    assert bank.billed.total() == 0


def test_a_lock_removed_under_a_run_lets_no_other_in(program: Program, bank: Bank) -> None:
    bank.held = lambda: True
    program.manifest(bank.url, JOBS)
    first = program.start("run", "m.yaml", "--set", "limits.timeout=100s")
    wait_until(lambda: bank.open > 0)
    (program.out / ".lock").unlink()
    assert program.run().code == 4
    bank.held = None
    ended = program.finish(first)
    assert ended.code == 0, ended.said
    assert set(bank.billed.values()) == {1}
