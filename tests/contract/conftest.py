"""Every provider as a manifest names it, for the suite that each of them runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.bank import PRICE
from tests.program import bank, program

if TYPE_CHECKING:
    from tests.bank import Bank
    from tests.program import Program

__all__ = ["bank", "program"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One provider as a manifest names it: what stands in `provider`, and whether it works with tasks."""

    name: str
    provider: str
    tasks: bool
    tells_cost: bool = False


WAYS = (
    Way(name="standard", provider="name: tuzi, style: standard", tasks=False),
    Way(name="chat", provider="name: tuzi, style: chat", tasks=False),
    Way(name="native", provider="name: tuzi, style: native", tasks=True),
    Way(name="bfl", provider="name: bfl", tasks=True, tells_cost=True),
)
"""Every provider; a new one is one more line."""


@pytest.fixture(params=WAYS, ids=lambda way: way.name)
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.param
    return found


@dataclass
class Shop:
    """A bank and a program that runs one manifest of a way against it."""

    bank: Bank
    program: Program
    way: Way

    def manifest(self, *prompts: str, price: float = PRICE, limits: str = "", more: str = "") -> None:
        """Write a manifest of jobs `a`, `b`, ... with these prompts."""
        jobs = "".join(
            f"  - {{id: {name}, prompt: 'job {name} {prompt}', "
            f"{'' if self.way.name == 'chat' else 'output_format: png'}}}\n"
            for name, prompt in zip("abcdefgh", prompts, strict=False)
        )
        (self.program.folder / "m.yaml").write_text(
            "version: 1\nname: m\n"
            f"provider: {{{self.way.provider}, base_url: '{self.bank.url}', keys: [TEST_KEY], price: {price}{more}}}\n"
            f"limits: {{concurrency: 6, timeout: 20s{limits}}}\noutput: {{dir: {self.program.out}}}\njobs:\n{jobs}",
            encoding="utf-8",
        )

    def row(self, name: str = "a") -> dict[str, str]:
        return next(row for row in self.program.rows() if row["id"] == name)


@pytest.fixture
def shop(bank: Bank, program: Program, way: Way) -> Shop:
    bank.out = program.out
    return Shop(bank, program, way)
