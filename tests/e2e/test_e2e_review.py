"""Reviewing as a person does it: real processes, a run beside it, kills at the worst moment."""

from __future__ import annotations

import http.client
import json
import re
import signal
import stat
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.waiting import wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from batchflux.testing.bank import Bank
    from batchflux.testing.program import Program

ADDRESS = re.compile(r"http://\S+/\?token=[A-Za-z0-9_-]{43}")


class Browser:
    """A page of a review, as far as HTTP goes."""

    def __init__(self, address: str) -> None:
        where = urlsplit(address)
        self._netloc = where.netloc
        self.token = where.query.partition("=")[2]
        status, headers, _ = self._send("GET", f"/?{where.query}", {})
        assert status == 200
        self._cookie = headers["Set-Cookie"].partition(";")[0]

    def _send(self, method: str, path: str, headers: dict[str, str], body: bytes | None = None) -> Any:
        with closing(http.client.HTTPConnection(self._netloc, timeout=60)) as connection:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()

    def get(self, path: str) -> Any:
        status, _, body = self._send("GET", path, {"Cookie": self._cookie})
        assert status == 200, body
        return body

    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["id"]: row for row in json.loads(self.get("/api/rows"))["rows"]}

    def judge(self, names: list[str], review: str, **more: Any) -> dict[str, Any]:
        rows = self.rows()
        body = {"keys": [rows[name]["key"] for name in names], "review": review, **more}
        headers = {
            "Cookie": self._cookie,
            "Origin": f"http://{self._netloc}",
            "X-Batchflux-Token": self.token,
            "Content-Type": "application/json",
        }
        status, _, answer = self._send("POST", "/api/verdicts", headers, json.dumps(body).encode())
        found: dict[str, Any] = json.loads(answer)
        assert status == 200, found
        return found


@dataclass
class Reviews:
    """Starts `batchflux review` and opens its page."""

    program: Program

    def start(self, *arguments: str) -> tuple[subprocess.Popen[str], Browser]:
        process = self.program.start("review", *arguments)
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert ADDRESS.fullmatch(address), address
        return process, Browser(address)


@pytest.fixture
def reviews(program: Program) -> Reviews:
    return Reviews(program)


def by_id(program: Program) -> dict[str, dict[str, str]]:
    return {row["id"]: row for row in program.rows()}


def test_from_the_verdict_to_the_new_picture(
    program: Program, bank: Bank, manifest: Callable[..., str], reviews: Reviews
) -> None:
    """The page stays open over two runs; what is redone is paid for once, and appears without a reload."""
    name = manifest("  - {id: mug, prompt: a mug, seed: 7}\n  - {id: cup, prompt: a cup}\n")
    assert program("run", name).code == 0
    process, browser = reviews.start("out/m")
    assert b"a mug" in browser.get("/")
    answer = browser.judge(["mug"], "redo", note="brighter", redo={"prompt": "a bright mug", "seed": None})
    assert [redo["id"] for redo in answer["redo"]] == ["mug-redo1"]
    browser.judge(["cup"], "accept")
    wait_until(lambda: by_id(program)["cup"].get("review") == "accept")
    bank.seen.clear()
    assert program("run", name, "--redo").code == 0
    assert bank.answered() == {"a bright mug": 1}
    wait_until(lambda: "mug-redo1" in browser.rows())
    rows = browser.rows()
    assert (rows["mug"]["review"], rows["mug"]["note"]) == ("redo", "brighter")
    assert rows["mug-redo1"]["review"] == ""
    assert rows["mug-redo1"]["seed"] != 7
    assert browser.get(f"/{rows['mug-redo1']['full']}") != browser.get(f"/{rows['mug']['full']}")
    assert {row["id"]: row["review"] for row in program.rows()} == {"mug": "redo", "mug-redo1": "", "cup": "accept"}
    process.send_signal(signal.SIGINT)
    ended = program.finish(process)
    assert ended.code == 0
    assert browser.token not in ended.err


@pytest.mark.slow
def test_a_kill_right_after_the_answer_loses_nothing(
    program: Program, bank: Bank, manifest: Callable[..., str], reviews: Reviews
) -> None:
    name = manifest("  - {id: mug, prompt: a mug}\n  - {id: cup, prompt: a cup}\n")
    assert program("run", name).code == 0
    for prompt in ("a red mug", "a blue mug", "a green mug"):
        process, browser = reviews.start("out/m")
        browser.judge(["mug"], "redo", note=prompt, redo={"prompt": prompt, "seed": None})
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        _, again = reviews.start("out/m")
        assert (again.rows()["mug"]["review"], again.rows()["mug"]["note"]) == ("redo", prompt)
        wait_until(lambda prompt=prompt: by_id(program)["mug"].get("note") == prompt)  # type: ignore[misc]  # bound now
    bank.seen.clear()
    assert program("run", name).code == 0
    assert bank.answered() == {"a green mug": 1}
    assert by_id(program)["mug"]["note"] == "a green mug"


