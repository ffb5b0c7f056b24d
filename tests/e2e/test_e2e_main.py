"""The main job against the stand-in: bodies, styles, files, codes and money."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import stat
import time
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from batchflux.testing.bank import KEY
from batchflux.testing.program import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.testing.bank import Bank
    from batchflux.testing.program import Program


def test_standard_bodies_hold_what_was_asked_for_and_nothing_else(
    program: Program, bank: Bank, manifest: Callable[..., str]
) -> None:
    name = manifest(
        "  - {id: plain, prompt: A cat}\n"
        "  - {id: all, prompt: A dog, images: ['http://a.example/1.png', 'http://b.example/2.jpg'], seed: 42, "
        "aspect_ratio: 16:9, output_format: png, safety_tolerance: 2, prompt_upsampling: true, "
        "webhook_url: 'https://hook.example/x', webhook_secret: '${OTHER_KEY}'}\n"
    )
    ended = program("run", name)
    assert ended.code == 0, ended.err
    bodies = {seen.text: seen.body for seen in bank.seen}
    assert bodies["A cat"] == {"model": "flux-kontext-pro", "prompt": "A cat"}
    prompt = "http://a.example/1.png http://b.example/2.jpg A dog"
    assert bodies[prompt] == {
        "model": "flux-kontext-pro",
        "prompt": prompt,
        "seed": 42,
        "aspect_ratio": "16:9",
        "output_format": "png",
        "safety_tolerance": 2,
        "prompt_upsampling": True,
        "webhook_url": "https://hook.example/x",
        "webhook_secret": "sk-other",
    }
    assert {seen.headers["Authorization"] for seen in bank.seen} == {f"Bearer {KEY}"}


def test_auto_sends_a_local_photo_through_chat(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    file = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(file, "PNG")
    (program.folder / "p").mkdir()
    (program.folder / "p" / "mug.png").write_bytes(file.getvalue())
    name = manifest(
        "  - {id: mug, prompt: Make it blue, images: ['http://a.example/1.png', p/mug.png]}\n"
        "  - {id: t, prompt: text}\n"
    )
    assert program("run", name).code == 0
    chat = next(seen for seen in bank.seen if seen.path == "/v1/chat/completions")
    data = base64.b64encode(file.getvalue()).decode()
    assert chat.body == {
        "model": "flux-kontext-pro",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "http://a.example/1.png Make it blue"},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
                ],
            }
        ],
        "stream": True,
    }
    assert [row["style"] for row in program.rows()] == ["chat", "standard"]


def test_chat_style_sends_text_as_a_string(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    name = manifest("  - {id: a, prompt: A cat, image: 'http://a.example/1.png'}\n", style="chat")
    assert program("run", name).code == 0
    assert bank.seen[0].body == {
        "model": "flux-kontext-pro",
        "messages": [{"role": "user", "content": "http://a.example/1.png A cat"}],
        "stream": True,
    }


def test_the_folder_holds_all_that_the_manual_lists(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    program.apart = True
    name = manifest(
        "  - {id: one, prompt: '=cmd()', seed: 3, aspect_ratio: 9:16, tags: {sku: M-1}}\n"
        "  - {id: two, prompt: second, output_format: png, tags: {shelf: 007}}\n"
    )
    assert program("run", name).code == 0
    out = program.folder / "out" / "m"
    lines = (out / "results.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == ",".join([*COLUMNS, "tags.sku", "tags.shelf"])
    one, two = program.rows()
    assert (one["id"], two["id"]) == ("one", "two")
    assert one["file_name"] == "images/one.jpg"
    assert two["file_name"] == "images/two.png"
    assert one["prompt"] == "'=cmd()"
    assert (one["tags.sku"], one["tags.shelf"], two["tags.sku"], two["tags.shelf"]) == ("M-1", "", "", "007")
    for row in (one, two):
        data = (out / row["file_name"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["sha256"]
        assert Image.open(io.BytesIO(data)).size == (int(row["width"]), int(row["height"]))
        assert (row["status"], row["attempts"], row["possibly_billed"], row["cost"]) == ("done", "1", "0", "0.14")
        assert row["result_url"].startswith(bank.url)
        assert row["started_at"].endswith("Z")
        assert row["started_at"] <= row["finished_at"]
    assert {path.name for path in out.iterdir() if not path.name.startswith(".")} == {
        "images", "results.csv", "summary.json", "manifest.yaml", "ledger.db", "run.log", "README.md", "metadata.jsonl",
    }  # fmt: skip
    for private in ("ledger.db", "run.log", ".lock"):
        assert stat.S_IMODE((out / private).stat().st_mode) == 0o600
    assert (out / "manifest.yaml").read_text(encoding="utf-8") == (program.folder / name).read_text(encoding="utf-8")
    assert program.summary()["spent"] == "0.28"
    for line in (out / "run.log").read_text(encoding="utf-8").splitlines():
        assert json.loads(line)["event"]


FAILURES = [  # fault, style, and what comes of it: code, status, attempts
    ("#500*2", "standard", "", "done", "3"),
    ("#502*1", "chat", "", "done", "2"),
    ("#500", "standard", "server", "failed", "3"),
    ("#429*2", "standard", "", "done", "1"),
    ("#429date*1", "chat", "", "done", "1"),
    ("#limited200*1", "standard", "", "done", "1"),
    ("#moderated", "standard", "moderated", "failed", "1"),
    ("#invalid", "chat", "invalid_request", "failed", "1"),
    ("#empty*1", "standard", "", "done", "2"),
    ("#nojson", "standard", "bad_answer", "failed", "2"),
    ("#b64", "standard", "", "done", "1"),
    ("#link503*2", "standard", "", "done", "1"),
    ("#link404", "standard", "download", "failed", "1"),
    ("#linkhalf", "standard", "bad_image", "failed", "1"),
    ("#linkhtml", "chat", "bad_image", "failed", "1"),
    ("#linkprivate", "standard", "unsafe_url", "failed", "1"),
    ("#reset*1", "standard", "", "done", "2"),
    ("#reset", "chat", "unknown", "unknown", "2"),
]


def test_each_failure_has_its_code_and_its_price(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    """All in one run: what goes wrong with one job is none of another's."""
    jobs = "".join(
        f"  - {{id: a{number}, prompt: 'job a{number} {fault}', style: {style}}}\n"
        for number, (fault, style, *_) in enumerate(FAILURES)
    )
    ended = program("run", manifest(jobs, limits=", attempts: 3"))
    assert ended.code == 1, ended.err
    rows = {row["id"]: row for row in program.rows()}
    images = program.folder / "out/m/images"
    for number, (fault, _, code, status, attempts) in enumerate(FAILURES):
        row, posts = rows[f"a{number}"], bank.posts[f"a{number}"]
        assert (row["status"], row["error_code"], row["attempts"]) == (status, code, attempts), fault
        free = int(fault.split("*")[1]) if "429" in fault or "limited" in fault else 0
        # What several jobs meet before an answer comes between is an outage, of which each counts the first only.
        excused = (0, 1, 2, 3) if "#50" in fault else (0,)
        assert posts - int(attempts) - free in excused, fault
        billed = sum(word in fault for word in ("#reset", "#empty")) + 2 * (fault == "#nojson") + (fault == "#reset")
        assert int(row["possibly_billed"]) == billed, fault
        assert (images.parent / (row["file_name"] or "images")).exists()
    assert len(list(images.iterdir())) == sum(status == "done" for *_, status, _ in FAILURES)


