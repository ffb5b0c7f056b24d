from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import batchflux
from batchflux import ManifestError, RunOptions, Selection, Watcher, load_manifest, plan, run
from batchflux.cli import COMMANDS, cli, main
from batchflux.cli.terminal import count, duration, learned_lines, money, place
from batchflux.state import Lesson
from batchflux.testing.inside import inside

ROOT = Path(__file__).resolve().parents[2]
QUICK = "version: 1\nname: q\nprovider: {name: simulator, options: {latency: 0, size: 64}}\njobs:\n"


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess(arguments, *inside(folder, os.environ, *arguments))


def call_apart(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "batchflux", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_help_lists_every_command_and_imports_none(tmp_path: Path) -> None:
    ended = call_apart(tmp_path, "--help")
    assert ended.returncode == 0
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", ended.stdout, re.MULTILINE)
        said = CliRunner().invoke(cli, [command, "--help"])
        assert said.exit_code == 0
        assert said.output.startswith(f"Usage: cli {command} ")
    code = (
        "import sys; from batchflux.cli import cli; "
        "cli.main(['--help'], standalone_mode=False); print(sorted(sys.modules))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for heavy in ("aiohttp", "pydantic", "PIL", "sqlite3", "jinja2"):
        assert f"'{heavy}'" not in loaded


@pytest.mark.parametrize(("word", "meant"), [("pln", "plan"), ("Run", "run"), ("exportreview", "export-review")])
def test_a_mistyped_command_is_guessed(word: str, meant: str) -> None:
    said = CliRunner().invoke(cli, [word])
    assert said.exit_code == 2
    assert f"Did you mean {meant}?" in said.output
    assert "Did you mean" not in CliRunner().invoke(cli, ["fly"]).output
    assert "Did you mean batchflux run shop.yaml?" in CliRunner().invoke(cli, ["shop.yaml"]).output


def test_usage_faults_exit_2_with_one_sentence(tmp_path: Path) -> None:
    for arguments in (
        ["run"],
        ["run", "nowhere.yaml"],
        ["fly"],
        ["run", "x.yaml", "--limit", "0"],
        ["run", "x.yaml", "--limit", "few"],
        ["status", "nowhere"],
    ):
        ended = call(tmp_path, *arguments)
        assert ended.returncode == 2, arguments
        assert ended.stdout == ""
        assert "Traceback" not in ended.stderr
        assert ended.stderr.strip()
        assert "integer" not in ended.stderr


def test_a_manifest_in_place_of_its_folder_and_a_folder_in_place_of_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").touch()
    for command in ("status", "report", "review", "reconcile", "prune", "history"):
        ended = call(tmp_path, command, "shop.yaml")
        said = "shop.yaml is no output folder but a file: name the folder that a run wrote to, as out/shop.\n"
        assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", said)
    for folder in ("out/shop", "out/spring"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "ledger.db").write_text("x")
    assert call(tmp_path, "status", "out").stderr.endswith("Name the folder that a run wrote to, as out/shop.\n")
    assert "this is a folder; name the manifest" in call(tmp_path, "plan", ".").stderr
    assert "batchflux init --from ." in call(tmp_path, "init", ".").stderr


def test_init_writes_a_manifest_that_runs_and_never_overwrites(tmp_path: Path) -> None:
    assert call_apart(tmp_path, "init", "mine.yaml").returncode == 0
    again = call(tmp_path, "init", "mine.yaml")
    assert again.returncode == 2
    assert "is there already" in again.stderr
    ended = call_apart(tmp_path, "run", "mine.yaml")
    assert ended.returncode == 0, ended.stderr
    assert any((tmp_path / "out" / "mine" / "images").iterdir())


def test_schema_is_json_schema(tmp_path: Path) -> None:
    schema = json.loads(call(tmp_path, "schema").stdout)
    assert schema["properties"]["jobs"]
    assert schema["properties"]["limits"]


def test_quiet_prints_nothing_and_json_logs_are_json(tmp_path: Path) -> None:
    (tmp_path / "q.yaml").write_text(QUICK + "  - {id: a, prompt: x}\n  - {id: b, prompt: y, image: gone.png}\n")
    quiet = call_apart(tmp_path, "run", "q.yaml", "--quiet", "--only", "a")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    logged = call(tmp_path, "run", "q.yaml", "--log-format", "json")
    assert logged.returncode == 1
    events = [json.loads(line)["event"] for line in logged.stderr.splitlines()]
    assert "job_failed" in events
    assert "1 of 2 jobs done" in logged.stdout


def test_simulate_serves_any_client(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("latency: 0\nfaults: {server_500: 1.0}\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "batchflux", "simulate", "--port", "0", "--faults", "f.yaml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    request = urllib.request.Request(  # noqa: S310  our own server
        f"{url}/v1/images/generations",
        json.dumps({"model": "m", "prompt": "x"}).encode(),
        {"Content-Type": "application/json", "Authorization": "Bearer any"},
    )
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(request, timeout=60)  # noqa: S310  our own server
    assert raised.value.code == 500
    raised.value.close()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    bad = call(tmp_path, "simulate", "--faults", "nowhere.yaml")
    assert bad.returncode == 2
    assert "nowhere.yaml" in bad.stderr


def test_plan_json_gives_all_faults(tmp_path: Path) -> None:
    jobs = "".join(f"  - {{prompt: x, seed: s{number}}}\n" for number in range(30))
    (tmp_path / "m.yaml").write_text(f"version: 1\njobs:\n{jobs}")
    made = call(tmp_path, "plan", "m.yaml", "--json")
    faults = json.loads(made.stdout)["faults"]
    assert (made.returncode, made.stderr, len(faults)) == (2, "", 30)
    assert faults[0] | {"message": ""} == {"file": "m.yaml", "line": 3, "where": "jobs[0].seed", "message": ""}
    assert all("seed" in fault["where"] and fault["message"] for fault in faults)


@pytest.mark.parametrize(("deadline", "says"), [("10h", "enough time"), ("30s", "about 45 calls would be left")])
def test_a_plan_names_the_zone_of_the_deadline_and_what_it_leaves(tmp_path: Path, deadline: str, says: str) -> None:
    (tmp_path / "m.yaml").write_text(
        "version: 1\nprovider: {name: tuzi, price: 0.14}\n"
        f"limits: {{rate: 60/min, budget_per_run: 2, deadline: {deadline}}}\n"
        "jobs:\n  - prompt: x {{ n }}\n    matrix: {n: {range: [1, 60]}}\n"
    )
    text = call_apart(tmp_path, "plan", "m.yaml", TZ="Asia/Shanghai").stdout
    assert "; 2.00 USD a run, so it takes 5 runs or more" in text
    line = next(line for line in text.splitlines() if line.startswith("  deadline "))
    assert " CST (UTC+08:00), in " in line
    assert says in line
    found = json.loads(call_apart(tmp_path, "plan", "m.yaml", "--json", TZ="Asia/Shanghai").stdout)
    assert found["deadline"].endswith("+08:00")
    assert (found["budget_per_run"], found["budget"]) == ("2", None)


def test_plan_json_speaks_of_money(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(
        "version: 1\nprovider: {name: tuzi, price: 0.14, currency: CNY}\nlimits: {rate: 60/min, budget: 0.2}\n"
        "jobs:\n  - {id: a, prompt: x}\n  - {id: b, prompt: y}\n  - {id: c, prompt: x}\n"
    )
    result: dict[str, Any] = json.loads(call(tmp_path, "plan", "m.yaml", "--json").stdout)
    assert (result["calls"], result["cost"], result["currency"], result["budget"]) == (2, "0.28", "CNY", "0.2")
    assert (result["counts"]["merged"], result["merged_samples"]) == (1, ["c"])
    assert result["requests"][0]["url"] == "https://api.tu-zi.com/v1/images/generations"
    assert result["requests"][0]["body"] == {"model": "flux-kontext-pro", "prompt": "x"}
    text = call(tmp_path, "plan", "m.yaml").stdout
    assert "0.28 CNY (2 x 0.14)" in text
    assert "will stop the run before its end" in text
    assert not (tmp_path / "out").exists()
    prices = "{flux-kontext-pro: 0.04, flux-kontext-max: 0.08}"
    (tmp_path / "m.yaml").write_text(
        f"version: 1\nprovider: {{name: tuzi, price: {prices}, currency: USD}}\n"
        "jobs:\n  - {id: a, prompt: x}\n  - {id: b, prompt: y, model: flux-kontext-max}\n"
    )
    text = call(tmp_path, "plan", "m.yaml").stdout
    assert "0.12 USD (1 flux-kontext-pro at 0.04, 1 flux-kontext-max at 0.08)\n" in text
    assert "0.08 USD (1 x 0.08)\n" in call(tmp_path, "plan", "m.yaml", "--only", "b").stdout
    missed = "No job has an id like --only 'zz*', so there is nothing to do.\n"
    assert missed in call(tmp_path, "plan", "m.yaml", "--only", "zz*").stdout


def test_the_python_api(tmp_path: Path) -> None:
    path = tmp_path / "q.yaml"
    path.write_text(QUICK + "  - {prompt: 'x {{ n }}', matrix: {n: {range: [1, 6]}}}\n")
    manifest = load_manifest(path, out=str(tmp_path / "here"))
    assert plan(manifest).counts["todo"] == 6

    class Count(Watcher):
        ids: list[str]

        def ended(self, job: batchflux.Job, outcome: batchflux.Outcome) -> None:
            self.ids.append(job.id)

    watcher = Count()
    watcher.ids = []
    summary = asyncio.run(run(manifest, RunOptions(selection=Selection(limit=4), watcher=watcher)))
    assert (summary.exit_code, summary.this_run["done"], len(watcher.ids)) == (0, 4, 4)
    (tmp_path / "bad.yaml").write_text("jobs: []")
    with pytest.raises(ManifestError, match="version"):
        load_manifest(tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.2, "under 1 s"),
        (59, "59 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (18600, "5 h 10 min"),
        (183600, "2 d 3 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_words() -> None:
    assert money(Decimal("0.14"), "CNY") == "0.14 CNY"
    assert money(Decimal("1234.0035"), "USD") == "1,234.0035 USD"
    assert money(Decimal(25), "CNY") == "25.00 CNY"
    assert (count(1, "job"), count(1200, "call")) == ("1 job", "1,200 calls")
    assert place(str(Path.cwd() / "out" / "x")) == "out/x"
    assert place("/somewhere/else") == "/somewhere/else"


def test_a_ledger_that_a_kill_left_empty_is_none_yet(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(f"{QUICK}  - prompt: a mug\n", encoding="utf-8")
    (tmp_path / "out" / "q").mkdir(parents=True)
    (tmp_path / "out" / "q" / "ledger.db").touch()
    planned = call(tmp_path, "plan", "m.yaml")
    assert (planned.returncode, planned.stderr) == (0, "")
    assert call(tmp_path, "run", "m.yaml").returncode == 0


def test_a_damaged_ledger_is_said_so_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(f"{QUICK}  - prompt: a mug\n", encoding="utf-8")
    (tmp_path / "out" / "q").mkdir(parents=True)
    (tmp_path / "out" / "q" / "ledger.db").write_bytes(b"no database " * 1000)
    for command in (("plan", "m.yaml"), ("run", "m.yaml"), ("status", "out/q")):
        ended = call(tmp_path, *command)
        assert ended.returncode == 3, command
        assert "damaged" in ended.stderr
        assert len(ended.stderr.splitlines()) == 1


def test_on_windows_it_says_where_it_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "batchflux runs on Linux and macOS; on Windows install and run it in WSL.\n"


def test_what_keys_were_found_to_allow_is_said_of_those_that_met_a_limit() -> None:
    learned = {"A": (4.87, None), "B": (0.2, 24), "C": (None, 3), "D": (None, None)}
    known = {name: Lesson(rate=rate, active=active, at=0.0) for name, (rate, active) in learned.items()}
    assert learned_lines(known, "- ") == ["- A allows 4.9/s", "- B allows 12.0/min, 24 at once", "- C allows 3 at once"]


@pytest.mark.parametrize(
    ("given", "then"),
    [
        ("--budget 0.10", "batchflux run m.yaml --set limits.budget=MORE"),
        (
            "--set limits.budget=0.10 --set limits.rate=10/s",
            "batchflux run m.yaml --set limits.rate=10/s --set limits.budget=MORE",
        ),
        ("--set limits.budget_per_run=0.09", "batchflux run m.yaml --set limits.budget_per_run=MORE"),
        ("--set limits.budget_per_run=0.10", "batchflux run m.yaml --set limits.budget_per_run=0.10"),
    ],
)
def test_a_run_that_had_too_little_money_says_what_would_continue_it(tmp_path: Path, given: str, then: str) -> None:
    """Not the limit again that stopped it, where another run would stop at once."""
    priced = QUICK.replace("simulator,", "simulator, price: 0.10,")
    (tmp_path / "m.yaml").write_text(f"{priced}  - {{prompt: a}}\n  - {{prompt: b}}\n")
    ended = call(tmp_path, "run", "m.yaml", *given.split())
    assert ended.returncode == 3
    assert ended.stdout.splitlines()[-1] == f"  next       to continue: {then}"


def test_a_name_that_is_too_long_is_a_fault_of_the_call(tmp_path: Path) -> None:
    long = "x" * 300
    (tmp_path / "t.csv").write_text(f"title,photo\nmug,{long}.jpg\n")
    (tmp_path / "q.yaml").write_text(QUICK + "  - {id: a, prompt: x}\n")
    for arguments in (["status", long], ["report", long], ["init", long], ["plan", "q.yaml", "--out", long]):
        ended = call(tmp_path, *arguments)
        assert (ended.returncode, "(File name too long): " in ended.stderr) == (2, True), ended.stderr
    assert call(tmp_path, "init", "new.yaml", "--from", "t.csv").returncode == 0
