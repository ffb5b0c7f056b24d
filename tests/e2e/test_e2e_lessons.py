"""What a first run learned of a provider, a second one into a new folder begins from, also after a kill."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchflux.testing.bank import Bank
    from batchflux.testing.program import Program

JOBS = "  - {id: 'n{{ i }}', prompt: 'job n{{ i }} #url', output_format: png, matrix: {i: {range: [1, 24]}}}\n"


def test_at_a_provider_that_is_known_a_new_folder_begins_with_all_slots(program: Program, bank: Bank) -> None:
    program.manifest(bank.url, "  - {id: first, prompt: 'job first #url', output_format: png}\n")
    assert program.run().code == 0
    program.manifest(bank.url, JOBS)
    bank.held = lambda: len(bank.seen) < 1 + 24  # no call is answered before all have come
    ended = program.run("--out", "other", "--set", "limits.concurrency=24")
    assert ended.code == 0, ended.said
    assert len(bank.seen) == 1 + 24