@pytest.mark.parametrize("fault", ["quota", "auth"])
def test_a_refused_key_stops_the_run_and_leaves_the_rest_pending(
    program: Program, bank: Bank, manifest: Callable[..., str], fault: str
) -> None:
    jobs = f"  - {{id: a, prompt: 'x #{fault}*1'}}\n" + "".join(f"  - {{id: j{n}, prompt: p{n}}}\n" for n in range(9))
    name = manifest(jobs, limits=", attempts: 4")
    ended = program("run", name, "--set", "limits.concurrency=1")
    assert ended.code == 3
    assert "TEST_KEY" in ended.out
    assert len(bank.seen) == 1
    assert program.summary()["jobs"]["pending"] == 10
    assert program("run", name).code == 0
    assert len(program.rows()) == 10


def test_a_dead_key_leaves_the_pool_to_the_others(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    jobs = "  - {id: a, prompt: 'x #auth*1'}\n" + "".join(f"  - {{id: j{n}, prompt: p{n}}}\n" for n in range(5))
    name = manifest(jobs)
    ended = program("run", name, "--set", "provider.keys=[TEST_KEY, OTHER_KEY]")
    assert ended.code == 0, ended.err + ended.out
    assert len(program.rows()) == 6
    assert len(re.findall(r"The key in (?:TEST|OTHER)_KEY was refused", ended.err)) == 1
    assert "sk-" not in ended.err
    log = (program.folder / "out/m/run.log").read_text(encoding="utf-8")
    events = [json.loads(line) for line in log.splitlines()]
    [told] = [event for event in events if event["event"] == "key_refused"]
    assert told["key"] in {"TEST_KEY", "OTHER_KEY"}
    assert told["code"] == "auth"


def test_the_budget_is_never_passed_and_a_higher_one_continues(
    program: Program, bank: Bank, manifest: Callable[..., str]
) -> None:
    bank.delay = (0.05, 0.05)
    name = manifest("  - {prompt: 'a cat {{ n }}', matrix: {n: {range: [1, 30]}}}\n", limits=", budget: 1.00")
    ended = program("run", name)
    assert ended.code == 3
    assert "budget of 1.00 CNY" in ended.out
    assert len(bank.seen) == 7
    assert program.summary()["spent"] == "0.98"
    assert len(program.rows()) == 7
    assert program("run", name, "--set", "limits.budget=10").code == 0
    assert len(bank.seen) == 30
    assert program.summary()["spent"] == "4.2"


def test_the_simulator_spends_nothing_of_the_budget(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    name = manifest("  - {prompt: 'a cat {{ n }}', matrix: {n: {range: [1, 7]}}}\n", limits=", budget: 1.00")
    simulated = ["--provider", "simulator", "--set", "provider.options={latency: 0, size: 64}"]
    assert "nothing (simulated)" in program("plan", name, *simulated).out
    assert program("run", name, *simulated).code == 0
    assert program.summary()["spent"] == "0"
    planned = program("plan", name).out
    assert "7 paid calls" in planned
    assert "spent already" not in planned
    ended = program("run", name)
    assert ended.code == 0, ended.out
    assert len(bank.seen) == 7  # a simulated picture is none of the provider's
    assert program.summary()["spent"] == "0.98"


def test_unknown_attempts_follow_on_unknown(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    name = manifest("  - {id: a, prompt: 'x #reset*1'}\n  - {id: b, prompt: fine}\n")
    held = program("run", name, "--on-unknown", "hold")
    assert held.code == 1
    assert [row["status"] for row in program.rows()] == ["unknown", "done"]
    assert program("run", name, "--on-unknown", "hold").code == 1
    assert len(bank.seen) == 2
    assert program("run", name).code == 0
    rows = program.rows()
    assert [(row["status"], row["possibly_billed"], row["attempts"]) for row in rows] == [
        ("done", "1", "2"),
        ("done", "0", "1"),
    ]


def test_unknown_can_be_made_failed(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    name = manifest("  - {id: a, prompt: 'x #hang*1'}\n", limits=", attempts: 2")
    assert program("run", name, "--on-unknown", "fail", "--set", "limits.timeout=1s").code == 1
    (row,) = program.rows()
    assert (row["status"], row["error_code"], row["possibly_billed"]) == ("failed", "unknown", "1")


def test_failed_jobs_stay_failed_until_asked(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    name = manifest("  - {id: a, prompt: 'x #500*2'}\n  - {id: b, prompt: fine}\n", limits=", attempts: 2")
    assert program("run", name).code == 1
    assert program("run", name).code == 1
    assert len(bank.seen) == 3
    assert program("run", name, "--retry-failed").code == 0
    assert [row["status"] for row in program.rows()] == ["done", "done"]
    assert len(bank.seen) == 4


def test_only_and_limit_select(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    name = manifest(
        "  - {id: 'a-{{ n }}', prompt: 'a {{ n }}', matrix: {n: {range: [1, 5]}}}\n  - {id: b, prompt: b}\n"
    )
    missed = program("run", name, "--only", "zz*")
    assert (missed.code, len(bank.seen)) == (0, 0)
    assert "No job has an id like --only 'zz*', so there is nothing to do.\n" in missed.out
    for quiet in ([], ["--quiet"]):  # who has no terminal reads what is on stderr, if anything
        said = program("run", name, "--only", "zz*", *quiet).err
        assert "--only 'zz*' is like no id of the 6 jobs: correct it, or leave it out.\n" in said
    assert program("run", name, "--only", "b").code == 0
    assert [row["id"] for row in program.rows()] == ["b"]
    assert program("run", name, "--limit", "2").code == 0
    assert [row["id"] for row in program.rows()] == ["a-1", "a-2", "b"]
    assert program("run", name).code == 0
    assert len(bank.seen) == 6


def test_only_may_be_given_more_than_once(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    name = manifest("  - {id: 'j{{ n }}', prompt: 'x {{ n }}', matrix: {n: {range: [1, 5]}}}\n")
    options = ["--only", "j1", "--only", "j[34]", "--only", "zz*"]
    assert "--only 'zz*' is like no id" in program("plan", name, *options).out
    stopped = program("run", name, *options, "--on-unknown", "hold", "--set", "limits.budget_per_run=0.2")
    assert (stopped.code, "--only 'zz*' is like no id" in stopped.err) == (3, True)
    next_step = stopped.out.partition("to continue: batchflux ")[2].splitlines()[0]
    assert next_step.endswith("--only j1 --only 'j[34]' --only 'zz*' --on-unknown hold --set limits.budget_per_run=0.2")
    assert program("run", name, *options).code == 0
    assert [row["id"] for row in program.rows()] == ["j1", "j3", "j4"]
    assert len(bank.seen) == 3


@pytest.mark.parametrize("option", ["--out", "--only", "--provider", "--env-file", "--budget"])
def test_an_option_that_says_nothing_is_refused(program: Program, option: str, manifest: Callable[..., str]) -> None:
    name = manifest("  - {id: a, prompt: x}\n")
    refused = program("run", name, option, "")
    assert (refused.code, refused.err) == (2, f"{option} is empty: give what you mean, or leave it out.\n")


def test_an_edit_runs_only_what_changed_and_its_undoing_costs_nothing(
    program: Program, bank: Bank, manifest: Callable[..., str]
) -> None:
    before = "  - {id: a, prompt: red}\n  - {id: b, prompt: blue}\n  - {id: c, prompt: green}\n"
    after = "  - {id: b, prompt: navy}\n  - {id: a, prompt: red, tags: {x: y}}\n"
    program("run", manifest(before))
    first = {row["id"]: row for row in program.rows()}
    plan = json.loads(program("plan", manifest(after), "--json").out)
    counts = {name: plan["counts"][name] for name in ("total", "new", "changed", "done", "unlisted", "todo")}
    assert counts == {"total": 2, "new": 0, "changed": 1, "done": 1, "unlisted": 1, "todo": 1}
    assert program("run", "m.yaml").code == 0
    assert len(bank.seen) == 4
    assert [row["id"] for row in program.rows()] == ["b", "a"]
    assert (program.folder / "out/m/images/c.jpg").exists()
    assert program.summary()["jobs"]["unlisted"] == 1
    assert program("run", manifest(before)).code == 0
    assert len(bank.seen) == 4, "the undone edit was paid for again"
    assert {row["id"]: (row["sha256"], row["file_name"]) for row in program.rows()} == {
        name: (row["sha256"], row["file_name"]) for name, row in first.items()
    }
    assert hashlib.sha256((program.folder / "out/m/images/b.jpg").read_bytes()).hexdigest() == first["b"]["sha256"]


def test_a_removed_picture_is_fetched_again_not_paid_again(
    program: Program, bank: Bank, manifest: Callable[..., str]
) -> None:
    name = manifest("  - {id: a, prompt: red}\n")
    program("run", name)
    (program.folder / "out/m/images/a.jpg").unlink()
    assert program("run", name).code == 0
    assert (program.folder / "out/m/images/a.jpg").exists()
    assert len(bank.seen) == 1


def test_a_missing_reference_fails_its_job_before_anything_is_sent(
    program: Program, bank: Bank, manifest: Callable[..., str]
) -> None:
    name = manifest("  - {id: a, prompt: x, image: nowhere.png}\n  - {id: b, prompt: fine}\n")
    plan = program("plan", name)
    assert plan.code == 1
    assert "nowhere.png" in plan.out
    assert program("run", name).code == 1
    a, b = program.rows()
    assert (a["status"], a["error_code"], a["attempts"]) == ("failed", "reference", "0")
    assert b["status"] == "done"
    assert len(bank.seen) == 1


@pytest.mark.slow
def test_slow_downloads_do_not_hold_api_slots(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    bank.links_held = lambda: len(bank.seen) < 20  # no picture comes before all have been ordered
    name = manifest("  - {prompt: 'a cat {{ n }}', matrix: {n: {range: [1, 20]}}}\n", limits=", canary: 0")
    ended = program("run", name, "--set", "limits.concurrency=2")
    assert (ended.code, len(bank.seen)) == (0, 20), ended.said
    assert bank.most_at_once <= 2


def test_faults_spend_nothing_and_leave_nothing(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    name = manifest("  - {id: a, prompt: x, aspect_ratio: wide}\n  - {id: a, prompt: y, sed: 3}\n")
    ended = program("run", name)
    assert ended.code == 2
    assert ended.err.count("\n") == 3, ended.err
    assert "m.yaml:7: jobs[0].aspect_ratio" in ended.err
    assert "m.yaml:8: jobs[1].sed" in ended.err
    assert not bank.seen
    assert not (program.folder / "out").exists() or not any((program.folder / "out").iterdir())


def test_a_fault_in_the_last_row_spends_nothing(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    rows = "".join(f"{n},1:1\n" for n in range(300)) + "300,banana\n"
    program.write("t.csv", "n,ratio\n" + rows)
    name = manifest("  - {prompt: 'cat {{ n }}', from: t.csv, aspect_ratio: '{{ ratio }}'}\n")
    ended = program("run", name)
    assert ended.code == 2
    assert "t.csv:302" in ended.err
    assert "banana" in ended.err
    assert not bank.seen
    assert not (program.folder / "out").exists()
    program.write("deep/kept.txt", "mine")
    (program.folder / "empty").mkdir()
    for out in ("deep/er/and/deeper", "empty"):
        assert program("run", name, "--out", out).code == 2
    assert [path.name for path in (program.folder / "deep").iterdir()] == ["kept.txt"]
    assert (program.folder / "empty").exists(), "a folder that was there before stays"


def test_a_missing_key_is_said_before_anything_else(program: Program, manifest: Callable[..., str]) -> None:
    program.environ.pop("TUZI_API_KEY", None)
    name = manifest("  - {id: a, prompt: x}\n")
    ended = program("run", name, "--set", "provider.keys=[NOT_SET_KEY]")
    assert ended.code == 2
    assert "export NOT_SET_KEY=" in ended.err
    program.write(
        "n.yaml", "version: 1\nprovider:\n  name: tuzi\n  keys: [NOT_SET, TEST_KEY, NOR_THIS]\njobs: [{prompt: x}]\n"
    )
    ended = program("run", "n.yaml")
    assert ended.code == 2
    assert [line.partition(";")[0] for line in ended.err.splitlines()] == [
        f"n.yaml:4: provider.keys[{index}]: the environment variable {key} is not set"
        for index, key in ((0, "NOT_SET"), (2, "NOR_THIS"))
    ]
    program.write("bare.yaml", "version: 1\nprovider: tuzi\njobs: [{prompt: x}]\n")
    assert "bare.yaml:2: provider.keys[0]: the environment variable TUZI_API_KEY" in program("run", "bare.yaml").err


def test_status_speaks_json(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    program("run", manifest("  - {id: a, prompt: 'x #moderated'}\n  - {id: b, prompt: fine}\n"))
    state: dict[str, Any] = json.loads(program("status", "out/m", "--json").out)
    assert (state["total"], state["done"], state["failed"], state["failures"]) == (2, 1, 1, {"moderated": 1})
    assert state["spent"] == "0.14"
    text = program("status", "out/m").out
    assert "1 of 2 jobs done" in text
    assert program("status", "nowhere").code == 2


def test_a_consistently_failing_provider_stops_the_run(
    program: Program, bank: Bank, manifest: Callable[..., str]
) -> None:
    name = manifest(
        "  - {prompt: 'cat {{ n }} #500', matrix: {n: {range: [1, 40]}}}\n",
        limits=", attempts: 2, patience: 3s",
    )
    ended = program("run", name)
    assert ended.code == 3
    assert "The provider has not been there" in ended.out
    assert program.summary()["jobs"]["pending"] == 40
    assert program.summary()["spent"] == "0"


def test_no_secret_reaches_the_folder_or_the_screen(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    program.apart = True
    name = manifest(
        "  - {id: a, prompt: 'x #500*1', webhook_url: 'https://h.example', webhook_secret: '${OTHER_KEY}'}\n"
    )
    ended = program("run", name, "--log-format", "json")
    assert ended.code == 0
    everything = ended.out + ended.err
    for path in (program.folder / "out").rglob("*"):
        if path.is_file():
            everything += path.read_bytes().decode("latin-1")
    assert KEY not in everything
    assert "sk-other" not in everything


def test_a_picture_that_came_broken_with_the_answer_is_asked_for_again(
    program: Program, bank: Bank, manifest: Callable[..., str]
) -> None:
    name = manifest("  - {id: a, prompt: 'x #b64half*1'}\n")
    assert program("run", name).code == 0
    (row,) = program.rows()
    assert (row["status"], row["attempts"], row["cost"]) == ("done", "2", "0.28")
    assert len(bank.seen) == 2


def test_a_link_that_expired_is_renewed_only_when_asked(
    program: Program, bank: Bank, manifest: Callable[..., str]
) -> None:
    name = manifest("  - {id: a, prompt: 'x #link403'}\n", limits=", attempts: 2")
    assert program("run", name).code == 1
    assert len(bank.seen) == 1
    bank.prompts["x #link403"] = ""
    assert program("run", name, "--retry-failed").code == 0
    assert len(bank.seen) == 1, "the link lives again, so nothing new is paid"


def test_unknown_jobs_have_rows_also_when_the_run_stops(
    program: Program, bank: Bank, manifest: Callable[..., str]
) -> None:
    name = manifest("  - {prompt: 'x {{ n }} #hang', matrix: {n: {range: [1, 3]}}}\n", limits=", deadline: 1.9s")
    ended = program("run", name, "--set", "limits.timeout=2s")
    assert ended.code == 3
    assert "deadline" in ended.out
    assert [row["status"] for row in program.rows()] == ["unknown"] * 3


def test_a_reader_that_goes_away_changes_nothing(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    process = program.start("run", manifest("  - {id: a, prompt: x}\n"))
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    assert program.finish(process).code == 0


def test_an_output_folder_that_cannot_be_one_is_a_usage_fault(
    program: Program, bank: Bank, manifest: Callable[..., str]
) -> None:
    program.write("file", "")
    ended = program("run", manifest("  - {id: a, prompt: x}\n"), "--out", "file")
    assert ended.code == 2
    assert "choose another with --out" in ended.err
    assert not bank.seen


def test_what_a_stop_leaves_unknown_counts_as_this_run_s(
    program: Program, bank: Bank, manifest: Callable[..., str]
) -> None:
    name = manifest("  - {prompt: 'x {{ n }} #reset', matrix: {n: {range: [1, 9]}}}\n", limits=", budget: 0.42")
    ended = program("run", name)
    assert ended.code == 3, ended.out
    assert program.summary()["jobs"]["unknown"] == len({seen.text for seen in bank.seen})
    assert program.summary()["this_run"]["unknown"] == program.summary()["jobs"]["unknown"] > 0
    assert f"{program.summary()['this_run']['unknown']} unknown" in ended.out
    program("run", name, "--on-unknown", "hold")
    assert program.summary()["this_run"]["unknown"] == 0


@pytest.mark.slow
def test_no_more_come_than_the_rate_allows(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    """The stand-in may note late what it receives, on a busy machine, but never before it has left."""
    bank.delay = (0.3, 0.3)
    name = manifest("  - {prompt: 'cat {{ n }}', matrix: {n: {range: [1, 45]}}}\n", limits=", rate: 10/s")
    began = time.monotonic()
    assert program("run", name, "--set", "limits.concurrency=30").code == 0
    assert all(seen.at - began >= number // 10 - 0.001 for number, seen in enumerate(bank.seen))


@pytest.mark.slow
def test_the_rate_holds_from_one_run_to_the_next(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    name = manifest("  - {prompt: 'cat {{ n }}', matrix: {n: {range: [1, 3]}}}\n", limits=", rate: 30/min")
    began = time.monotonic()
    for _ in range(3):
        assert program("run", name, "--limit", "1").code == 0
    assert all(seen.at - began >= 2 * number - 0.001 for number, seen in enumerate(bank.seen))
