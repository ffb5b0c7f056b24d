"""A sample at the terminal, options that are short for limits, and what a plan says of tables."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

from batchflux.testing.inside import inside

if TYPE_CHECKING:
    from pathlib import Path

TEXT = """\
version: 1
provider: {name: simulator, price: 1, options: {latency: 0, size: 64}}
jobs:
  - {id: "{{ sku }}", prompt: "a {{ Title }}", from: p.csv, where: "{{ Title }}"}
"""


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
    return subprocess.CompletedProcess(arguments, *inside(folder, environment, *arguments))


def test_a_sample_with_limits_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(TEXT)
    rows = "".join(f"S{n};cup {n}\n" for n in range(9))
    (tmp_path / "p.csv").write_bytes(f"sku;Title\n{rows}S9;\n;\n".encode("utf-16"))
    given = ["--sample", "3", "--concurrency", "1", "--rate", "600/minute", "--budget", "2"]
    planned = call(tmp_path, "plan", "m.yaml", *given)
    assert planned.returncode == 0, planned.stderr
    assert (
        "table     p.csv: 10 rows, read as utf-16-le, with semicolon between cells; left out: 1 empty row, 1 row by"
        in (planned.stdout)
    )
    found = json.loads(call(tmp_path, "plan", "m.yaml", "--json", *given).stdout)
    assert (found["counts"]["todo"], found["counts"]["total"], found["budget"]) == (3, 9, "2")
    assert found["tables"] == [
        {"table": "p.csv", "rows": 10, "encoding": "utf-16-le", "delimiter": "semicolon", "blank_rows": 1, "where": 1}
    ]
    ended = call(tmp_path, "run", "m.yaml", "--no-progress", *given)
    assert ended.returncode == 3, ended.stderr
    assert "batchflux run m.yaml --sample 3 --concurrency 1 --rate 600/minute --set limits.budget=MORE" in ended.stdout
    assert len(list((tmp_path / "out/m/images").iterdir())) == 2
    ended = call(tmp_path, "run", "m.yaml", "--no-progress", "--sample", "3")
    assert ended.returncode == 0, ended.stderr
    assert len(list((tmp_path / "out/m/images").iterdir())) == 3
