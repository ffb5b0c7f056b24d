"""Manifests that come from outside: what they may say, and that nothing of the machine is looked at for them."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.gateway.extras.manifests import MOST_BYTES, MOST_JOBS, expanded, text_of
from batchflux.gateway.orders import RefusalError
from batchflux.manifest import Manifest, load_manifest
from batchflux.providers import capabilities

if TYPE_CHECKING:
    from pathlib import Path

OFFERS = capabilities()
MODELS = {("m", "tuzi"): "m", ("dear", "tuzi"): "dear", ("m", "other"): "other/m"}
GATEWAY = """version: 1
provider: tuzi
providers:
  tuzi: {keys: [TEST_KEY], model: m, price: {m: 0.04, dear: 0.1}, currency: USD}
  other: {api: openai, keys: [TEST_KEY], model: m, price: 0.02}
output: {dir: out, file_name: "{{ tags.sku }}.{{ ext }}"}
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "m.yaml").write_text(GATEWAY, encoding="utf-8")
    (folder / "lines.txt").write_text("sk-canary\n", encoding="utf-8")
    (folder / "rows.csv").write_text("prompt\nsk-canary\n", encoding="utf-8")
    return load_manifest(folder / "m.yaml", served=True, offers=OFFERS)


def told(served: Manifest, text: str) -> dict[str, Any]:
    return expanded(served, OFFERS, MODELS, text_of({"manifest": text}))


def test_jobs_become_calls_with_what_they_cost(served: Manifest) -> None:
    made = told(
        served,
        """
        name: mugs
        x-colours: &colours [red, blue]
        defaults: {aspect_ratio: "16:9", output_format: png, tags: {season: spring}}
        jobs:
          - id: "mug-{{ colour }}"
            prompt: "a {{ colour }} mug"
            matrix: {colour: *colours}
            seed: 7
          - {prompt: "https://8.8.8.8/a.png on oak", model: dear, variant: 2, safety_tolerance: 0}
          - {prompt: a cup, provider: other, aspect_ratio: null}
        """,
    )
    jobs = made["jobs"]
    keys = [job.pop("idempotency_key") for job in jobs]
    assert jobs[0] == {
        "id": "mug-red",
        "prompt": "a red mug",
        "model": "m",
        "images": [],
        "seed": 7,
        "aspect_ratio": "16:9",
        "output_format": "png",
    }
    assert jobs[2]["images"] == ["https://8.8.8.8/a.png"]
    assert (jobs[2]["prompt"], jobs[2]["model"], jobs[2]["safety_tolerance"]) == ("on oak", "dear", 0)
    assert (jobs[3]["model"], "aspect_ratio" in jobs[3]) == ("other/m", False)
    assert len(set(keys)) == len(keys) == 4
    assert (made["cost"], made["currency"]) == ("0.20", "USD")


def test_a_key_is_of_the_content_alone(served: Manifest) -> None:
    one = told(served, "jobs: [{prompt: a mug, seed: 1}, {prompt: a mug, seed: 2}, {prompt: a mug, variant: 2}]")
    other = told(served, "name: n\ndefaults: {seed: 1}\njobs: [{id: x, prompt: a mug, tags: {n: 1}}]")
    keys = [job["idempotency_key"] for job in one["jobs"]]
    assert len(set(keys)) == 3
    assert other["jobs"][0]["idempotency_key"] == keys[0]