@pytest.mark.slow
def test_a_killed_run_is_shown_as_one_that_was_cut_off(
    program: Program, bank: Bank, manifest: Callable[..., str], reviews: Reviews
) -> None:
    """An open page sees it happen, and neither it nor the report takes an earlier run's end for this one's."""
    name = manifest("  - {prompt: 'scene {{ n }}', id: 's{{ n }}', matrix: {n: {range: [1, 60]}}}\n")
    assert program("run", name, "--limit", "2").code == 0
    _, browser = reviews.start("out/m")

    def header() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(browser.get("/api/rows"))["header"]
        return found

    summary = program.summary()
    assert {key: header()[key] for key in ("message", "seconds", "images_per_minute")} == {
        key: summary[key] for key in ("message", "seconds", "images_per_minute")
    }
    bank.seen.clear()
    bank.held = lambda: len(bank.seen) > 12
    run = program.start("run", name)
    wait_until(bank.held)
    assert (header()["state"], header()["message"]) == ("running", "")
    program.kill(run)
    bank.held = None
    wait_until(lambda: header()["state"] == "stopped")
    seen = header()
    assert seen["message"] == "The last run was cut off; run it again to continue."
    assert seen["counts"]["in_flight"] == 0
    assert seen["counts"]["unknown"] > 0
    assert sum(seen["counts"][key] for key in ("done", "failed", "unknown", "pending")) == seen["counts"]["total"] == 60
    assert seen["finished_at"] is None
    assert program("report", "out/m").code == 0
    assert seen["message"] in (program.folder / "out/m/report.html").read_text(encoding="utf-8")
    assert program("run", name).code == 0
    wait_until(lambda: header()["state"] == "ended")
    assert header()["message"] == "All 60 jobs are done."


@pytest.mark.slow
def test_judging_while_a_run_writes(
    program: Program, bank: Bank, manifest: Callable[..., str], reviews: Reviews
) -> None:
    """Dozens of verdicts beside a run at full speed: neither loses anything, and the run's end shows them all."""
    bank.delay = (0.02, 0.02)
    name = manifest("  - {prompt: 'scene {{ n }}', id: 's{{ n }}', matrix: {n: {range: [1, 300]}}}\n")
    assert program("run", name, "--limit", "5").code == 0
    _, browser = reviews.start("out/m")
    judged: dict[str, str] = {}
    bank.held = lambda: len(bank.seen) > 200 and len(judged) < 30  # the run cannot end before it has been judged
    run = program.start("run", name, "--set", "limits.concurrency=8", "--set", "limits.timeout=300s")
    while len(judged) < 30 and run.poll() is None:
        for row in browser.rows().values():
            if row["id"] not in judged and len(judged) < 30:
                browser.judge([row["id"]], "reject", note=f"note of {row['id']}")
                judged[row["id"]] = f"note of {row['id']}"
    ended = program.finish(run)
    assert len(judged) == 30, ended.said
    assert ended.code == 0, ended.err
    assert sum(bank.answered().values()) == 300
    wait_until(lambda: {row["id"]: row["note"] for row in program.rows() if row["review"] == "reject"} == judged)
    assert len(program.rows()) == 300
    assert {row["possibly_billed"] for row in program.rows()} == {"0"}


def test_a_run_is_watched_from_before_its_folder_is_there_to_its_end(
    program: Program, bank: Bank, manifest: Callable[..., str]
) -> None:
    bank.held = lambda: len(bank.seen) > 12  # it cannot end before it was looked at
    name = manifest("  - {prompt: 'scene {{ n }}', id: 's{{ n }}', matrix: {n: {range: [1, 40]}}}\n")
    process = program.start("run", name, "--watch")
    assert process.stderr is not None
    line = process.stderr.readline()
    found = ADDRESS.search(line)
    assert found is not None, line
    browser = Browser(found[0])
    wait_until(lambda: len(browser.rows()) > 3)
    assert json.loads(browser.get("/api/rows"))["header"]["state"] == "running"
    first = next(iter(browser.rows()))
    browser.judge([first], "redo", note="while it runs")
    assert b"<html" in browser.get("/")
    bank.held = None
    ended = program.finish(process)
    assert ended.code == 0
    assert browser.token not in ended.out
    assert by_id(program)[first]["review"] == "redo"
    assert sum(bank.answered().values()) == 40
    with pytest.raises(OSError, match="refused"):
        Browser(found[0])
    assert program("run", name).code == 0
    assert sum(bank.answered().values()) == 41
    for path in (program.folder / "out/m").rglob("*"):
        assert not path.is_file() or browser.token.encode() not in path.read_bytes()


