"""In which mode a provider works: what batches cost, and what cannot be sent in one."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.capabilities import BatchTerms, Capabilities
from batchflux.errors import Fault, ManifestError
from batchflux.manifest import Deadline, expand
from batchflux.models import Cost
from batchflux.providers import capabilities

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from batchflux.manifest import Manifest

    Load = Callable[..., Manifest]


def conflicts(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if values.get("seed") is not None:
        yield "seed", "a batch carries no seed; remove it"


SOLD = BatchTerms(most=100, most_bytes=1000, share=Decimal("0.4"), conflicts=conflicts)


def offer(model: str = "large") -> Capabilities:
    return Capabilities(
        api="press",
        style="standard",
        fields=frozenset({"seed"}),
        local_images=True,
        base_url="https://press.example",
        key_names=("PRESS_KEY",),
        model="large",
        batch=SOLD if model == "large" else None,
        by_model=offer if model == "large" else None,
    )


@pytest.fixture
def both(offers: tuple[Capabilities, ...]) -> tuple[Capabilities, ...]:
    """APIs that sell no batches, and one that does, of one of its models."""
    return (*offers, offer())


def found(load: Load, offers: tuple[Capabilities, ...], text: str) -> list[str]:
    """Return what is wrong with a manifest, first of all the part before its jobs."""
    noted: list[Fault] = []
    try:
        for _ in expand(load(text, offers=offers), offers, noted.append):
            pass
    except ManifestError as error:
        noted = list(error.faults)
    return [f"{fault.where}: {fault.message}" for fault in noted]


def _sound(fault: Fault) -> None:
    pytest.fail(str(fault))


def one(provider: str, job: str = "prompt: x") -> str:
    return f"version: 1\nprovider: {{{provider}}}\njobs: [{{{job}}}]\n"


def test_a_batch_costs_a_share_of_the_price(load: Load, both: tuple[Capabilities, ...]) -> None:
    text = "name: press, mode: batch_then_live, live_from: '04:00', price: 0.041"
    made = load(one(text), offers=both).provider
    assert (made.mode, made.live_from, made.batched) == ("batch_then_live", Deadline(clock=(4, 0)), True)
    assert (made.batch_share, made.in_batch(Decimal("0.041"))) == (Decimal("0.4"), Decimal("0.0164"))
    assert made.in_batch(Decimal("0.0000000012")) == Decimal("0.000000001")  # never less than what is counted
    other = load(one(f"{text}, batch_share: 1"), offers=both).provider
    assert other.in_batch(Decimal("0.041")) == Decimal("0.041")
    live = load(one("name: press"), offers=both).provider
    assert (live.batched, live.batch_share) == (False, Decimal("0.4"))
    assert load(one("name: bfl"), offers=both).provider.batch_share is None


def test_what_an_answer_counts_has_the_price_of_a_batch(load: Load, both: tuple[Capabilities, ...]) -> None:
    prices = "price: {large: {most: 1, text_in: 10, image_out: 20}}"
    made = load(one(f"name: press, mode: batch, {prices}"), offers=both).provider
    told = Cost(tokens={"text_in": 1000, "image_out": 1000})
    assert (made.cost_of("large", told), made.cost_of("large", told, batched=True)) == (
        Decimal("0.03"), Decimal("0.012"),
    )  # fmt: skip
    exact = Cost(amount=Decimal("0.3"), currency="USD")
    assert made.cost_of("large", exact, batched=True) == Decimal("0.3")
    assert made.cost_of("large", None, batched=True) is None


@pytest.mark.parametrize(
    ("provider", "expected"),
    [
        ("name: bfl, mode: batch", [
            "provider.mode: the API bfl sells no batches; set mode: live, or use an API that does: press",
        ]),
        ("name: simulator, mode: batch", [
            "provider.mode: the API flux-relay sells no batches; set mode: live, or use an API that does: press",
        ]),
        ("name: press, model: small, mode: batch", [
            'provider.mode: the API press sells no batches of "small"; set mode: live, or name another model',
        ]),
        ("name: bfl, batch_share: 0.5", ["provider.batch_share: the API bfl sells no batches; remove batch_share"]),
        ("name: press, mode: batch, base_url: ['https://a.example', 'https://b.example']", [
            "provider.mode: a batch lies at one address, and these are 2; set mode: live, or write one base_url",
        ]),
        ("name: press, mode: batch_then_live", [
            'provider.live_from: is missing; add when what is not back from batches is sent live, as "04:00" or 5h',
        ]),
        ("name: press, mode: batch, live_from: 5h", [
            "provider.live_from: is for mode: batch_then_live; set that mode, or remove live_from",
        ]),
        ("name: press, mode: night", [
            'provider.mode: found "night"; allowed is live, batch or batch_then_live',
        ]),
        ("name: press, mode: batch_then_live, live_from: 4 am", [
            'provider.live_from: found "4 am"; allowed is a clock time, as "06:00", or a duration, as 5h',
        ]),
        ("name: press, mode: batch, batch_share: 0", [
            'provider.batch_share: found "0"; allowed is a share above 0, at most 1, as 0.5',
        ]),
        ("name: press, mode: batch, batch_share: 1.5", [
            'provider.batch_share: found "1.5"; allowed is a share above 0, at most 1, as 0.5',
        ]),
    ],
)  # fmt: skip
def test_what_a_mode_cannot_be(provider: str, expected: list[str], load: Load, both: tuple[Capabilities, ...]) -> None:
    assert found(load, both, one(provider)) == expected


def test_all_apis_that_sell_batches_are_named(load: Load) -> None:
    (said,) = found(load, capabilities(), one("name: fal, mode: batch"))
    assert said.endswith("sells no batches; set mode: live, or use an API that does: gemini or openai")
    (said,) = found(load, capabilities(), one("name: openai, model: flux, mode: batch"))
    assert said.endswith('sells no batches of "flux"; set mode: live, or name another model')


def test_what_a_batch_cannot_carry(load: Load, both: tuple[Capabilities, ...]) -> None:
    assert found(load, both, one("name: press, mode: batch", "id: a, prompt: x, seed: 1")) == [
        "jobs[0] (id a): a batch carries no seed; remove it",
    ]
    assert found(load, both, one("name: press, mode: live", "id: a, prompt: x, seed: 1")) == []
    assert found(load, both, one("name: press, mode: batch", "id: a, prompt: x, model: small")) == [
        'jobs[0] (id a): the API press sells no batches of "small"; set mode: live, or another model',
    ]


def test_a_batch_takes_no_job_over_and_may_have_its_own_taken_over(load: Load, both: tuple[Capabilities, ...]) -> None:
    text = """
version: 1
providers:
  night: {api: press, mode: batch}
  day: {api: bfl}
provider: %s
fallback: [%s]
jobs: [{id: a, prompt: x}]
"""
    assert found(load, both, text % ("day", "night")) == [
        "fallback: night works in batches, which take no job over; take it out, or set its mode: live",
    ]
    manifest = load(text % ("night", "day"), offers=both)
    (job,) = expand(manifest, both, _sound)
    assert [way.provider for way in job.fallbacks] == ["day"]


def test_a_mode_is_no_part_of_what_a_job_is(load: Load, both: tuple[Capabilities, ...]) -> None:
    def key(mode: str) -> str:
        (job,) = expand(load(one(f"name: press, mode: {mode}"), offers=both), both, _sound)
        return job.key

    assert key("live") == key("batch")
