"""What a review asked to redo, as a manifest of its own: it loads, plans and asks for just what was asked for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from batchflux.ledger.decisions import Decision, decide
from batchflux.ledger.reviews import Again

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.testing.bank import Bank
    from batchflux.testing.program import Program

LEDGER = "out/m/ledger.db"
WILD = 'say "hi" \\ {{ name }} {% if x %} {# no #} {{{ } \u202ertl 🦊\n second: line # \ttab\x85 it\'s ${TEST_KEY}'


def redo(program: Program, names: list[str], again: Again | None = None) -> None:
    keys = {row["id"]: bytes.fromhex(row["key"]) for row in program.rows()}
    for name in names:
        decide(program.folder / LEDGER, Decision(keys=(keys[name],), review="redo", again=again))


@pytest.mark.usefixtures("photo")
def test_it_asks_for_what_was_asked_for(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    rows = [{"text": WILD, "n": "1"}, {"text": "no", "n": "{{2}}"}]
    program.write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    jobs = (
        "  - {from: rows.jsonl, id: 'job {{ n }}', prompt: '{{ text }}', seed: 42, aspect_ratio: 16:9,"
        " images: ['https://cdn.example/a?b={{ n }}'], tags: {'a: b': '{{ text }}'}}\n"
        "  - {id: photo, prompt: make it red, image: p/a.png, output_format: png}\n"
        "  - {id: left, prompt: not asked for}\n"
    )
    more = "defaults: {webhook_url: 'https://hook.example/x', webhook_secret: '${TEST_KEY}', safety_tolerance: 3}\n"
    more += "stores: {'s3://photos': {endpoint: 'https://minio.example'}}\noutput: {accept: [ratio], max_bytes: 9MB}"
    name = manifest(jobs, provider=", params: drop", limits=", rate: 300/min, budget: 5.00", more=more)
    assert program("run", name).code == 0
    redo(program, ["job 1", "job {{2}}", "photo"])
    before = {seen.text: seen.body for seen in bank.seen}
    bank.seen.clear()
    (program.folder / "deep" / "er").mkdir(parents=True)
    ended = program("export-review", "out/m", "-o", "deep/er/redo.yaml")
    assert ended.code == 0, ended.err
    text = (program.folder / "deep/er/redo.yaml").read_text(encoding="utf-8")
    assert program.environ["TEST_KEY"] not in text
    for kept in (
        "rate: 300/min",
        "budget: 5.00",
        "price: 0.14",
        "webhook_secret: ",
        "- TEST_KEY",
        "https://minio.example",
        "accept:\n    - ratio",
        "max_bytes: 9MB",
    ):
        assert kept in text
    planned = program("plan", "deep/er/redo.yaml", "--json")
    assert planned.code == 0, planned.err
    plan = json.loads(planned.out)
    assert (plan["counts"]["new"], plan["calls"], plan["counts"]["merged"]) == (3, 3, 0)
    assert plan["folder"] == str(program.folder / "out/m-redo")
    assert program("run", "deep/er/redo.yaml").code == 0
    assert len(bank.seen) == 3
    for seen in bank.seen:
        old, new = dict(before[seen.text]), dict(seen.body)
        if "messages" not in new:
            assert new.pop("seed") != old.pop("seed")
        assert new == old
    assert [row["id"] for row in program.rows("out/m-redo")] == ["job 1-redo1", "job {{2}}-redo1", "photo-redo1"]
    originals = {f"{row['id']}-redo1": row for row in program.rows()}
    for row in program.rows("out/m-redo"):
        assert row["tags.a: b"] == originals[row["id"]]["tags.a: b"]
        assert row["prompt"] == originals[row["id"]]["prompt"]


@pytest.mark.slow
def test_the_provider_that_was_used_counts(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    name = manifest("  - {id: mug, prompt: a mug}\n")
    assert program("run", name, "--provider", "simulator").code == 0
    redo(program, ["mug"], Again(prompt="a red mug", seed=9))
    assert program("export-review", "out/m", "-o", "redo.yaml").code == 0
    plan = json.loads(program("plan", "redo.yaml", "--json").out)
    assert plan["provider"] == "simulator"
    assert plan["requests"][0]["body"] == {"model": "flux-kontext-pro", "prompt": "a red mug", "seed": 9}
    assert bank.seen == []


@pytest.mark.slow
@pytest.mark.usefixtures("photo")
def test_a_dash_is_stdout(program: Program, manifest: Callable[..., str]) -> None:
    name = manifest("  - {id: mug, prompt: a müg, image: p/a.png}\n")
    assert program("run", name, "--provider", "simulator").code == 0
    redo(program, ["mug"])
    assert program("export-review", "out/m", "-o", "redo.yaml").code == 0
    ended = program("export-review", "out/m", "-o", "-")
    assert (ended.code, "to be made into out/m-redo" in ended.err) == (0, True)
    assert ended.out == (program.folder / "redo.yaml").read_text(encoding="utf-8")
    assert not (program.folder / "-").exists()
    assert program("export-review", "out/m", "-o", "./-").out == ""
    assert (program.folder / "-").read_text(encoding="utf-8") == ended.out


@pytest.mark.slow
def test_redos_of_one_id_before_and_after_an_edit_are_two(program: Program, manifest: Callable[..., str]) -> None:
    ids = [f"{'n' * 127}{last}" for last in "ab"]
    long = "".join(f"  - {{id: {name}, prompt: {name[-1]}}}\n" for name in ids)
    assert program("run", manifest(f"  - {{id: mug, prompt: a mug}}\n{long}"), "--provider", "simulator").code == 0
    redo(program, ["mug", *ids])
    assert program("run", manifest("  - {id: Mug, prompt: a red mug}\n"), "--provider", "simulator").code == 0
    redo(program, ["Mug"])
    assert program("export-review", "out/m", "-o", "redo.yaml").code == 0
    planned = program("plan", "redo.yaml", "--json")
    assert planned.code == 0, planned.err
    assert json.loads(planned.out)["counts"]["new"] == 4


@pytest.mark.slow
def test_what_it_refuses(program: Program, manifest: Callable[..., str]) -> None:
    name = manifest("  - {id: mug, prompt: a mug}\n")
    assert program("run", name, "--provider", "simulator").code == 0
    ended = program("export-review", "out/m", "-o", "redo.yaml")
    assert (ended.code, "Nothing waits to be redone in out/m" in ended.err) == (2, True)
    assert not (program.folder / "redo.yaml").exists()
    redo(program, ["mug"])
    before = (program.folder / name).read_bytes()
    ended = program("export-review", "out/m", "-o", name)
    assert (ended.code, "was not written by export-review" in ended.err) == (2, True)
    assert (program.folder / name).read_bytes() == before
    ended = program("export-review", "out/m", "-o", "nowhere/redo.yaml")
    assert (ended.code, "no such folder" in ended.err) == (2, True)
    ended = program("export-review", "nowhere", "-o", "redo.yaml")
    assert (ended.code, "no output folder" in ended.err) == (2, True)
    for _ in range(2):  # a file of its own it writes anew
        assert program("export-review", "out/m", "-o", "redo.yaml").code == 0
    (program.folder / "out/m/manifest.yaml").unlink()
    ended = program("export-review", "out/m", "-o", "redo.yaml")
    assert (ended.code, "manifest.yaml cannot be read" in ended.err) == (2, True)
