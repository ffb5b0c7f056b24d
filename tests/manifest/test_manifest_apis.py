"""APIs: which one a provider speaks, what it can carry, its prices and its own options."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.manifest import ProviderConfig, expand
from batchflux.manifest.providers.offers import option_faults
from batchflux.providers import capabilities

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.capabilities import Capabilities
    from batchflux.errors import Fault
    from batchflux.manifest import Expansion, Manifest
    from batchflux.models import Job

    Jobs = Callable[[str], list[Job]]
    Faulty = Callable[[str | bytes], list[str]]

ONE = "jobs: [{prompt: x}]\n"
BFL = "version: 1\nprovider: {name: bfl}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bfl", {"api": "bfl", "base_url": "https://api.bfl.ai", "keys": ("BFL_API_KEY",)}),
        ("{name: mine, api: bfl}", {"api": "bfl", "base_url": "https://api.bfl.ai", "keys": ("BFL_API_KEY",)}),
        ("{name: mine, api: bfl, base_url: 'http://h', keys: []}", {"api": "bfl", "base_url": "http://h", "keys": ()}),
        ("{name: mine, api: bfl, base_url: 'http://h'}", {"api": "bfl", "base_url": "http://h", "keys": ()}),
        ("{name: bfl, base_url: 'http://h'}", {"api": "bfl", "base_url": "http://h", "keys": ("BFL_API_KEY",)}),
        ("{name: bfl, api: flux-relay}", {"api": "flux-relay", "base_url": "https://api.bfl.ai"}),
        ("tuzi", {"api": "flux-relay", "base_url": "https://api.tu-zi.com", "simulated": False}),
        ("{name: other, base_url: 'http://h'}", {"api": "flux-relay", "base_url": "http://h", "keys": ()}),
        ("simulator", {"api": "flux-relay", "base_url": None, "simulated": True}),
        ("{api: bfl}", {"api": "bfl", "base_url": None, "keys": (), "simulated": True}),
        ("{name: dry, api: simulator}", {"api": "flux-relay", "base_url": None, "simulated": True}),
    ],
)
def test_a_name_or_an_api_brings_the_rest(
    text: str, expected: dict[str, Any], load: Callable[..., Manifest], offers: tuple[Capabilities, ...]
) -> None:
    provider = load(f"version: 1\nprovider: {text}\n{ONE}", offers=offers).provider
    assert {name: getattr(provider, name) for name in expected} == expected


def test_another_provider_speaks_its_own_api_and_the_simulator_any(load: Callable[..., Manifest]) -> None:
    text = f"version: 1\nprovider: {{name: mine, api: bfl, style: auto}}\n{ONE}"
    assert load(text, provider="tuzi").provider.api == "flux-relay"
    assert load(text, provider="simulator").provider == ProviderConfig(api="bfl")


@pytest.mark.parametrize(
    ("provider", "place", "message"),
    [
        ("{api: blf}", "2: provider.api", 'found "blf", which is not known; did you mean "bfl"? Allowed: bfl, flux-'),
        ("{name: bfl, style: chat}", "2: provider.style", 'found "chat"; the API bfl has no call styles, so remove'),
        ("{style: native}", "2: provider.style", 'found "native"; allowed is auto, standard or chat'),
        ("{name: x, api: simulator, base_url: 'http://h'}", "2: provider.base_url", "the simulator runs inside; remov"),
        ("\n  name: bfl\n  options:\n    raw: true\n    strenght: 1", "6: provider.options.strenght",
         'unknown key "strenght"; did you mean "strength"? Allowed: raw, strength'),
        ("{name: bfl, options: {strength: 2}}", "2: provider.options.strength", "input should be less than or"),
        ("{name: tuzi, options: {raw: true}}", "2: provider.options.raw", 'unknown key "raw"; the API flux-relay has'),
        ("{name: bfl, price: {a: 0.1, b: much}}", "2: provider.price", 'of "b": found "much"; allowed is an amount'),
        ("{name: bfl, price: {a: }}", "2: provider.price", 'of "a": found nothing; allowed is an amount'),
        ("{name: bfl, price: [1]}", "2: provider.price", "found a list; allowed is a single value"),
    ],
)  # fmt: skip
def test_a_provider_that_is_refused(provider: str, place: str, message: str, faults: Faulty) -> None:
    (found,) = faults(f"version: 1\nprovider: {provider}\n{ONE}")
    assert found.startswith(f"m.yaml:{place}: {message}")


def test_an_option_of_the_provider_is_never_shown(
    load: Callable[..., Manifest], offers: tuple[Capabilities, ...]
) -> None:
    text = f"version: 1\nprovider: {{name: bfl, options: {{strength: '${{S}}'}}}}\n{ONE}"
    with pytest.raises(Exception, match=r"provider\.options\.strength: input should be a valid number") as caught:
        load(text, offers=offers, environ={"S": "canary"})
    assert "canary" not in str(caught.value)


def test_all_faults_of_a_provider_and_its_jobs_come_at_once(faults: Faulty) -> None:
    text = "version: 1\nprovider: {name: bfl, options: {rw: 1, strength: 7}}\njobs: [{prompt: x, options: {r: 1}}]\n"
    assert [fault.split(": ")[1] for fault in faults(text)] == [
        "provider.options.strength", "provider.options.rw", "jobs[0].options.r",
    ]  # fmt: skip


# --- what an API can carry --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ("safety_tolerance: 2", "safety_tolerance cannot be carried by the API bfl; remove safety_tolerance, or set "),
        ("images: [a.png, b.png, c.png]", "found 3 references; the API bfl takes at most 2; take some out"),
        ("image: 'https://h.example/a.png?sig=canary'",
         'the API bfl takes no URL as a reference, and "https://h.example/a.png" is one; save the photo beside'),
        ("style: standard", 'found "standard"; the API bfl has no call styles, so remove style'),
    ],
)  # fmt: skip
def test_what_an_api_cannot_carry_is_named_with_the_remedy(job: str, message: str, faults: Faulty) -> None:
    (found,) = faults(f"{BFL}jobs: [{{prompt: x, id: a, {job}}}]\n")
    assert found.startswith(f"m.yaml:3: jobs[0] (id a): {message}")


def test_formats_are_those_of_the_api(faults: Faulty, jobs: Jobs) -> None:
    job = "jobs: [{prompt: x, output_format: webp, id: a}]\n"
    (made,) = jobs(BFL + job)
    assert (made.output_format, made.file_name, made.style) == ("webp", "images/a.webp", "polled")
    assert faults(f"version: 1\n{job}") == [
        "m.yaml:2: jobs[0] (id a): output_format webp cannot be made by style standard; allowed is jpeg or png"
    ]


def test_one_offer_takes_local_files_without_a_style(jobs: Jobs) -> None:
    (made,) = jobs(f"{BFL}jobs: [{{prompt: x, image: photos/mug.jpg, seed: 1}}]\n")
    assert (made.style, made.seed, made.dropped) == ("polled", 1, ())


def test_a_style_that_nobody_offers_is_refused_for_a_job(faults: Faulty) -> None:
    (found,) = faults("version: 1\njobs: [{prompt: x, style: native, id: a}]\n")
    assert found == 'm.yaml:2: jobs[0] (id a): found "native"; allowed is auto, standard or chat'


# --- options of a job -------------------------------------------------------------------------------------------------


def test_options_of_a_job_win_and_are_part_of_its_key(jobs: Jobs) -> None:
    made = jobs("""\
