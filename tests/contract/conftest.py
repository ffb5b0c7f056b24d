"""Every provider as a manifest names it, for the suite that each of them runs."""

from __future__ import annotations

import json
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
    """One provider as a manifest names it: what stands in `provider`, and whether it works with tasks.

    `links`: its answers name a link, which can be gone; `formats`: a format can be asked for; `price` is what stands in
    `price` where that is not one number; `keyed`: it wants a key; `moderates`: it may refuse what a prompt says;
    `quick`: its share of the suite is in the fast set, else one test at most.
    """

    name: str
    provider: str
    tasks: bool
    tells_cost: bool = False
    links: bool = True
    formats: bool = True
    price: str | None = None
    keyed: bool = True
    moderates: bool = True
    quick: bool = False


WORKFLOW = json.dumps(
    {
        "workflow": {
            "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["4", 1]}},
            "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "flux", "images": ["6", 0]}},
        },
        "inputs": {"prompt": "6.text"},
    }
)
WAYS = (
    Way(name="standard", provider="name: tuzi, style: standard", tasks=False, quick=True),
    Way(name="chat", provider="name: tuzi, style: chat", tasks=False, formats=False, quick=True),
    Way(name="native", provider="name: tuzi, style: native", tasks=True, quick=True),
    Way(name="bfl", provider="name: bfl", tasks=True, tells_cost=True, quick=True),
    Way(
        name="openai",
        provider="name: openai, model: gpt-image-1.5",
        tasks=False,
        tells_cost=True,
        links=False,
        price="{gpt-image-1.5: {most: 0.14, image_out: 10}}",
    ),
    Way(
        name="gemini",
        provider="name: gemini, model: gemini-3-pro-image",
        tasks=False,
        tells_cost=True,
        links=False,
        formats=False,
        price="{gemini-3-pro-image: {most: 0.14, image_out: 10}}",
    ),
    Way(
        name="openrouter",
        provider="name: openrouter, model: black-forest-labs/flux.2-pro",
        tasks=False,
        tells_cost=True,
        links=False,
    ),
    Way(
        name="openrouter-chat",
        provider="name: openrouter, model: google/gemini-3-pro-image, options: {endpoint: chat}",
        tasks=False,
        tells_cost=True,
        links=False,
        formats=False,
    ),
    Way(name="together", provider="name: together, model: black-forest-labs/FLUX.2-dev", tasks=False),
    Way(name="siliconflow", provider="name: siliconflow, model: Kwai/Kolors", tasks=False, formats=False),
    Way(name="fal", provider="name: fal, model: fal-ai/flux-pro/kontext", tasks=True, tells_cost=True),
    Way(name="replicate", provider="name: replicate, model: black-forest-labs/flux-kontext-pro", tasks=True),
    Way(name="comfyui", provider=f"name: comfyui, options: {WORKFLOW}", tasks=True, keyed=False, moderates=False),
)
"""Every provider; a new one is one more line, and for one that answers in a call a module of tests/banks."""


@pytest.fixture(
    params=[pytest.param(way, marks=() if way.quick else pytest.mark.slow) for way in WAYS], ids=lambda way: way.name
)
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
            f"  - {{id: {name}, prompt: 'job {name} {prompt}', {'output_format: png' if self.way.formats else ''}}}\n"
            for name, prompt in zip("abcdefgh", prompts, strict=False)
        )
        keys = "keys: [TEST_KEY], " if self.way.keyed else ""
        (self.program.folder / "m.yaml").write_text(
            "version: 1\nname: m\n"
            f"provider: {{{self.way.provider}, base_url: '{self.bank.url}', {keys}"
            f"price: {self.way.price or price}{more}}}\n"
            f"limits: {{concurrency: 6, timeout: 20s{limits}}}\noutput: {{dir: {self.program.out}}}\njobs:\n{jobs}",
            encoding="utf-8",
        )

    def row(self, name: str = "a") -> dict[str, str]:
        return next(row for row in self.program.rows() if row["id"] == name)


@pytest.fixture
def shop(bank: Bank, program: Program, way: Way) -> Shop:
    bank.out = program.out
    return Shop(bank, program, way)