@pytest.mark.slow
def test_watching_keeps_results_on_stdout_and_says_its_address_in_json_too(
    program: Program, manifest: Callable[..., str]
) -> None:
    name = manifest("  - {id: mug, prompt: a mug}\n")
    plain = program("run", name, "--out", "a", "--provider", "simulator")
    ended = program("run", name, "--out", "b", "--provider", "simulator", "--watch", "--log-format", "json")
    assert (plain.code, ended.code) == (0, 0)
    assert ended.out.splitlines()[0] == plain.out.splitlines()[0]
    lines = [json.loads(line) for line in ended.err.splitlines()]
    assert lines[0]["event"] == "watch"
    assert ADDRESS.search(lines[0]["message"])
    quiet = program("run", name, "--out", "c", "--provider", "simulator", "--watch", "--quiet")
    assert quiet.out == ""
    assert ADDRESS.search(quiet.err)


@pytest.mark.slow
def test_a_watched_run_that_cannot_start_ends_as_it_would_otherwise(
    program: Program, bank: Bank, manifest: Callable[..., str]
) -> None:
    bank.held = lambda: True
    name = manifest("  - {id: mug, prompt: a mug}\n")
    first = program.start("run", name)
    wait_until(lambda: bank.seen)
    assert program("run", name, "--watch").code == 4
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_drains_a_watched_run(
    program: Program, bank: Bank, manifest: Callable[..., str], number: signal.Signals
) -> None:
    bank.held = lambda: len(bank.seen) >= 4 and not program.noted("signal")
    name = manifest("  - {prompt: 'scene {{ n }}', matrix: {n: {range: [1, 40]}}}\n")
    process = program.start("run", name, "--watch")
    wait_until(bank.held)
    process.send_signal(number)
    assert program.finish(process).code == 128 + number


def test_what_the_command_says(program: Program, manifest: Callable[..., str], reviews: Reviews) -> None:
    ended = program("review", "nowhere")
    assert (ended.code, "no output folder" in ended.err) == (2, True)
    assert program("run", manifest("  - {id: mug, prompt: a mug}\n"), "--provider", "simulator").code == 0
    process, browser = reviews.start("out/m", "--host", "0.0.0.0")  # noqa: S104  to read what it says
    port = browser.rows() and urlsplit(f"http://{browser._netloc}").port
    ended = program("review", "out/m", "--port", str(port))
    assert (ended.code, "name another --port" in ended.err) == (2, True)
    ended = program("review", "out/m", "--host", "192.0.2.7")
    assert ended.code == 2
    process.send_signal(signal.SIGTERM)
    ended = program.finish(process)
    assert ended.code == 0
    assert "Everyone who can reach any address of this machine" in ended.err
    assert "not encrypted" in ended.err


def test_it_opens_the_browser_that_the_user_has(
    program: Program, manifest: Callable[..., str], reviews: Reviews
) -> None:
    assert program("run", manifest("  - {id: mug, prompt: a mug}\n"), "--provider", "simulator").code == 0
    script = program.write("browser.sh", '#!/bin/sh\necho "$1" > opened.tmp && mv opened.tmp opened\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    program.environ["BROWSER"] = str(script)
    _, browser = reviews.start("out/m", "--open")
    opened = program.folder / "opened"
    wait_until(opened.exists)
    assert opened.read_text(encoding="utf-8").strip().endswith(f"/?token={browser.token}")


def test_verdicts_outlive_another_run_and_its_edits(
    program: Program, bank: Bank, manifest: Callable[..., str], reviews: Reviews
) -> None:
    """A verdict is of the picture: ids and order may change, the content may not."""
    name = manifest("  - {id: mug, prompt: a mug}\n  - {id: cup, prompt: a cup}\n")
    assert program("run", name).code == 0
    process, browser = reviews.start("out/m")
    browser.judge(["mug", "cup"], "accept", note="-1+2")
    process.send_signal(signal.SIGINT)
    assert program.finish(process).code == 0
    with suppress(FileNotFoundError):
        (program.folder / "out/m/results.csv").unlink()
    name = manifest("  - {id: big cup, prompt: a cup}\n  - {id: mug, prompt: a red mug}\n")
    assert program("run", name).code == 0
    rows = program.rows()
    assert [(row["id"], row["review"], row["note"]) for row in rows] == [
        ("big cup", "accept", "'-1+2"),
        ("mug", "", ""),
    ]