version: 1
provider: {name: bfl, options: {raw: true}}
defaults: {options: {strength: 0.5}}
jobs:
  - {prompt: a}
  - {prompt: a, options: {raw: false}}
  - {prompt: a, options: {strength: "{{ s }}"}, matrix: {s: [0.25, 1]}}
""")
    assert [dict(job.options) for job in made] == [
        {"raw": True, "strength": 0.5}, {"raw": False, "strength": 0.5},
        {"raw": True, "strength": 0.25}, {"raw": True, "strength": 1.0},
    ]  # fmt: skip
    assert len({job.key for job in made}) == 4


def test_a_job_without_options_keeps_its_key(jobs: Jobs) -> None:
    (plain,), (empty,) = jobs(f"{BFL}{ONE}"), jobs(f"{BFL}jobs: [{{prompt: x, options: {{}}}}]\n")
    (other,) = jobs(f"{BFL}jobs: [{{prompt: x, options: {{raw: true}}}}]\n")
    assert plain.key == empty.key != other.key
    assert plain.options == ()


def test_options_of_the_simulator_are_not_a_jobs(jobs: Jobs) -> None:
    (made,) = jobs(f"version: 1\nprovider: {{options: {{latency: 0.5}}}}\n{ONE}")
    assert made.options == ()


def test_options_that_are_refused(folder: Any, faults: Faulty) -> None:
    (folder / "t.csv").write_text("s\n0.5\nmuch\n")
    assert faults(f"{BFL}jobs:\n  - {{prompt: x, from: t.csv, options: {{strength: '{{{{ s }}}}'}}}}\n") == [
        "t.csv:3: jobs[0].options.strength: input should be a valid number, unable to parse string as a number"
    ]
    (found,) = faults("version: 1\njobs: [{prompt: x, id: a, options: {raw: 1}}]\n")
    assert found.startswith("m.yaml:2: jobs[0] (id a): options cannot be carried by style standard; remove options, or")
    (found,) = faults(f"{BFL}jobs: [{{prompt: x, options: [raw]}}]\n")
    assert found == "m.yaml:3: jobs[0].options: found a list; allowed is a mapping"
    (found,) = faults(f"{BFL}jobs: [{{prompt: x, options: {{raw: ['{{{{ a }}}}']}}}}]\n")
    assert found.startswith("m.yaml:3: jobs[0].options.raw: found a list with a template in it")


def test_an_api_may_take_any_option(load: Callable[..., Manifest]) -> None:
    """A server of one's own knows more than is known of it."""
    options = "{num_inference_steps: 20, size: 512x512}"
    text = f"{{name: mine, api: openai, base_url: 'http://h', model: Qwen-Image, options: {options}}}"
    made = load(f"version: 1\nprovider: {text}\njobs: [{{prompt: x, options: {{cfg: 4}}}}]\n", offers=capabilities())
    found: list[Fault] = []
    (job,) = expand(made, capabilities(), found.append)
    assert found == []
    assert dict(job.options) == {"num_inference_steps": 20, "size": "512x512", "cfg": 4}


