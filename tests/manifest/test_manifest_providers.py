"""Several providers: who makes a job, what its key says of that, and who takes it over."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.manifest import expand

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.capabilities import Capabilities
    from batchflux.manifest import Manifest
    from batchflux.models import Job

    Jobs = Callable[[str], list[Job]]
    Faulty = Callable[[str], list[str]]

HEAD = """\
version: 1
providers:
  cheap: {api: flux-relay, base_url: "https://relay.example", keys: [A], model: pro, price: 0.02}
  best: {api: bfl, model: max, price: 0.08, limits: {concurrency: 2, rate: 60/min}}
"""
ONE = "jobs: [{prompt: x}]\n"


@pytest.mark.parametrize(
    ("text", "maker", "said"),
    [
        (ONE, "cheap", None),
        (f"provider: best\n{ONE}", "best", None),
        (f"defaults: {{provider: best}}\n{ONE}", "best", None),
        ("provider: best\njobs: [{prompt: x, provider: cheap}]\n", "cheap", "cheap"),
        ("defaults: {provider: cheap}\njobs: [{prompt: x, matrix: {provider: [best]}}]\n", "best", "best"),
        ("defaults: {provider: best}\njobs: [{prompt: x, provider: }]\n", "cheap", None),
    ],
)
def test_who_makes_a_job_and_what_its_key_says_of_it(text: str, maker: str, said: str | None, jobs: Jobs) -> None:
    (made,) = jobs(HEAD + text)
    assert (made.provider, made.key_provider, made.model) == (maker, said, {"cheap": "pro", "best": "max"}[maker])


def test_a_single_providers_job_has_the_key_that_it_has_among_several(jobs: Jobs) -> None:
    (alone,) = jobs(f"version: 1\nprovider: {{name: mine, api: bfl, model: max}}\n{ONE}")
    (among,) = jobs(f"{HEAD}provider: best\n{ONE}")
    assert alone.key == among.key


def test_the_command_line_wins_and_changes_no_key(
    load: Callable[..., Manifest], offers: tuple[Capabilities, ...]
) -> None:
    def made(**how: Any) -> list[Job]:
        text = f"{HEAD}provider: best\nfallback: [cheap]\njobs: [{{prompt: x, provider: cheap}}, {{prompt: x}}]\n"
        return list(expand(load(text, offers=offers, **how), offers, lambda fault: pytest.fail(str(fault))))

    assert [job.provider for job in made()] == ["cheap", "best"]
    chosen = made(provider="cheap")
    assert [(job.provider, job.fallbacks) for job in chosen] == [("cheap", ()), ("cheap", ())]
    assert chosen[0].key == made()[0].key
    assert [job.provider for job in made(provider="simulator")] == ["cheap", "best"]


def test_the_simulator_takes_all_places_for_nothing(
    load: Callable[..., Manifest], offers: tuple[Capabilities, ...]
) -> None:
    made = load(f"{HEAD}provider: best\n{ONE}", offers=offers, provider="simulator")
    assert (made.simulated, made.free, made.provider.name) == (True, True, "best")
    assert [(one.api, one.price, one.keys) for one in made.providers.values()] == [
        ("flux-relay", None, ()), ("bfl", None, ()),
    ]  # fmt: skip


def test_who_takes_over_makes_the_job_as_its_own(jobs: Jobs) -> None:
    made = jobs(f"""{HEAD}fallback: [best, cheap]
jobs:
  - {{prompt: a, seed: 1}}
  - {{prompt: a, safety_tolerance: 2}}
  - {{prompt: a, image: "https://h.example/a.png"}}
  - {{prompt: a, provider: cheap}}
  - {{prompt: a, matrix: {{provider: [best]}}}}
