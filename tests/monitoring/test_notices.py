"""Notices of whole runs, to real receivers: what they are told, what nobody is told, and that nothing depends on it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from batchflux import load_manifest, run
from batchflux.runner import RunOptions
from batchflux.testing.bank import Bank
from batchflux.testing.serving import serving
from tests.monitoring.conftest import TOKEN, Receivers
from tests.ports import kept_port
from tests.proxying import proxying
from tests.waiting import wait_until

if TYPE_CHECKING:
    from batchflux.testing.program import Ended, Program

JOBS = "".join(f"  - {{id: j{n}, prompt: 'job j{n} #url', output_format: png}}\n" for n in range(10))


def write(program: Program, bank: Bank, notify: str = "", *, limits: str = "", jobs: str = JOBS) -> None:
    program.manifest(bank.url, jobs, limits=limits, more=f"notify: {notify}" if notify else "")


def told(program: Program, *said: str) -> str:
    """Return all that a run has said or written, as text."""
    files = [path for path in program.out.rglob("*") if path.is_file()]
    return "\n".join([*said, *(path.read_bytes().decode(errors="replace") for path in files)])


def keeps_secrets(program: Program, ended: Ended) -> None:
    everything = told(program, ended.said)
    assert TOKEN not in everything
    assert "/ok/" not in everything


def test_a_webhook_gets_summary_json_at_the_end(program: Program, bank: Bank, receivers: Receivers) -> None:
    write(program, bank, "${HOOK}")
    ended = program.run(HOOK=receivers.at("ok"))
    assert ended.code == 0, ended.said
    (notice,) = receivers.told
    assert notice.body == (program.out / "summary.json").read_text(encoding="utf-8")
    assert (notice.method, notice.event) == ("POST", "end")
    assert notice.headers["Content-Type"].startswith("application/json")
    keeps_secrets(program, ended)
    assert "did not arrive" not in ended.said
    logged = [line for line in program.log() if line["event"] == "notice_told"]
    assert [line["to"] for line in logged] == [f"webhook at {receivers.url.removeprefix('http://')}"]


def test_a_ping_hears_start_exit_code_and_last_lines(program: Program, bank: Bank, receivers: Receivers) -> None:
    jobs = JOBS + "  - {id: bad, prompt: 'job bad #moderated'}\n"
    write(program, bank, "[{ping: '${PING}'}]", jobs=jobs)
    ended = program.run(PING=receivers.at("ok"))
    assert ended.code == 1
    assert receivers.pings() == [("GET", "start"), ("POST", "1")]
    body = receivers.told[-1].body
    assert "10 of 11 jobs done, 1 failed" in body
    assert "bad: failed, moderated: " in body
    keeps_secrets(program, ended)


@pytest.mark.slow
def test_the_query_of_a_ping_stays_behind_its_path(program: Program, bank: Bank, receivers: Receivers) -> None:
    write(program, bank)
    assert program.run("--notify", f"ping={receivers.at('ok')}?create=1").code == 0
    assert receivers.pings() == [("GET", "start?create=1"), ("POST", "0?create=1")]


@pytest.mark.slow
def test_a_stop_says_why(program: Program, bank: Bank, receivers: Receivers) -> None:
    write(program, bank, "[{webhook: '${A}', on: stop}, {webhook: '${B}', on: [end]}]", limits=", budget: 0.5")
    ended = program.run(A=receivers.at("ok"), B=receivers.at("also"))
    assert ended.code == 3
    for kind in ("ok", "also"):
        (notice,) = receivers.heard(kind)
        assert notice.event == "stop"
        assert (notice.json["reason"], notice.json["exit_code"]) == ("budget", 3)
    receivers.told.clear()
    write(program, bank, "[{webhook: '${A}', on: stop}, {webhook: '${B}', on: [end]}]")
    assert program.run(A=receivers.at("ok"), B=receivers.at("also")).code == 0
    assert not receivers.heard("ok"), "that was an end, and no stop"
    assert [one.event for one in receivers.heard("also")] == ["end"]


@pytest.mark.parametrize(("key", "budget"), [("budget", 1.4), ("budget_per_run", 1.5)])
def test_of_a_budget_is_told_once_at_80_percent(
    program: Program, bank: Bank, receivers: Receivers, key: str, budget: float
) -> None:
    write(program, bank, "${HOOK}", limits=f", {key}: {budget}")
    assert program.run(HOOK=receivers.at("ok")).code == 0
    (notice,) = receivers.heard("ok", "budget")
    assert notice.json["event"] == "budget"
    assert notice.json["key"] == key
    assert notice.json["share"] >= 0.8
    assert f"{budget} CNY" in notice.json["message"]
    assert [one.event for one in receivers.told] == ["budget", "end"]


@pytest.mark.slow
def test_of_a_budget_that_lasts_nothing_is_told(program: Program, bank: Bank, receivers: Receivers) -> None:
    write(program, bank, "${HOOK}", limits=", budget: 2.0")
    assert program.run(HOOK=receivers.at("ok")).code == 0
    assert [one.event for one in receivers.told] == ["end"]


@pytest.mark.slow
def test_of_a_provider_that_goes_and_comes_is_told_once_each(program: Program, receivers: Receivers) -> None:
    bank = Bank(delay=(0.5, 0.6))  # the end overtakes what is on its way
    with kept_port() as port:
        bank.url = f"http://127.0.0.1:{port}"
        write(program, bank, "['${HOOK}', {ping: '${PING}'}]")
        process = program.start("run", "m.yaml", HOOK=receivers.at("ok"), PING=receivers.at("ping"))
        wait_until(lambda: receivers.heard("ok", "provider") and ("POST", "log") in receivers.pings("ping"))
        with serving(bank.app(), port):
            ended = program.finish(process)
    assert ended.code == 0, ended.said
    away, back = (one.json for one in receivers.heard("ok", "provider"))
    assert (away["provider"], away["state"], away["place"]) == ("tuzi", "away", "provider")
    assert "not reachable: connection refused" in away["message"]
    assert (back["provider"], back["state"]) == ("tuzi", "back")
    assert receivers.pings("ping") == [("GET", "start"), ("POST", "log"), ("POST", "log"), ("POST", "0")]
    keeps_secrets(program, ended)


@pytest.mark.parametrize("kind", ["400", "moved", pytest.param("closed", marks=pytest.mark.slow)])
def test_a_notice_that_does_not_arrive_changes_nothing(
    program: Program, bank: Bank, receivers: Receivers, kind: str
) -> None:
    write(program, bank, "['${HOOK}', {ping: '${PING}', on: end}]")
    address = f"http://127.0.0.1:1/{TOKEN}" if kind == "closed" else receivers.at(kind)
    ended = program.run("--quiet", HOOK=address, PING=receivers.at("ok"))
    assert ended.code == 0
    assert len(program.pictures()) == 10
    why = {"400": "it answered 400", "moved": "it answered 307, a redirect, which is not followed", "closed": "refused"}
    assert "1 of 3 notices did not arrive (webhook at 127.0.0.1:" in ended.err
    assert why[kind] in ended.err.lower()
    (failed,) = (line for line in program.log() if line["event"] == "notice_failed")
    assert failed["notice"] == "end"
    assert receivers.pings() == [("GET", "start"), ("POST", "0")], "the others are told, and nobody by a redirect"
    keeps_secrets(program, ended)


@pytest.mark.slow
def test_a_receiver_that_stumbles_is_told_by_another_try(program: Program, bank: Bank, receivers: Receivers) -> None:
    write(program, bank, "${HOOK}")
    receivers.flakes = 1
    ended = program.run(HOOK=receivers.at("flaky"))
    assert ended.code == 0
    assert "did not arrive" not in ended.said
    first, second = receivers.told
    assert first.headers["X-Batchflux-Delivery"] == second.headers["X-Batchflux-Delivery"]


@pytest.mark.slow
def test_receivers_that_never_answer_hold_nothing_up(program: Program, bank: Bank, receivers: Receivers) -> None:
    write(program, bank, "['${HOOK}', {ping: '${PING}'}, '${OK}']", limits=", budget: 1.4")
    addresses = {"HOOK": receivers.at("slow"), "PING": receivers.at("slow"), "OK": receivers.at("ok")}
    ended = program.run(**addresses)
    over = time.monotonic()
    assert ended.code == 0
    ok = receivers.heard("ok")
    assert [one.event for one in ok] == ["budget", "end"]
    assert over - ok[-1].at > 5, "who answers is told at once, 10 s before the others are given up"
    assert over - ok[-1].at < 60, "at most 30 s are waited"
    assert "no answer within 10 s" in ended.err or "it took too long" in ended.err
    keeps_secrets(program, ended)


@pytest.mark.slow
def test_a_second_signal_ends_the_waiting_and_the_exit_code_stays(
    program: Program, bank: Bank, receivers: Receivers
) -> None:
    write(program, bank, "${HOOK}")
    process = program.start("run", "m.yaml", HOOK=receivers.at("slow"))
    wait_until(lambda: receivers.told)
    ended = program.kill(process, signal.SIGTERM)
    assert ended.code == 0, ended.said
    assert "it took too long" in ended.err


@pytest.mark.slow
def test_a_drained_run_tells_its_end(program: Program, bank: Bank, receivers: Receivers) -> None:
    bank.held = lambda: True
    write(program, bank, "['${HOOK}', {ping: '${PING}'}]")
    process = program.start(
        "run", "m.yaml", "--set", "limits.concurrency=2", HOOK=receivers.at("ok"), PING=receivers.at("ping")
    )
    wait_until(lambda: bank.seen)
    process.send_signal(signal.SIGTERM)
    bank.held = None
    ended = program.finish(process)
    assert ended.code == 143
    (notice,) = receivers.heard("ok")
    assert (notice.event, notice.json["reason"], notice.json["exit_code"]) == ("stop", "signal", 143)
    assert receivers.pings("ping") == [("GET", "start"), ("POST", "143")]


@pytest.mark.slow
def test_a_proxy_of_the_environment_is_asked(program: Program, bank: Bank, receivers: Receivers) -> None:
    write(program, bank, "${HOOK}")
    name = f"http://hooks.example:{receivers.url.rpartition(':')[2]}/ok/{TOKEN}"
    with proxying() as proxy:
        where = {"HTTP_PROXY": f"http://127.0.0.1:{proxy.port}", "NO_PROXY": "127.0.0.1"}
        ended = program.run(HOOK=name, **where)
    assert ended.code == 0, ended.said
    assert proxy.asked == [f"POST {name}"]
    assert len(receivers.heard("ok", "end")) == 1


class TestANightThatDoesNotBegin:
    """What cannot even begin is heard of, where it can be known who wants to hear."""

    def test_a_broken_manifest_whose_notify_can_be_read(
        self, program: Program, bank: Bank, receivers: Receivers
    ) -> None:
        write(program, bank, "{ping: '${PING}'}", jobs="  - {prompt: a, seed: none}\n")
        ended = program.run(PING=receivers.at("ok"))
        assert ended.code == 2
        assert receivers.pings() == [("POST", "2")]
        assert "jobs[0].seed" in receivers.told[0].body
        assert not program.out.exists()

    @pytest.mark.slow
    def test_no_yaml_at_all_with_notify_on_the_command_line(self, program: Program, receivers: Receivers) -> None:
        program.write("m.yaml", "jobs: [")
        program.environ["HOOK"] = receivers.at("ok")
        ended = program.run("--notify", "${HOOK}")
        assert ended.code == 2
        (notice,) = receivers.told
        said = notice.json
        assert (notice.event, said["event"], said["exit_code"], said["reason"]) == ("stop", "stop", 2, "manifest")
        assert (said["name"], "m.yaml" in said["message"]) == ("m", True)

    @pytest.mark.slow
    def test_a_key_that_is_not_set(self, program: Program, bank: Bank, receivers: Receivers) -> None:
        write(program, bank, "{ping: '${PING}'}")
        del program.environ["TEST_KEY"]
        assert program.run(PING=receivers.at("ok")).code == 2
        assert receivers.pings() == [("POST", "2")]

    @pytest.mark.slow
    def test_rows_with_faults(self, program: Program, bank: Bank, receivers: Receivers) -> None:
        program.write("t.csv", "n\n1\nnan\n")
        write(program, bank, "{ping: '${PING}'}", jobs="  - {prompt: 'job {{ n }}', from: t.csv}\n")
        assert program.run(PING=receivers.at("ok")).code == 2
        assert receivers.pings()[-1] == ("POST", "2")

    @pytest.mark.slow
    def test_a_folder_that_another_process_runs(self, program: Program, bank: Bank, receivers: Receivers) -> None:
        bank.held = lambda: True
        write(program, bank, "{ping: '${PING}'}")
        process = program.start("run", "m.yaml", PING=receivers.at("first"))
        wait_until(lambda: bank.seen)
        assert program.run(PING=receivers.at("ok")).code == 4
        assert receivers.pings() == [("POST", "4")], "the run that is under way began, this one did not"
        bank.held = None
        assert program.finish(process).code == 0
        assert receivers.pings("first") == [("GET", "start"), ("POST", "0")]


class TestWhoIsNamed:
    """`notify:` and `--notify`: what they may be, and how a fault is said without the address."""

    @pytest.mark.parametrize(
        ("notify", "says"),
        [
            ("hook", "notify: what stands here is no address"),
            ("[{webhook: 'slack://a/b'}]", "notify[0]: what stands here is no address that can be called by HTTP"),
            ("[{hook: 'https://x.example'}]", "notify[0]: unknown key"),
            ("[{ping: 'https://x.example', webhook: 'https://x.example'}]", "notify[0]: found 2 of webhook, ping"),
            ("[{ping: 'https://x.example', on: [ends]}]", "notify[0]: on: found"),
            ("['${NOT_SET}']", "notify[0]: the environment variable NOT_SET is not set; set it"),
            ("['${EMPTY}']", "notify[0]: the environment variable EMPTY is empty"),
            ("['https://hooks.example/***']", "notify[0]: the address was left out of this copy"),
            (f"['https://[bad/{TOKEN}']", "notify[0]: what stands here is no address"),
            ("[[x]]", "notify[0]: found a list"),
        ],
    )
    def test_faults(self, program: Program, bank: Bank, notify: str, says: str) -> None:
        write(program, bank, notify)
        ended = program.run(EMPTY="")
        assert ended.code == 2
        assert says in ended.err
        assert TOKEN not in ended.err
        assert not bank.seen

    @pytest.mark.slow
    def test_an_address_that_is_written_out_is_not_kept(
        self, program: Program, bank: Bank, receivers: Receivers
    ) -> None:
        write(program, bank, f"['{receivers.at('ok')}']")
        ended = program.run()
        assert ended.code == 0
        assert len(receivers.told) == 1
        assert f"notify: ['{receivers.url}/***']" in (program.out / "manifest.yaml").read_text(encoding="utf-8")
        keeps_secrets(program, ended)

    @pytest.mark.slow
    def test_one_that_is_named_twice_is_told_once(self, program: Program, bank: Bank, receivers: Receivers) -> None:
        write(program, bank, "${HOOK}")
        program.environ["HOOK"] = receivers.at("ok")
        ended = program.run("--notify", "${HOOK}", "--limit", "1")
        assert ended.code == 0
        assert len(receivers.told) == 1

    @pytest.mark.slow
    def test_the_command_that_continues_has_names_and_no_addresses(
        self, program: Program, bank: Bank, receivers: Receivers
    ) -> None:
        write(program, bank, limits=", budget: 0.5")
        program.environ["HOOK"] = receivers.at("ok")
        ended = program.run("--notify", "ping=${HOOK}", "--notify", receivers.at("also"))
        assert ended.code == 3
        assert "--notify 'ping=${HOOK}'" in ended.out
        keeps_secrets(program, ended)

    def test_a_host_that_takes_pings_alone_is_pinged(self) -> None:
        from batchflux.manifest.reading.notify import targets_of  # noqa: PLC0415  beside what it shows

        kinds = {one.url: one.kind for one in targets_of(["https://hc-ping.com/u", "https://x.example/u"], {})}
        assert kinds == {"https://hc-ping.com/u": "ping", "https://x.example/u": "webhook"}


async def test_who_runs_it_from_python_is_told_too(
    program: Program, receivers: Receivers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(program.folder)
    text = f"version: 1\nnotify: ['{receivers.at('ok')}']\njobs: [{{prompt: a cup}}]\n"
    manifest = load_manifest(program.write("m.yaml", text))
    summary = await run(manifest, RunOptions(metrics=program.folder / "m.prom"))
    assert summary.exit_code == 0
    (notice,) = receivers.told
    assert json.loads(summary.to_json()) == notice.json
    assert "batchflux_exit_code" in (program.folder / "m.prom").read_text(encoding="utf-8")


class TestApprise:
    """Real apprise, by its service that posts JSON."""

    @pytest.mark.slow
    def test_it_is_told_as_people_read(self, program: Program, bank: Bank, receivers: Receivers) -> None:
        write(program, bank, "${CHAT}", limits=", budget: 1.4")
        ended = program.run(CHAT=receivers.at("ok").replace("http://", "json://"))
        assert ended.code == 0, ended.said
        budget, end = (one.json for one in receivers.told)
        assert budget["title"] == "m: 1.4 CNY is nearly used up"
        assert (end["title"], end["type"]) == ("m: done", "success")
        assert "All 10 jobs are done." in end["message"]
        keeps_secrets(program, ended)
        assert {line["to"] for line in program.log() if line["event"] == "notice_told"} == {"apprise (json)"}

    @pytest.mark.slow
    def test_what_it_cannot_deliver_shows_no_address(self, program: Program, bank: Bank, receivers: Receivers) -> None:
        write(program, bank, "['${CHAT}']")
        ended = program.run(CHAT=receivers.at("moved").replace("http://", "json://"))
        assert ended.code == 0
        assert "1 of 1 notices did not arrive (apprise (json): apprise could not deliver it)" in ended.err
        assert not receivers.heard("ok"), "a redirect is not followed"
        keeps_secrets(program, ended)

    @pytest.mark.slow
    def test_an_address_that_it_does_not_know(self, program: Program, bank: Bank, receivers: Receivers) -> None:
        write(program, bank, "['${CHAT}', {ping: '${PING}'}]")
        ended = program.run(CHAT=f"nosuchservice://{TOKEN}", PING=receivers.at("ok"))
        assert ended.code == 2
        assert receivers.pings() == [("POST", "2")], "who can be told is told"
        assert "notify: apprise (nosuchservice) is no address that apprise knows" in ended.err
        assert TOKEN not in ended.err
        assert not bank.seen

    @pytest.mark.slow
    def test_a_missing_extra_is_said_before_anything_is_spent(self, program: Program, bank: Bank) -> None:
        program.write("apart/sitecustomize.py", "import sys\nsys.modules['apprise'] = None\n")
        program.environ["PYTHONPATH"] = f"{program.folder / 'apart'}:{program.environ['PYTHONPATH']}"
        program.apart = True
        write(program, bank, "['${CHAT}']")
        ended = program.run(CHAT=f"slack://{TOKEN}")
        assert ended.code == 2
        assert "pip install 'batchflux[notify]'" in ended.err
        assert TOKEN not in ended.err
        assert not bank.seen


ENDS = """
import asyncio, os, signal, sys, uvloop
from batchflux import RunOptions, Watcher, load_manifest, run
class Killed(Watcher):
    def event(self, name, /, **fields):
        if name == "run_ended":
            for number in sys.argv[1:]:
                os.kill(os.getpid(), getattr(signal, number))
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    summary = runner.run(run(load_manifest("m.yaml"), RunOptions(watcher=Killed(), signals=True)))
print(summary.exit_code, summary.reason)
"""


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_signal_after_the_end_changes_nothing_of_it(
    program: Program, bank: Bank, receivers: Receivers, number: str
) -> None:
    write(program, bank, "${HOOK}")
    environ = program.environ | {"HOOK": receivers.at("ok")}
    command = [sys.executable, "-c", ENDS, number]
    ended = subprocess.run(command, cwd=program.folder, env=environ, capture_output=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (0, b"0 finished\n"), ended.stderr
    (notice,) = receivers.heard("ok")
    assert (notice.event, notice.json["exit_code"]) == ("end", 0)
    assert notice.json == program.summary()