LONG = "a" * 20_000
REFUSED = [
    ("provider: other\njobs: [{prompt: x}]", "provider: is the gateway's own"),
    ("output: {dir: /tmp}\njobs: [{prompt: x}]", "output: is the gateway's own"),
    ("limits: {budget: 1}\njobs: [{prompt: x}]", "limits: is the gateway's own"),
    ("jobs: [{from: rows.csv, prompt: '{{ prompt }}'}]", "from: does not reach a gateway"),
    ("jobs: [{prompt: '{{ l }}', matrix: {l: {lines: lines.txt}}}]", "lines reads files, and none are read here"),
    ("jobs: [{prompt: x, matrix: {image: {glob: '*.txt'}}}]", "glob reads files, and none are read here"),
    ("jobs: [{prompt: x, zip: {image: {glob: '/etc/*'}}}]", "glob reads files, and none are read here"),
    ("jobs: [{prompt: x, image: lines.txt}]", '"lines.txt" is no address of the web'),
    ("jobs: [{prompt: x, image: missing.png}]", '"missing.png" is no address of the web'),  # the same words
    ("jobs: [{prompt: x, images: ['{{ p }}'], matrix: {p: [/etc/passwd]}}]", '"/etc/passwd" is no address of the web'),
    ("jobs: [{prompt: x, image: 's3://bucket/key.png'}]", "is no address of the web"),
    ("jobs: [{prompt: x, image: 'file:///etc/passwd'}]", "allowed is an http"),
    ("defaults: {mask: lines.txt}\njobs: [{prompt: x}]", "mask: does not reach a gateway"),
    ("jobs: [{prompt: x, options: {a: 1}}]", "options: does not reach a gateway"),
    ("jobs: [{prompt: x, webhook_url: 'http://10.0.0.1/'}]", "webhook_url: does not reach a gateway"),
    ("jobs: [{prompt: x, webhook_secret: '${TEST_KEY}'}]", "webhook_secret: does not reach a gateway"),
    ("jobs: [{prompt: '{{ env.TEST_KEY }}'}]", 'the variable "env" does not exist'),
    ("jobs: [{prompt: '{{ x.__class__ }}', matrix: {x: [a]}}]", "jobs[0].prompt"),
    ("jobs: [{prompt: x, model: unpriced}]", "the model"),
    ("jobs: [{prompt: x, model: ''}]", "jobs[0].model"),
    ("jobs: [{prompt: x, provider: nobody}]", "no provider of this manifest"),
    ("jobs: [{prompt: x, seed: many}]", "jobs[0].seed"),
    ("jobs: [{seed: 1}]", "jobs[0].prompt: is missing"),
    ("jobs: []", "the list is empty"),
    ("jobs: [3]", 'found "3"'),
    ("- a", "a manifest is a mapping with jobs"),
    ("", "the file is empty"),
    ("jobs: [{prompt: x}", "is not closed here"),
    ("jobs: [{prompt: !!python/name:os.system x}]", "the tag"),
    ("a: &a [*a]\njobs: [{prompt: x}]", "the alias *a stands inside what it names"),
    ("jobs: [{prompt: '{{ i }}', matrix: {i: {range: [1, 1001]}}}]", "these are more than 1000 jobs"),
    ("jobs: [{prompt: x, matrix: {i: {range: [1, 999999]}}, exclude: [{i: 1}]}]", "these are more than 1000 jobs"),
    ("jobs:\n" + "".join(f"- prompt: p{i}\n" for i in range(MOST_JOBS + 1)), "these are more than 1000 jobs"),
    ("jobs: [{prompt: '{{ \"a\" * 99999999 }}'}]", "* is allowed between numbers only"),
    (
        "jobs: [{prompt: '{{ i }}{% for c in \""
        + "a" * 2000
        + "\" %}aaaaa{% endfor %}', matrix: {i: {range: [1, 999]}}}]",
        "the prompts have more than",
    ),
    ("jobs:\n" + "- {prompt: x, matrix: {i: [1, 2]}, exclude: [{i: 1}]}\n" * 501, "these are more than 1000 jobs"),
    ("jobs: [{prompt: x, matrix: {i: [1, 2]}, exclude: [{i: 1}, {i: 2}]}]", "all of its jobs are excluded"),
    (
        f"jobs: [{{prompt: '{{% for c in s %}}{{% endfor %}}', matrix: {{s: [{LONG}], i: {{range: [1, 999]}}}}}}]",
        "their texts, each as often as it is read, have more than",
    ),
    ("#" * (MOST_BYTES + 1), "at most 1048576 are read"),
]


@pytest.mark.parametrize(("text", "says"), REFUSED, ids=[says for _, says in REFUSED])
def test_what_is_not_a_clients_to_say_is_refused_in_a_sentence(
    served: Manifest, text: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", "sk-canary")
    with pytest.raises(RefusalError) as caught:
        told(served, text)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_manifest", "manifest")
    assert says in caught.value.message
    assert "canary" not in caught.value.message
    assert str(served.base) not in caught.value.message


def test_a_body_without_a_text_is_refused() -> None:
    bodies: tuple[dict[str, Any], ...] = ({}, {"manifest": None}, {"manifest": {"jobs": []}})
    for body in bodies:
        with pytest.raises(RefusalError, match="the text of a manifest"):
            text_of(body)


WORDS = st.sampled_from(
    [
        *("jobs", "prompt", "matrix", "image", "from", "provider", "defaults", "zip", "model", "seed", "id", "x-a"),
        *("m", "{{ a }}", "{{ a", "lines.txt", "${HOME}", "&a ", "*a", "1", "", "null", "[", "!!str ", "<<"),
    ]
)
TREES = st.recursive(WORDS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4))


@settings(max_examples=60, deadline=None)
@given(tree=TREES, form=st.sampled_from(["jobs: [{{prompt: x, {0}: {0}}}]", "{0}"]))
def test_whatever_comes_is_calls_or_a_sentence(served: Manifest, tree: Any, form: str) -> None:
    text = form.format(tree)
    with suppress(RefusalError):
        assert told(served, text)["jobs"]


def test_nothing_is_left_on_the_disk(served: Manifest, tmp_path: Path) -> None:
    told(served, "jobs: [{prompt: x, image: 'https://8.8.8.8/a.png'}]")
    assert sorted(path.name for path in served.base.iterdir()) == ["lines.txt", "m.yaml", "rows.csv"]
