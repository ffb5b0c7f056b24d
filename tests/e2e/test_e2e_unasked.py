"""Nothing paid is made anew or replaced unasked: another folder, the simulator, another currency, an edit."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from batchflux.cli import cli

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchflux.testing.bank import Bank
    from batchflux.testing.program import Program

    Manifest = Callable[..., str]
    Terminal = Callable[..., tuple[int, str]]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "images").iterdir()}


JOBS = "  - {id: mug, prompt: a mug}\n  - {id: cup, prompt: a cup}\n"


def moved(program: Program, name: str) -> Path:
    """Go to another folder, as cron does, from which the manifest's default folder is another one."""
    program.folder /= "elsewhere"
    program.folder.mkdir()
    return program.folder.parent / name


def test_another_folder_than_before_is_asked_for(program: Program, bank: Bank, manifest: Manifest) -> None:
    name = manifest(JOBS)
    assert program("run", name).code == 0
    before, path = program.out, str(moved(program, name))
    for arguments in ((), ("--yes",)):
        ended = program("run", path, *arguments)
        assert (ended.code, len(bank.seen)) == (2, 2)
        assert f"was run to {before} before" in ended.err
        assert f"--out {shlex.quote(str(before))} continues it" in ended.err
        assert not (program.folder / "out").exists()
    planned = program("plan", path)
    assert (planned.code, "A run would ask first:" in planned.out) == (0, True)
    assert json.loads(program("plan", path, "--json").out)["doubt"] in planned.out
    assert program("run", path, "--out", str(before)).code == 0
    assert len(bank.seen) == 2
    assert program("run", path, "--out", "out/m").code == 0
    assert len(bank.seen) == 4
    assert program("run", path).code == 0, "it was run to this folder last"


def test_a_folder_that_is_gone_or_absolute_is_not_asked_for(program: Program, bank: Bank, manifest: Manifest) -> None:
    name = manifest(JOBS)
    assert program("run", name).code == 0
    program.out.rename(program.folder / "gone")
    path = str(moved(program, name))
    assert program("run", path).code == 0
    absolute = program.folder / "third"
    manifest_text = program.folder.parent / name
    manifest_text.write_text(manifest_text.read_text() + f"output: {{dir: {absolute}}}\n")
    assert program("run", path).code == 0
    assert len(bank.seen) == 6


def test_a_simulated_try_elsewhere_asks_for_nothing(program: Program, bank: Bank, manifest: Manifest) -> None:
    name = manifest(JOBS)
    assert program("run", name, "--provider", "simulator", "--out", "try").code == 0
    assert program("run", name).code == 0
    assert program("run", name, "--provider", "simulator", "--out", "try").code == 0
    path = str(moved(program, name))
    assert program("run", path).code == 2, "what was simulated since leaves the folder of the real run remembered"
    assert len(bank.seen) == 2


def test_the_simulator_replaces_no_paid_picture_unasked(program: Program, bank: Bank, manifest: Manifest) -> None:
    name = manifest(JOBS)
    assert program("run", name).code == 0
    pictures = files(program.out)
    for arguments in (
        ("--provider", "simulator"),
        ("--provider", "simulator", "--yes"),
        ("--set", "provider.api=simulator", "--set", "provider.base_url=null"),
    ):
        ended = program("run", name, *arguments)
        assert ended.code == 2, ended.said
        assert "has pictures that were paid for (2)" in ended.err
        assert "--out" in ended.err
        assert files(program.out) == pictures
    planned = program("plan", name, "--provider", "simulator")
    assert "A run would ask first" in planned.out
    assert program("run", name, "--provider", "simulator", "--out", "try").code == 0
    assert program("run", name, "--provider", "simulator", "--out", "out/m").code == 0
    assert len(list((program.out / ".replaced").iterdir())) == 2
    assert program("run", name).code == 0, "the paid ones come back"
    assert (files(program.out), len(bank.seen)) == (pictures, 2)


def test_a_terminal_is_asked(program: Program, bank: Bank, manifest: Manifest, on_terminal: Terminal) -> None:
    name = manifest(JOBS)
    assert program("run", name).code == 0
    code, text = on_terminal("run", name, "--provider", "simulator", "--yes", answer=b"n\n")
    assert (code, "Go on all the same?" in text) == (2, True)
    code, text = on_terminal("run", name, "--provider", "simulator", answer=b"y\n")
    assert code == 0, text
    assert len(bank.seen) == 2


def test_another_currency_is_a_fault(program: Program, bank: Bank, manifest: Manifest) -> None:
    name = manifest(JOBS)
    assert program("run", name).code == 0
    text = program.write(name, (program.folder / name).read_text().replace("CNY", "EUR")).read_text()
    for command in ("run", "plan"):
        ended = program(command, name)
        assert (ended.code, "EUR" in ended.err, "0.28 CNY" in ended.err) == (2, True, True)
    assert program("run", name, "--out", "other").code == 0
    program.write(name, text.replace("EUR", "CNY").replace("a mug", "a jug"))
    planned = program("plan", name)
    assert "set aside         1  pictures that were paid for make way" in planned.out
    assert "making them again costs 0.14 CNY" in planned.out
    assert json.loads(program("plan", name, "--json").out)["set_aside_cost"] == "0.14"


def test_what_is_dropped_and_the_same_again_is_counted(program: Program, bank: Bank, manifest: Manifest) -> None:
    name = manifest(
        "  - {prompt: 'a mug {{ n }}', style: chat, matrix: {n: [1, 2], seed: {range: [1, 7]}}}\n",
        provider=", params: drop",
    )
    planned = program("plan", name)
    assert "2 distinct requests; 12 jobs are the same again" in planned.out
    assert "dropped   seed of 2 jobs" in planned.out
    assert json.loads(program("plan", name, "--json").out)["dropped"] == {"seed": 2}
    assert program("run", name).code == 0
    assert len(bank.seen) == 2
    assert program.summary()["dropped"] == {"seed": 2}
    assert "dropped    seed of 2 jobs (params: drop)" in program("status", str(program.out)).out


def test_a_plan_reads_stdin(program: Program) -> None:
    text = "version: 1\njobs: [{prompt: a mug, image: p.jpg}]\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(program.folder)
        planned = CliRunner().invoke(cli, ["plan", "-"], input=text, standalone_mode=False)
        assert planned.return_value == 1
        assert planned.stdout.startswith("stdin: 1 job for simulator (flux-kontext-pro) -> out/stdin")
        fault = CliRunner().invoke(cli, ["plan", "-"], input=text + "x: 1\n", standalone_mode=False).exception
        assert str(fault).startswith("<stdin>:3: x: unknown key")


def test_a_plan_says_how_many_requests_are_tried_first(program: Program, manifest: Manifest) -> None:
    name = manifest("  - {prompt: 'a mug {{ n }}', matrix: {n: {range: [1, 9]}}}\n")
    assert "the first 4 requests are tried before the rest is sent" in program("plan", name).out
    assert json.loads(program("plan", name, "--json").out)["canary"] == 4
    for arguments in (("--set", "limits.canary=0"), ("--limit", "4"), ("--provider", "simulator")):
        assert "are tried before" not in program("plan", name, *arguments).out
    assert program("run", name, "--limit", "1").code == 0
    assert "are tried before" not in program("plan", name).out
