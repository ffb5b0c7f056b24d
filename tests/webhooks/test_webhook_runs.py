"""Whole runs with webhooks, against the simulated APIs: each picture once, nothing believed, no secret told."""

from __future__ import annotations

import json
import os
import socket
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.failpoints import VARIABLE
from batchflux.simulator import EmbeddedSimulator, SimulatorOptions, parse_options
from batchflux.simulator.webhooks import NOWHERE
from batchflux.testing.bank import KEY
from batchflux.testing.program import program_in
from batchflux.webhooks import ed25519
from batchflux.webhooks.wakes import secret_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchflux.testing.program import Program

APIS = ("bfl", "fal", "replicate", "flux-relay")
STYLES = {"flux-relay": "native"}
FAULTS = ("webhook_twice", "webhook_shuffled", "webhook_early", "webhook_forged", "webhook_never")
SCRIPT = [{"match": f"cup {number} ", "fault": fault} for number, fault in enumerate(FAULTS)]
ONE_OF_THEM = [pytest.param(api, marks=() if api == "fal" else pytest.mark.slow) for api in APIS]


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    with program_in(tmp_path) as made:
        made.out = tmp_path / "out"
        yield made


@contextmanager
def simulated(api: str, **options: Any) -> Iterator[tuple[EmbeddedSimulator, str]]:
    """Serve an API from a thread of this process, so that it outlives a program that is killed."""
    given: SimulatorOptions = replace(parse_options(options), keys=frozenset({KEY}))
    server = EmbeddedSimulator(given, api)
    host, port = server.start()
    try:
        yield server, f"http://{host}:{port}"
    finally:
        server.stop()


def write(program: Program, api: str, url: str, port: int, jobs: int, more: str = "") -> None:
    style = f", style: {STYLES[api]}" if api in STYLES else ""
    program.write(
        "m.yaml",
        "version: 1\nname: m\n"
        f"provider: {{name: x, api: {api}, base_url: {url}, keys: [TEST_KEY]{style}, price: 0.04}}\n"
        f"limits: {{concurrency: 4, canary: 0}}\noutput: {{dir: {program.out}}}\n"
        f"webhooks: {{listen: '127.0.0.1:{port}', public_url: 'http://127.0.0.1:{port}/below'}}\n{more}"
        f"jobs: [{{prompt: 'cup {{{{ n }}}} of tea', matrix: {{n: {{range: [0, {jobs - 1}]}}}}}}]\n",
    )


def told(program: Program, *said: str) -> str:
    """Return all that a run has said or written: outputs, and the files of its folder as text."""
    files = [path for path in program.out.rglob("*") if path.is_file()]
    return "\n".join([*said, *(path.read_bytes().decode(errors="replace") for path in files)])


def secrets(program: Program, api: str) -> list[str]:
    of = (str(program.out), "x", STYLES.get(api, api))
    return [secret_of([KEY], kind, *of) for kind in ("path", "secret")]


@pytest.mark.parametrize("api", ONE_OF_THEM)
def test_each_picture_once_whatever_calls(program: Program, api: str, free_port: int) -> None:
    script = SCRIPT[:-1] if api == "fal" else SCRIPT  # a call that never comes costs seconds
    with simulated(api, latency=0.3, script=script, size=64) as (server, url):
        write(program, api, url, free_port, 12)
        ended = program.run()
        assert ended.code == 0, ended.said
        journal = server.simulator.requests
    assert len(program.rows()) == 12
    assert (journal.received, journal.billed, journal.repeated) == (12, 12, 0)
    assert journal.webhooks["200"] >= 13, "twice, and out of order"
    assert journal.webhooks["404"] == 1, "one to a wrong path"
    assert journal.webhooks["401"] == (0 if api == "flux-relay" else 1)
    events = [entry for entry in program.log() if entry["event"].startswith("webhook")]
    assert events[-1]["answers"] == {status: count for status, count in journal.webhooks.items() if status != "refused"}
    everything = told(program, ended.said)
    assert NOWHERE not in everything
    assert not [secret for secret in (*secrets(program, api), KEY) if secret in everything]


