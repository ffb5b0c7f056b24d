"""A real night with faults, of which only the notices and the file of metrics are read: they tell what happened."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from batchflux.testing.bank import Bank
from batchflux.testing.serving import serving
from tests.monitoring.test_metrics import Samples, read, value
from tests.monitoring.test_notices import write
from tests.ports import kept_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchflux.testing.program import Program
    from tests.monitoring.conftest import Receivers

WAYS = ("url", "url", "url", "502*1 #url", "429*1 #url", "b64", "url", "moderated", "url", "link503*1")


def collected(path: Path, over: threading.Event) -> list[Samples]:
    """Collect the file each second until it is over, as node_exporter would; return what was in it."""
    found: list[Samples] = []
    while not over.wait(1.0):
        if path.exists():
            found.append(read(path.read_text(encoding="utf-8")))
    return found


@pytest.fixture
def port() -> Iterator[int]:
    with kept_port() as kept:
        yield kept


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("minutes", [2, 20])
def test_what_happened_can_be_told(program: Program, receivers: Receivers, port: int, minutes: int) -> None:
    bank, each = Bank(delay=(0.5, 1.5)), 60 * minutes / 4
    bank.url = f"http://127.0.0.1:{port}"
    jobs = "".join(
        f"  - {{id: j{n}, prompt: 'job j{n} #{WAYS[n % len(WAYS)]}', output_format: png}}\n"
        for n in range(round(3 * each * 4))  # four at once, a second each
    )
    write(program, bank, "['${HOOK}', {ping: '${PING}'}]", jobs=jobs, limits=f", budget: {0.14 * 12 * each:.2f}")
    over, seen = threading.Event(), list[Samples]()
    collecting = threading.Thread(target=lambda: seen.extend(collected(program.folder / "m.prom", over)))
    collecting.start()
    try:
        with serving(bank.app(), port):
            more = ("--metrics", "m.prom", "--set", "limits.concurrency=4")
            process = program.start("run", "m.yaml", *more, HOOK=receivers.at("ok"), PING=receivers.at("ping"))
            time.sleep(each)
        time.sleep(each)  # nobody is there
        with serving(bank.app(), port):
            said = process.communicate(timeout=5 * each + 240)[1]
    finally:
        over.set()
        collecting.join()
    assert process.returncode == 1, said
    away = [one.json for one in receivers.heard("ok", "provider") if one.json["place"] == "provider"]
    assert [one["state"] for one in away] == ["away", "back"]
    assert len(receivers.heard("ok", "budget")) == 1
    (end,) = receivers.heard("ok", "end")
    assert end.json == program.summary()
    assert end.json["failures"] == {"moderated": len(jobs.splitlines()) // len(WAYS)}
    assert receivers.pings("ping")[-1] == ("POST", "1")
    assert {value(one, "provider_up", provider="tuzi") for one in seen[:-2]} >= {0.0, 1.0}
    done = [value(one, "attempts_total", provider="tuzi") or 0 for one in seen]
    assert done == sorted(done)
    last = read((program.folder / "m.prom").read_text(encoding="utf-8"))
    assert value(last, "jobs", status="done") == end.json["jobs"]["done"]
    assert value(last, "attempts_failed_total", provider="tuzi", code="rate_limited")
    assert value(last, "exit_code") == 1
