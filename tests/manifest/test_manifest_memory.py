"""A table streams: ten times the rows take little more memory, measured from outside the test's own process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stores import Served

PROGRAM = """
import resource, sys
from batchflux.manifest import expand, load_manifest
from batchflux.capabilities import Capabilities
fields = frozenset({"output_format"})
offer = Capabilities(api="flux-relay", style="standard", fields=fields, formats=frozenset({"png"}), local_images=False)
for path in sys.argv[1:]:
    made = expand(load_manifest(path), [offer], lambda fault: sys.exit(str(fault)))
    count = sum(1 for _ in made)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(count, peak * (1 if sys.platform == "darwin" else 1024))
"""


def manifest(folder: Path, rows: int) -> Path:
    with (folder / f"{rows}.csv").open("w") as table:
        table.write("sku,title,surface\n")
        table.writelines(f"SKU-{n},Cup number {n} with a name that is not short,marble\n" for n in range(rows))
    path = folder / f"{rows}.yaml"
    path.write_text(
        "version: 1\ndefaults: {output_format: png}\njobs:\n"
        f'  - {{id: "{{{{ sku }}}}", prompt: "{{{{ title }}}} on {{{{ surface }}}}", from: {rows}.csv}}\n'
    )
    return path


def test_memory_stays_flat(tmp_path: Path) -> None:
    paths = [manifest(tmp_path, rows) for rows in (4_000, 44_000)]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *paths], check=True, capture_output=True, text=True)
    (few, small), (many, large) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert (few, many) == (4_000, 44_000)
    # 40,000 jobs more: a hash each in a set of keys and a dict of ids, with their free slots, and no more than that.
    assert large - small < 40_000 * 240


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="another system tells the peak of what started the program, too")
def test_memory_stays_flat_with_a_table_in_a_bucket(moto: Served, tmp_path: Path) -> None:
    """Of two tables with as many rows, the one of 40 MB takes no more than what is had of it at a time."""
    peak = "int(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
    program = PROGRAM.replace("resource.getrusage(resource.RUSAGE_SELF).ru_maxrss", peak)
    paths = []
    for padding in (b"", b" " * 2_000):
        data = b"sku,title\n" + b"".join(b"SKU-%d,Cup %d%s\n" % (n, n, padding) for n in range(20_000))
        key = f"{len(padding)}.csv"
        moto.store().put(key, data, hashlib.sha256(data).hexdigest())
        paths.append(tmp_path / f"{key}.yaml")
        entry = 'id: "{{ sku }}", prompt: "{{ title }}"'
        paths[-1].write_text(f"version: 1\njobs:\n  - {{{entry}, from: {moto.bucket}/{key}}}\n")
    command = [sys.executable, "-c", program, *map(str, paths)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | moto.environ)
    (few, small), (many, large) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert few == many == 20_000
    assert large - small < 20_000_000, (small, large)
