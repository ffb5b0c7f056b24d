"""Metrics, as Prometheus's own parser reads them: of whole runs, over several, and of a review."""

from __future__ import annotations

import os
import shutil
import stat
import time
from typing import TYPE_CHECKING

import pytest
from aiohttp import ClientSession
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from batchflux.monitoring.exposition import Family, text_of
from batchflux.monitoring.metrics import Live, metrics_of
from batchflux.review.listen import serve
from tests.monitoring.test_notices import JOBS, write
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchflux.testing.bank import Bank
    from batchflux.testing.program import Program

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(text: str) -> Samples:
    """Parse as Prometheus does; each sample belongs to a family that says its type, and none stands twice."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.type in {"gauge", "counter", "summary"}, family.name
        assert family.documentation.endswith("."), family.name
        for sample in family.samples:
            which = sample.name, frozenset(sample.labels.items())
            assert which not in found
            assert family.type != "counter" or sample.name.endswith("_total")
            assert family.type != "summary" or sample.name.endswith(("_sum", "_count"))
            found[which] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((f"batchflux_{name}", frozenset({"name": "m", **labels}.items())))


def test_a_run_leaves_what_it_came_to(program: Program, bank: Bank) -> None:
    jobs = JOBS + "  - {id: bad, prompt: 'job bad #moderated'}\n  - {id: slow, prompt: 'job slow #429*2 #url'}\n"
    write(program, bank, limits=", budget: 2.5, attempts: 2", jobs=jobs)
    before = time.time()
    ended = program.run("--metrics", "m.prom")
    assert ended.code == 1, ended.said
    path = program.folder / "m.prom"
    found = read(path.read_text(encoding="utf-8"))
    summary = program.summary()
    for status in ("done", "failed", "unknown", "pending"):
        assert value(found, "jobs", status=status) == summary["jobs"][status]
    assert value(found, "attempts_total", provider="tuzi") == summary["attempts"]
    assert value(found, "spent", currency="CNY") == pytest.approx(float(summary["spent"]))
    assert value(found, "provider_spent", provider="tuzi", currency="CNY") == pytest.approx(float(summary["spent"]))
    assert value(found, "budget", currency="CNY") == 2.5
    assert value(found, "job_failures", code="moderated") == 1
    assert value(found, "attempts_failed_total", provider="tuzi", code="moderated") == 1
    assert value(found, "api_seconds_count", provider="tuzi") == summary["jobs"]["done"]
    assert (value(found, "api_seconds_sum", provider="tuzi") or 0) > 0
    assert value(found, "rate_limited_total", provider="tuzi") == summary["providers"]["tuzi"]["refused"] == 2
    assert (value(found, "running"), value(found, "in_flight"), value(found, "waiting")) == (0, 0, 0)
    assert value(found, "exit_code") == 1
    assert before <= (value(found, "last_end_timestamp_seconds") or 0) <= time.time()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [each.name for each in program.folder.iterdir() if "prom" in each.name] == ["m.prom"]


@pytest.mark.slow
def test_counters_go_on_over_runs(program: Program, bank: Bank) -> None:
    write(program, bank)
    counts = []
    for limit in ("4", "3", "5"):
        assert program.run("--metrics", "m.prom", "--limit", limit).code == 0
        found = read((program.folder / "m.prom").read_text(encoding="utf-8"))
        counts.append(value(found, "attempts_total", provider="tuzi"))
    assert counts == [4, 7, 10]


@pytest.mark.slow
def test_while_a_run_goes_on_the_file_says_so(program: Program, bank: Bank) -> None:
    bank.held = lambda: True
    write(program, bank)
    path = program.folder / "m.prom"
    process = program.start("run", "m.yaml", "--metrics", "m.prom")
    wait_until(path.exists)
    first = read(path.read_text(encoding="utf-8"))
    assert value(first, "attempts_total", provider="tuzi") == 0, "a counter begins at 0"
    wait_until(lambda: bank.seen)
    found = read(path.read_text(encoding="utf-8"))
    assert value(found, "running") == 1
    assert value(found, "provider_up", provider="tuzi") == 1
    assert value(found, "exit_code") is None
    bank.held = None
    assert program.finish(process).code == 0


def test_a_file_that_cannot_be_written_is_said_before_anything_is_spent(program: Program, bank: Bank) -> None:
    write(program, bank)
    for path, why in (("nowhere/m.prom", "No such file or directory"), ("p", "it is a folder")):
        ended = program.run("--metrics", path)
        assert ended.code == 2
        assert f"--metrics {path} cannot be written ({why}): make its folder, or name another file." in ended.err
    assert not bank.seen
    assert not program.out.exists()


@pytest.mark.slow
def test_one_that_cannot_be_written_later_is_logged_and_the_run_goes_on(program: Program, bank: Bank) -> None:
    write(program, bank)
    folder = program.folder / "textfiles"
    folder.mkdir()

    def away(_: str) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # the run may write there just now: the next call does it then

    bank.hook = away
    ended = program.run("--metrics", "textfiles/m.prom")
    assert ended.code == 0
    (failed,) = (line for line in program.log() if line["event"] == "metrics_failed")
    assert "m.prom cannot be written (No such file or directory); the run goes on." in failed["message"]
    assert failed["message"] in ended.err


def test_a_folder_of_any_size_and_age(filled: Callable[..., Path], tmp_path: Path) -> None:
    found = read(metrics_of(filled(tmp_path / "out", count=50, failing=25)))
    assert found["batchflux_jobs", frozenset({"name": "filled", "status": "done"}.items())] == 48


def test_who_is_away_is_said(filled: Callable[..., Path], tmp_path: Path) -> None:
    folder = filled(tmp_path / "out", count=3, failing=0)
    live = Live(providers=("a", "b"), away=frozenset({"b"}), exit_code=70, ended_at=5.0)
    found = read(metrics_of(folder, live))
    assert found["batchflux_exit_code", frozenset({("name", "filled")})] == 70
    assert found["batchflux_last_end_timestamp_seconds", frozenset({("name", "filled")})] == 5


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")) | st.sampled_from('\\"\n{},= '))


@given(label=TEXT, says=TEXT, number=st.integers() | st.floats(allow_nan=False))
def test_any_text_comes_back(label: str, says: str, number: float) -> None:
    family = Family(name="batchflux_x", kind="gauge", says=f"{says}x")
    family.add({"name": label, "code": "b"}, number)
    (parsed,) = text_string_to_metric_families(text_of([family]))
    (sample,) = parsed.samples
    assert sample.labels == {"name": label, "code": "b"}
    assert sample.value == pytest.approx(float(number), nan_ok=False)


class TestReview:
    """`/metrics` of the review: the same text, for who knows the token."""

    async def test_it_is_for_who_knows_the_token(self, filled: Callable[..., Path], tmp_path: Path) -> None:
        folder = filled(tmp_path / "out", count=20, failing=10)
        served = await serve(folder, "127.0.0.1", 0, print, token="a token of at least 16")
        try:
            base = served.url.partition("/?")[0]
            async with ClientSession() as session:
                bearer = {"Authorization": "Bearer a token of at least 16"}
                async with session.get(f"{base}/metrics", headers=bearer) as response:
                    assert response.status == 200
                    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
                    assert await response.text() == metrics_of(folder)
                for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Basic a token of at least 16"}):
                    async with session.get(f"{base}/metrics", headers=headers) as response:
                        assert response.status == 403
                        assert "batchflux_" not in await response.text()
                async with session.get(f"{base}/metrics", params={"token": "a token of at least 16"}) as response:
                    assert response.status == 200
                async with session.post(f"{base}/api/undo", headers=bearer, json={}) as response:
                    assert response.status == 403, "a bearer token is for looking"
        finally:
            await served.stop()

    @pytest.mark.slow
    def test_a_token_of_ones_own_is_named_and_long(self, program: Program, filled: Callable[..., Path]) -> None:
        filled(program.out, count=3)
        for token, says in (("short", "at least 16 characters"), ("", "at least 16 characters")):
            ended = program("review", str(program.out), "--token", "REVIEW_TOKEN", REVIEW_TOKEN=token)
            assert (ended.code, says in ended.err) == (2, True)


@pytest.mark.slow
def test_the_umask_does_not_hide_it(program: Program, bank: Bank) -> None:
    write(program, bank)
    before = os.umask(0o077)
    try:
        assert program.run("--metrics", "m.prom", "--limit", "1").code == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE((program.folder / "m.prom").stat().st_mode) == 0o644


def test_lines_of_the_log_have_the_names_of_opentelemetry_too(program: Program, bank: Bank) -> None:
    write(program, bank, jobs="  - {id: bad, prompt: 'job bad #moderated'}\n")
    ended = program.run("--log-format", "json")
    assert ended.code == 1
    (line,) = (line for line in program.log() if line["event"] == "job_ended")
    assert (line["id"], line["status"], line["code"]) == ("bad", "failed", "moderated")
    assert line["gen_ai.provider.name"] == line["provider"] == "tuzi"
    assert line["gen_ai.request.model"] == line["model"]
    assert line["error.type"] == "moderated"
    assert (line["gen_ai.operation.name"], line["gen_ai.output.type"]) == ("generate_content", "image")
    assert '"error.type": "moderated"' in ended.err