@pytest.mark.slow
@pytest.mark.parametrize("api", APIS)
def test_after_a_kill_the_next_run_finishes_and_late_calls_are_for_it(
    program: Program, api: str, free_port: int
) -> None:
    latency = 6.0 if api == "replicate" else 1.0  # whose answer to a request waits 5 s for the end
    with simulated(api, latency=latency, faults={"webhook_late": 0.3}, size=64) as (server, url):
        write(program, api, url, free_port, 8)
        assert program.run(**{VARIABLE: "poll.leaving:2"}).code == -9
        ended = program.run()
        assert ended.code == 0, ended.said
        journal = server.simulator.requests
        assert {row["status"] for row in program.rows()} == {"done"}
        assert journal.received <= 8 + sum(int(row["possibly_billed"]) for row in program.rows())
        path = secrets(program, api)[0]
        assert path not in told(program, ended.said)


@pytest.mark.parametrize("api", ["fal", pytest.param("replicate", marks=pytest.mark.slow)])
def test_a_lost_request_is_found_and_its_webhook_heard(program: Program, api: str, free_port: int) -> None:
    """What it is found by has no webhook in it."""
    with simulated(api, latency=1.0, faults={"reset": {"rate": 1, "times": 1}}, size=64) as (server, url):
        write(program, api, url, free_port, 4)
        ended = program.run()
        assert ended.code == 0, ended.said
        journal = server.simulator.requests
        assert (journal.billed, journal.repeated, journal.webhooks["200"] > 0) == (4, 0, True)
    assert [row["possibly_billed"] for row in program.rows()] == ["0"] * 4


def test_a_port_that_is_taken_spends_nothing(program: Program, free_port: int) -> None:
    with simulated("bfl") as (server, url), closing(socket.create_server(("127.0.0.1", free_port))):
        write(program, "bfl", url, free_port, 2)
        ended = program.run()
        assert ended.code == 2, ended.said
        assert f"Cannot listen on port {free_port} of 127.0.0.1" in ended.said
        assert "webhooks.listen" in ended.said
        assert server.simulator.requests.received == 0
    assert {row["attempts"] for row in program.ledger().values()} <= {0}
    assert program("plan", "m.yaml").code == 0


def test_the_extra_is_named_before_a_run(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ed25519, "find_spec", lambda _: None)
    for command in ("plan", "run"):
        write(program, "fal", "simulator", 8788, 1)
        ended = program(command, "m.yaml")
        assert ended.code == 2, ended.said
        assert "webhooks of x" in ended.said
        assert "pip install 'batchflux[webhooks]'" in ended.said
        write(program, "replicate", "simulator", 8788, 1)
        assert program("plan", "m.yaml").code == 0


def test_a_plan_says_who_calls(program: Program) -> None:
    providers = (
        "providers: {a: {name: a, api: fal, base_url: simulator}, b: {name: b, api: gemini, base_url: simulator}}\n"
        "webhooks: {listen: '127.0.0.1:8788', public_url: 'https://hooks.example.com/'}\n"
        "jobs: [{prompt: x}, {prompt: y, provider: b}]\n"
    )
    program.write("m.yaml", f"version: 1\n{providers}")
    ended = program("plan", "m.yaml")
    assert ended.code == 0, ended.said
    assert "  webhooks  at https://hooks.example.com; b does not call, as it is asked\n" in ended.out
    planned = json.loads(program("plan", "m.yaml", "--json").out)
    assert planned["webhooks"] == {"public_url": "https://hooks.example.com", "without": ["b"]}


def test_it_can_be_tried_with_no_key_and_no_network(program: Program, free_port: int) -> None:
    """The simulator calls this machine, whatever the address is that real APIs would call."""
    program.write(
        "m.yaml",
        f"version: 1\nprovider: {{name: mine, api: fal, keys: [FAL_KEY]}}\noutput: {{dir: {program.out}}}\n"
        f"webhooks: {{listen: '0.0.0.0:{free_port}', public_url: https://hooks.example.com}}\njobs: [{{prompt: x}}]\n",
    )
    ended = program("run", "m.yaml", "--provider", "simulator", "--set", "provider.options.latency=0.2")
    assert ended.code == 0, ended.said
    assert [entry["answers"] for entry in program.log() if entry["event"] == "webhooks"] == [{"200": 1}]
    assert os.environ.get("FAL_KEY") is None
