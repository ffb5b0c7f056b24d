"""A sample is spread over entries, rows and axes, and the same each time; a plan shows requests of different rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchflux.ledger import sample
from batchflux.ledger.reconcile import Selection
from batchflux.manifest import expand
from batchflux.planner import load_manifest, plan
from batchflux.providers import capabilities

TEXT = """\
version: 1
jobs:
  - prompt: "{{ title }} {{ scene }}"
    from: p.csv
    id: "{{ title }}-{{ scene }}-{{ seed }}"
    matrix: {scene: [white, oak, stone], seed: {range: [1, 4]}}
  - {id: lone, prompt: a lone one}
  - {id: "more-{{ n }}", prompt: "more {{ n }}", matrix: {n: {range: [1, 30]}}}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.csv").write_text("title\n" + "".join(f"cup{n}\n" for n in range(20)))
    Path("m.yaml").write_text(TEXT)


def taken(size: int, only: str | None = None) -> list[str]:
    manifest = load_manifest("m.yaml", environ={})
    jobs = expand(manifest, capabilities(), lambda fault: pytest.fail(str(fault)))
    positions = sample.sampled(jobs, size, len(manifest.entries), only)
    made = [job.id for job in jobs if job.position in positions]
    assert len(made) == len(positions) == min(size, 271)
    return made


@pytest.mark.parametrize("candidates", [sample.CANDIDATES, 1])
def test_a_sample_is_spread(candidates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "CANDIDATES", candidates)
    made = taken(25)
    cups = [name.split("-") for name in made if name.startswith("cup")]
    assert (len(cups), "lone" in made) == (12, True)
    assert len({cup for cup, _, _ in cups}) == 12
    assert {scene for _, scene, _ in cups} == {"white", "oak", "stone"}
    assert {seed for _, _, seed in cups} == {"1", "2", "3", "4"}
    assert made == taken(25)
    assert set(taken(5)) <= set(taken(500))


def test_a_sample_of_some_ids_is_of_those() -> None:
    manifest = load_manifest("m.yaml", environ={})
    jobs = expand(manifest, capabilities(), lambda fault: pytest.fail(str(fault)))
    positions = sample.sampled(jobs, 3, len(manifest.entries), "more-*")
    assert sorted({job.id.split("-")[0] for job in jobs if job.position in positions}) == ["more"]


def test_a_plan_takes_the_sample_and_shows_different_rows() -> None:
    manifest = load_manifest("m.yaml", environ={}, sets=["limits.concurrency=3"])
    made = plan(manifest, Selection(sample=7))
    assert (made.counts["todo"], made.counts["total"], made.calls) == (7, 271, 7)
    shown = [request["id"].split("-")[0] for request in plan(manifest).requests]
    assert shown == ["cup0", "cup1", "cup2"]
