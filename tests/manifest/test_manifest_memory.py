"""A table streams: ten times the rows take little more memory, measured from outside the test's own process."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import resource, sys
from batchflux.manifest import expand, load_manifest
from batchflux.models import Capabilities
fields = frozenset({"output_format"})
offer = Capabilities(api="flux-relay", style="standard", fields=fields, formats=frozenset({"png"}), local_images=False)
made = expand(load_manifest(sys.argv[1]), [offer], lambda fault: sys.exit(str(fault)))
count = sum(1 for _ in made)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(count, peak * (1 if sys.platform == "darwin" else 1024))
"""


def peak(folder: Path, rows: int) -> int:
    with (folder / "rows.csv").open("w") as table:
        table.write("sku,title,surface\n")
        table.writelines(f"SKU-{n},Cup number {n} with a name that is not short,marble\n" for n in range(rows))
    (folder / "rows.yaml").write_text(
        "version: 1\ndefaults: {output_format: png}\njobs:\n"
        '  - {id: "{{ sku }}", prompt: "{{ title }} on {{ surface }}", from: rows.csv}\n'
    )
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder / "rows.yaml")], check=True, capture_output=True, text=True
    )
    count, size = map(int, done.stdout.split())
    assert count == rows
    return size


def test_memory_stays_flat(tmp_path: Path) -> None:
    small, large = peak(tmp_path, 20_000), peak(tmp_path, 100_000)
    # 80,000 jobs more: a hash each in a set of keys and a dict of ids, with their free slots, and no more than that.
    assert large - small < 80_000 * 240
