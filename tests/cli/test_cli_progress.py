"""What a person at a terminal sees of a run, and who has none: two lines that fit, then nothing of them."""

from __future__ import annotations

import asyncio
import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from batchflux import RunOptions, load_manifest, run
from batchflux.cli import cli, main
from batchflux.cli import progress as shown
from batchflux.cli.progress import Progress
from tests.terminal import COLUMNS, Screen, Terminal

if TYPE_CHECKING:
    from pathlib import Path

LIMITED = (
    "version: 1\nname: spring-catalogue\n"
    "provider: {name: simulator, options: {latency: 0.05, size: 64, rate: 30/min}}\nlimits: {concurrency: 4}\n"
    "jobs: [{prompt: 'a {{ n }}', matrix: {n: {range: [1, 300]}}}]\n"
)
PRICED = (
    "version: 1\nname: q\nprovider: {name: tuzi, base_url: 'http://127.0.0.1:9', keys: [TEST_KEY]%s}\n"
    "jobs: [{id: a, prompt: a mug}]\n"
)


def write(folder: Path, text: str) -> str:
    (folder / "m.yaml").write_text(text, encoding="utf-8")
    return "m.yaml"


def test_a_run_at_a_terminal_is_two_lines_that_leave_nothing_behind(tmp_path: Path) -> None:
    """It waits for the rate limit, is stopped by Ctrl-C, and says what is next; no line was ever too long."""
    with Terminal(tmp_path, "run", write(tmp_path, LIMITED), "--watch") as terminal:
        lines = terminal.until(lambda lines: lines and lines[-1].startswith("waiting: rate limited by the provider"))
        assert lines[-2].startswith("spring-catalogue ")
        assert "/300, " in lines[-2]
        assert " done" in lines[-2]
        assert lines[-1].endswith((" s", "trying now"))
        assert max(map(len, lines[-2:])) < COLUMNS
        terminal.type("\x03")
        code, lines = terminal.end()
    assert code == 130
    assert not [line for line in lines if "%|" in line or line.startswith("waiting: ")]
    assert lines[-1] == "  next       to continue: batchflux run m.yaml"
    assert any(line.startswith("SIGINT: no new requests") for line in lines)
    assert [line for line in terminal.screen.wrapped if "token=" not in line] == []


def test_a_terminal_without_a_size_shows_both_lines(tmp_path: Path) -> None:
    with Terminal(tmp_path, "run", write(tmp_path, LIMITED), sized=False) as terminal:
        lines = terminal.until(lambda lines: lines and lines[-1].startswith("waiting: rate limited by the provider"))
        assert lines[-2].startswith("spring-catalogue ")
        terminal.type("\x03")
        code, _ = terminal.end()
    assert code == 130


def waits_for_the_provider(folder: Path) -> bool:
    status = json.loads(CliRunner().invoke(cli, ["status", str(folder), "--json"]).output)
    said = "provider not reachable: connection refused; probing, next at " in status["message"]
    return said and (status["running"], status["failed"], status["attempts"]) == (True, 0, 0)


@pytest.mark.slow
def test_an_outage_is_told_on_the_terminal_and_by_status(tmp_path: Path) -> None:
    text = PRICED % ", price: 0.14, currency: CNY"
    with Terminal(tmp_path, "run", write(tmp_path, text), "--yes") as terminal:
        words = "waiting: provider not reachable: connection refused, "
        terminal.until(lambda lines: lines and lines[-1].startswith(words))
        terminal.until(lambda _: waits_for_the_provider(tmp_path / "out/q"))  # between two probes: one is an attempt
        terminal.type("\x03")
        code, lines = terminal.end()
    assert code == 130
    assert [line for line in lines if " provider not reachable: connection refused; probing, next at " in line]


def test_the_screen_of_these_tests_takes_what_comes_in_any_pieces() -> None:
    text = "\x1b[1;31mred\x1b[0m line\r\n\x1b[?25lwaiting: 3 s\x1b[1A\rRED\n\x07"
    for cut in range(len(text) + 1):
        screen = Screen()
        screen.feed(text[:cut])
        screen.feed(text[cut:])
        assert screen.shown() == ["RED line", "waiting: 3 s"], repr(text[:cut])


def test_without_a_terminal_a_line_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "LINE_SECONDS", 0.1)
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    watcher = Progress(log_format="json", no_progress=False, quiet=False)
    manifest = load_manifest(tmp_path / write(tmp_path, LIMITED.replace("300", "2")), out=str(tmp_path / "out"))
    assert asyncio.run(run(manifest, RunOptions(watcher=watcher))).exit_code == 0
    watcher.close()
    said = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert {line["event"] for line in said} == {"started", "progress"}
    waits = [line for line in said[1:] if line["waiting"]]
    assert waits
    for line in waits:
        assert line["waiting"].startswith("rate limited by the provider (")
        assert line["message"].endswith(f"of 2 jobs, {line['done']} done, 0 failed; waiting: {line['waiting']}")


@pytest.mark.parametrize(
    ("text", "asked", "typed"),
    [
        (PRICED % ", price: 0.14, currency: CNY", "Spend 0.14 CNY on 1 call? [y/N]:", "n\n"),
        pytest.param(
            PRICED % "",
            "Spend an unknown sum (provider.price is not set) on 1 call? [y/N]:",
            "\x04",  # Ctrl-D, the end of the input
            marks=pytest.mark.slow,
        ),
        pytest.param(
            LIMITED.replace("{name:", "{price: 2, currency: CNY, name:"),
            "Spend 600.00 CNY on 300 calls? [y/N]:",
            "\n",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_terminal_asks_once_before_it_spends(tmp_path: Path, text: str, asked: str, typed: str) -> None:
    with Terminal(tmp_path, "run", write(tmp_path, text)) as terminal:
        terminal.until(lambda lines: lines and lines[-1] == asked)
        terminal.type(typed)
        code, lines = terminal.end()
    assert code == 2
    assert lines[-1] == "Not started: nothing was spent."
    assert not (tmp_path / "out").exists()


def test_what_costs_nothing_is_not_asked(tmp_path: Path) -> None:
    with Terminal(tmp_path, "run", write(tmp_path, PRICED % ""), "--provider", "simulator") as terminal:
        code, lines = terminal.end()
    assert code == 0
    assert not [line for line in lines if "Spend" in line]
    assert lines[-1] == "  next       look at it: batchflux report out/q"


def test_a_fault_of_ours_has_an_exit_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("batchflux.cli.cli.main", fail)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 70
    said = capsys.readouterr().err
    assert "in fail\n" in said
    assert "ZeroDivisionError: batchflux ended by a bug of its own" in said
    assert "a bug\n" not in said, "the words of an error that nobody foresaw may hold a secret"
