"""What the command line changes: --set, --provider and --out."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from batchflux.errors import ManifestError
from batchflux.manifest import ProviderConfig, Rate

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.manifest import Manifest

    Load = Callable[..., Manifest]

KEY = (
    "command line: provider.api_key: a key does not belong in a manifest; put it into an environment variable and name "
    "that under keys"
)
RATES = (
    'command line: limits.rates: unknown key "rates"; did you mean "rate"? Allowed: attempts, budget, budget_per_run, '
    "canary, concurrency, deadline, max_consecutive_failures, patience, rate, timeout"
)
TEXT = """\
version: 1
provider: {name: tuzi, base_url: "https://${HOST}", keys: [A], price: 0.1, options: {x: 1}}
jobs:
  - {prompt: x, id: a}
  - {prompt: y, images: [https://h.example/a.png]}
"""


def test_values_are_read_as_in_the_file(load: Load) -> None:
    made = load(
        TEXT,
        sets=[
            "provider.base_url=http://127.0.0.1:8000/v1",
            "limits.rate=10/s",
            "limits.deadline=06:00",
            "provider.price=0.10",
            "provider.options={latency: 1.5, list: [1, no]}",
            "provider.options.extra=010",
            "jobs.0.seed=3",
            "jobs.0.aspect_ratio=16:9",
            "jobs.0.prompt=Make it: red # really",
            "jobs.1.images.0='https://h.example/b.png'",
            "name=",
        ],
    )
    assert made.provider.base_url == "http://127.0.0.1:8000"
    assert made.provider.price == Decimal("0.10")
    assert made.provider.options == {"latency": 1.5, "list": [1, "no"], "extra": "010"}
    assert made.limits.rate == Rate(count=10, seconds=1)
    assert made.name == "m"
    assert made.entries[0].fields == {
        "prompt": "Make it: red # really", "id": "a", "seed": 3, "aspect_ratio": "16:9",
    }  # fmt: skip
    assert made.entries[1].fields["images"] == ("https://h.example/b.png",)
    assert made.text == TEXT


def test_the_simulator_takes_nothing_of_another_provider(load: Load) -> None:
    assert load(TEXT, provider="simulator").provider == ProviderConfig()
    assert load(TEXT, sets=["provider.price=2"], provider="simulator").provider.price == 2
    assert load(TEXT, sets=["provider.options.latency=2"], provider="simulator").provider.options == {"latency": 2}


def test_the_same_provider_keeps_what_is_its_own(load: Load) -> None:
    made = load(TEXT, provider="tuzi", environ={"HOST": "h.example"})
    assert (made.provider.base_url, made.provider.keys) == ("https://h.example", ("A",))


def test_a_price_goes_only_with_the_real_provider(load: Load) -> None:
    assert load(TEXT, provider="relay", sets=["provider.base_url=http://r"]).provider.price == Decimal("0.1")
    for provider in ("{name: simulator, price: 0.1}", "{price: 0.1}"):  # people try their budget on it
        text = f"version: 1\nprovider: {provider}\nlimits: {{budget: 1}}\njobs: [{{prompt: x}}]\n"
        assert load(text, provider="simulator").provider.price == Decimal("0.1")


def test_a_provider_can_be_added(load: Load) -> None:
    made = load("version: 1\njobs: [{prompt: x}]\n", provider="relay", sets=["provider.base_url=http://r"])
    assert (made.provider.name, made.provider.base_url, made.provider.keys) == ("relay", "http://r", ())
    assert (
        load("version: 1\nprovider: tuzi\njobs: [{prompt: x}]\n", sets=["provider=simulator"]).provider.base_url is None
    )


def test_an_alias_is_set_in_one_place_only(load: Load) -> None:
    made = load(
        "version: 1\njobs:\n  - &a {prompt: x, tags: {t: 1}}\n  - *a\n", sets=["jobs.1.tags.t=2", "jobs.1.seed=1"]
    )
    assert [entry.fields.get("tags") for entry in made.entries] == [(("t", "1"),), (("t", "2"),)]
    assert "seed" not in made.entries[0].fields


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("limits.rate", 'command line: found --set "limits.rate"; allowed is PATH=VALUE, as limits.rate=10/s'),
        ("=3", 'command line: found --set ""; allowed is PATH=VALUE, as limits.rate=10/s'),
        (
            "limits.rates=3/s",
            RATES,
        ),
        (
            "limits.rate=3",
            'command line: limits.rate: found "3"; allowed is N/s, N/min or N/h with N above 0, as 300/min'),
        (
            "jobs.7.seed=3",
            'command line: found the path "jobs.7.seed"; allowed in place of "7" is a position from 0 to 1'),
        ("jobs.x=3", 'command line: found the path "jobs.x"; allowed in place of "x" is a position from 0 to 1'),
        (
            "name.first=3",
            'command line: found the path "name.first"; there is nothing below it, for a single value stands there'),
        (".".join("a" * 17) + "=3", "command line: found a path of 17 parts; allowed are at most 16"),
        (
            "limits..rate=3",
            'command line: found the path "limits..rate"; allowed is a path of names and positions, as jobs.0.seed'),
        (
            "jobs.0.seed=one",
            'command line: jobs[0].seed: found "one"; allowed is a whole number of at most 64 bits, as 42'),
        ("jobs.0=[1", "command line: a [ or { is not closed here, or a text between them needs quotes"),
        ("provider.api_key=x", KEY),
        ("jobs.0.image=photos/mug.jpg", None),
        ("jobs[0].image=photos/mug.jpg", None),  # as messages name it
    ],
)  # fmt: skip
def test_what_cannot_be_set(text: str, expected: str | None, load: Load) -> None:
    name = TEXT.replace("version: 1", "version: 1\nname: n")
    if expected is None:
        assert load(name, sets=[text], environ={"HOST": "h.example"}).entries[0].fields["images"] == ("photos/mug.jpg",)
        return
    with pytest.raises(ManifestError) as caught:
        load(name, sets=[text], environ={"HOST": "h.example"})
    assert str(caught.value) == expected