""")
    ways = [[(way.provider, way.model, way.style) for way in job.fallbacks] for job in made]
    assert ways == [[("best", "max", "polled")], [], [], [], []]
    other = made[0].by(made[0].fallbacks[0])
    assert (other.key, other.provider, other.model) == (made[0].key, "best", "max")


def test_limits_of_a_provider_win_over_those_of_all(
    load: Callable[..., Manifest], offers: tuple[Capabilities, ...]
) -> None:
    made = load(f"{HEAD}limits: {{concurrency: 9, attempts: 3}}\n{ONE}", offers=offers)
    best, cheap = made.limits_of("best"), made.limits_of("cheap")
    assert (best.concurrency, best.attempts, cheap.concurrency, cheap.rate) == (2, 3, 9, None)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (ONE, ("cheap",)),
        (f"fallback: best\n{ONE}", ("cheap", "best")),
        ("jobs: [{prompt: x, provider: best}]\n", ("best",)),
        ("jobs: [{prompt: x, matrix: {provider: [best]}}]\n", ("best",)),
        ("jobs: [{prompt: x, provider: '{{ p }}', matrix: {p: [best]}}]\n", ("cheap", "best")),
    ],
)
def test_only_who_may_be_asked_needs_a_key(
    text: str, names: tuple[str, ...], load: Callable[..., Manifest], offers: tuple[Capabilities, ...]
) -> None:
    assert load(HEAD + text, offers=offers).may_ask == names


def test_nothing_is_in_any_currency(load: Callable[..., Manifest], offers: tuple[Capabilities, ...]) -> None:
    text = f"{HEAD.replace('0.02', '0').replace('0.08', '0.08, currency: CNY')}limits: {{budget: 1}}\n{ONE}"
    made = load(text, offers=offers)
    assert (made.currency, made.providers["cheap"].currency, made.price_of("best", "max")) == (
        "CNY", "CNY", Decimal("0.08"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEAD}provider: {{name: tuzi}}\n{ONE}", "5: provider: found a mapping beside providers; allowed is the nam"),
        (f"{HEAD}provider: cheep\n{ONE}", '5: provider: found "cheep", which is no provider of this manifest; did you'),
        (f"{HEAD}jobs: [{{prompt: x, provider: bets}}]\n",
         '5: jobs[0]: found the provider "bets", which is no provider of this manifest; did you mean "best"?'),
        (f"{HEAD}fallback: [bets]\n{ONE}", '5: fallback: found "bets", which is no provider of this manifest; did you'),
        (f"{HEAD}fallback: [best]\nfallback_on: [server]\n{ONE}", '6: fallback_on: found "server"; allowed is moderat'),
        (f"{HEAD}fallback_on: [moderated]\n{ONE}", "5: fallback_on: nobody takes these jobs over; add fallback, the"),
        (f"version: 1\nprovider: tuzi\nfallback: [x]\n{ONE}", "3: fallback: there is one provider only; list it and"),
        (f"{HEAD.replace('concurrency', 'budget')}{ONE}", '4: providers.best.limits.budget: unknown key "budget"; all'),
        (f"{HEAD.replace('0.08', '0.08, currency: CNY')}{ONE}", '4: providers.best.currency: found "CNY", and the pri'),
        (f"{HEAD.replace('price: 0.08, ', '')}fallback: best\nlimits: {{budget: 1}}\n{ONE}",
         '4: providers.best.price: a budget needs the price of the model "max", by which best takes jobs over; add it'),
        (f"{HEAD}jobs: [{{prompt: x, id: a, mask: photos/cup.png}}]\n",
         "5: jobs[0] (id a): mask cannot be carried by style standard of cheap; remove mask, or set providers.cheap"),
        (f"version: 1\nproviders: {{gpu: {{api: bfl, base_url: [simulator, 'http://h']}}}}\n{ONE}",
         "2: providers.gpu.base_url: the embedded simulator is one address; write base_url: simulator"),
        (f"version: 1\nproviders: {{mine: }}\n{ONE}", '2: providers.mine: found "mine", which is not known; allowed: '),
        (f"version: 1\nproviders: {{}}\n{ONE}", "2: providers: found nothing; allowed are providers by names"),
    ],
)  # fmt: skip
def test_what_is_refused_of_several_providers(text: str, message: str, faults: Faulty) -> None:
    (found,) = faults(text)
    assert found.startswith(f"m.yaml:{message}")
