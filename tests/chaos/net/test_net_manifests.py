"""Hostile manifests met by the program itself: exit code 2, one line a fault, no folder, no request, little memory."""

from __future__ import annotations

import csv
import gzip
import io
import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.chaos.net.conftest import Net, Program

MILLION = "{range: [1, 1000000]}"
TABLE = '  - prompt: "{{ title }}"\n    from: '
CASES = {
    "product": (f"  - {{prompt: x, matrix: {{seed: {MILLION}, variant: {MILLION}}}}}\n", "combinations"),
    "packed": (f"{TABLE}bomb.csv.gz\n", "unpacks to more than 200 times its size"),
    "fifo": (f"{TABLE}fifo.csv\n", "is not a file"),
    "zero": ("  - {prompt: '{{ a }}', matrix: {a: {lines: /dev/zero}}}\n", "is not a file"),
    "aliases": ("".join(f"  - &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 1}]\n" for n in range(30)), "aliases"),
    "deep": ("  - " + "[" * 100_000 + "\n", "levels deep"),
    "template": ("  - prompt: \"{{ 'x' * 10**9 }}\"\n", "* is allowed between numbers only"),
    "attribute": ("  - prompt: \"{{ ''.__class__.__mro__[1].__subclasses__() }}\"\n", "jobs[0].prompt"),
    "outside": ("  - {prompt: x, id: ../../etc/passwd}\n", "an id has no slash"),
}
BOMBS = {"packed", "aliases", "template"}


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_manifest_spends_nothing_and_leaves_nothing(net: Net, program: Program, name: str) -> None:
    jobs, said = CASES[name]
    program.apart = name in BOMBS
    if name == "packed":
        (program.folder / "bomb.csv.gz").write_bytes(gzip.compress(b"title\n" + b"a" * (200 << 20), 1))
    os.mkfifo(program.folder / "fifo.csv")
    provider = f"{{name: tuzi, base_url: {net.url}, keys: [TEST_KEY], price: 1, currency: EUR}}"
    program.write("m.yaml", f"version: 1\nname: m\nprovider: {provider}\njobs:\n{jobs}")
    ended = program("run", "m.yaml")
    assert ended.code == 2
    assert said in ended.err
    assert all(":" in line for line in ended.err.splitlines())
    assert name not in BOMBS or ended.peak < 200
    assert not (program.folder / "out/m").exists()
    assert net.proxy.connections == 0


def test_what_a_spreadsheet_would_run_is_text_in_results(net: Net, program: Program) -> None:
    cells = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", '=HYPERLINK("http://x")\n=2']
    table = io.StringIO()
    csv.writer(table).writerows([["title"], *([cell] for cell in cells)])
    program.write("t.csv", table.getvalue())
    head = f"version: 1\nname: m\nprovider: {{name: tuzi, base_url: {net.url}, keys: [TEST_KEY]}}\n"
    program.write("m.yaml", f"{head}jobs:\n{TABLE}t.csv\n    tags: {{t: '{{{{ title }}}}'}}\n")
    assert program("run", "m.yaml").code == 0
    for row, cell in zip(program.rows(), cells, strict=True):
        assert row["prompt"] == row["tags.t"] == f"'{cell}"
        assert not any(value.startswith(("=", "+", "-", "@", "\t", "\r")) for value in row.values())
