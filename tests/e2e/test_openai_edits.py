"""Edits by a server that speaks OpenAI's API, run as a program against the bank."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batchflux.testing.bank import picture_of
from tests.program import bank, program

if TYPE_CHECKING:
    from batchflux.testing.bank import Bank
    from batchflux.testing.program import Program

__all__ = ["bank", "program"]


def _manifest(program: Program, bank: Bank, provider: str, job: str) -> None:
    bank.out = program.out
    (program.folder / "a.png").write_bytes(picture_of("reference"))
    program.write(
        "m.yaml",
        f"version: 1\nname: m\nprovider: {{name: mine, api: openai, base_url: '{bank.url}', {provider}}}\n"
        f"limits: {{timeout: 20s, budget: 0.20, attempts: 1}}\noutput: {{dir: {program.out}}}\n"
        f"jobs:\n  - {{id: a, prompt: 'job a {job}', output_format: png, images: [a.png]}}\n",
    )


def test_a_relay_that_reads_forms_only_is_paid_once(program: Program, bank: Bank) -> None:
    """The refusal of the JSON costs nothing, no attempt, and no room in the budget."""
    _manifest(program, bank, "keys: [TEST_KEY], model: gpt-image-1.5, price: 0.15", "#form")
    ended = program.run()
    assert ended.code == 0, ended.said
    kinds = [seen.headers["Content-Type"].partition(";")[0] for seen in bank.seen]
    assert kinds == ["application/json", "multipart/form-data"]
    row = next(iter(program.rows()))
    assert (row["attempts"], row["cost"], row["possibly_billed"]) == ("1", "0.15", "0")
    assert (bank.billed["a"], program.run().code, len(bank.seen)) == (1, 0, 2)


@pytest.mark.slow
@pytest.mark.parametrize("options", ["{edits: multipart}", "{edits: json}"])
def test_the_form_that_is_written_is_sent(program: Program, bank: Bank, options: str) -> None:
    _manifest(program, bank, f"keys: [TEST_KEY], model: gpt-image-1.5, options: {options}, price: 0", "#form")
    ended = program.run()
    row = next(iter(program.rows()))
    assert len(bank.seen) == 1
    if "json" in options:
        assert (ended.code, row["error_code"]) == (1, "invalid_request"), ended.said
        assert "edits: multipart" in row["error"]
    else:
        assert (ended.code, row["status"]) == (0, "done"), ended.said