@pytest.mark.parametrize(
    ("provider", "job", "said"),
    [
        (
            "openai, model: gpt-image-1.5",
            "background: transparent, output_format: jpg",
            "set output_format: png or webp",
        ),
        ("openai, model: gpt-image-1.5", "aspect_ratio: 16:9", "allowed is 1:1, 3:2 or 2:3"),
        ("openai, model: gpt-image-1.5", "seed: 1", "seed cannot be carried by the API openai"),
        ("openai, model: gpt-image-2, options: {edits: multipart}", "image: 'http://h/a.png'", "edits: json"),
        ("openrouter, model: x/y, options: {endpoint: chat}", "quality: high", "chat has no place for quality"),
        ("gemini, model: gemini-2.5-flash-image", "resolution: 2K", "resolution cannot be carried by the API gemini"),
        (
            "gemini, model: gemini-3-pro-image",
            "output_format: png",
            "output_format cannot be carried by the API",
        ),
    ],
)
def test_what_one_model_cannot_make_is_a_fault_with_the_remedy(
    provider: str, job: str, said: str, load: Callable[..., Manifest]
) -> None:
    text = f"version: 1\nprovider: {{name: {provider}}}\njobs: [{{prompt: x, {job}}}]\n"
    found: list[Fault] = []
    assert list(expand(load(text, offers=capabilities()), capabilities(), found.append)) is not None
    assert len(found) == 1
    assert said in str(found[0])


# --- prices -----------------------------------------------------------------------------------------------------------


def test_a_price_is_one_or_one_by_each_model(load: Callable[..., Manifest]) -> None:
    one = load(f"version: 1\nprovider: {{name: tuzi, price: 0.14}}\n{ONE}").provider
    assert (one.price, one.price_of("any")) == (Decimal("0.14"), Decimal("0.14"))
    many = load(f"version: 1\nprovider: {{name: tuzi, price: {{a: 0.10, b: 0}}}}\n{ONE}").provider
    assert (many.price_of("a"), many.price_of("b"), many.price_of("c")) == (Decimal("0.10"), Decimal(0), None)
    assert str(many.price_of("a")) == "0.10"


def test_with_a_budget_every_model_that_is_used_needs_a_price(
    faults: Faulty, expansion: Callable[[str], tuple[Expansion, list[Fault]]]
) -> None:
    head = "version: 1\nprovider: {name: tuzi, price: {a: 0.1, b: 0}}\nlimits: {budget: 1}\n"
    text = f"{head}jobs:\n  - {{prompt: x, model: a}}\n  - {{prompt: y, matrix: {{model: [b, c, c, d]}}}}\n"
    assert [fault.split(": ", 2)[2] for fault in faults(text)] == [
        f'a budget needs the price of the model "{model}"; add it to provider.price (0 is one)' for model in "cd"
    ]
    made, found = expansion(text.replace("limits: {budget: 1}\n", ""))
    assert (len(list(made)), found) == (4, [])


def test_an_option_that_has_to_be_there_is_said_to_be_missing() -> None:
    (offer,) = (one for one in capabilities() if one.api == "comfyui")
    assert option_faults({"workflow": "w.json"}, offer) == [("inputs", "is missing; add it")]
