"""A bucket that takes connections and never answers: a second signal ends the program at once all the same."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.e2e.test_e2e_mirror import Mirrored, digest
from tests.stores import Fault
from tests.waiting import wait_until

if TYPE_CHECKING:
    import subprocess

    from batchflux.testing.bank import Bank
    from batchflux.testing.program import Program
    from tests.stores import Faulty

pytestmark = pytest.mark.slow
PHOTO = "  - {id: a, prompt: 'make a #url', image: p/a.png, seed: 1, aspect_ratio: 16:9}\n"


@pytest.fixture
def hung(faulty: Faulty) -> Faulty:
    faulty.front.always = Fault(pause=3600)
    return faulty


def ended_by(program: Program, process: subprocess.Popen[str], *numbers: signal.Signals) -> int:
    """Send signals, and return the exit code; a request that is not answered is given up after two minutes alone."""
    for count, number in enumerate(numbers):
        wait_until(lambda count=count: program.noted("signal") == bool(count))  # type: ignore[misc]  # two at once are one
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert out.startswith("Stopped at once by a second signal"), out + err
    return process.returncode


def test_pictures_that_are_being_mirrored(program: Program, bank: Bank, hung: Faulty) -> None:
    mirrored = Mirrored(program, bank, hung)
    assert Mirrored(program, bank, hung.behind).run("--limit", "1").code == 0
    program.environ |= hung.environ
    process = program.start("run", "m.yaml", "--set", f"output.mirror={mirrored.to}")
    wait_until(lambda: len(program.rows(cut=True)) == 4)
    assert ended_by(program, process, signal.SIGTERM, signal.SIGTERM) == 143
    hung.front.always = None
    assert mirrored.run().code == 0
    mirrored.whole({f"images/a{number}.png": f"a{number}" for number in range(4)})
    assert bank.posts.total() == 4


def test_photos_that_are_being_published(program: Program, bank: Bank, hung: Faulty) -> None:
    program.environ |= hung.environ
    told = f"references: {{publish: {{to: '{hung.bucket}/refs', sign: 2h}}}}\n"
    program.manifest(bank.url, PHOTO, more=told)
    process = program.start("run", "m.yaml")
    wait_until(lambda: bool(hung.front.seen))
    assert ended_by(program, process, signal.SIGINT, signal.SIGINT) == 130
    hung.front.always = None
    assert program.run().code == 0
    assert bank.posts.total() == 1


def test_a_table_that_is_read_while_requests_are_out(program: Program, bank: Bank, faulty: Faulty) -> None:
    """A manifest that names another by now is read beside the loop, which has answers to take that are paid for."""
    table = b"".join(b"n%d\n" % number for number in range(-1, 8)).replace(b"n-1", b"n")
    faulty.behind.store().put("t.csv", table, digest(table))
    program.environ |= faulty.environ
    jobs = f"  - {{id: '{{{{ n }}}}', prompt: 'job {{{{ n }}}} #url', from: '{faulty.bucket}/t.csv'}}\n"
    program.manifest(bank.url, jobs, limits=", rate: 2/s")
    process = program.start("run", "m.yaml")
    bank.held = lambda: True
    wait_until(lambda: bank.posts.total() >= 2)
    faulty.front.methods, faulty.front.always = frozenset({"GET"}), Fault(pause=3600)
    seen = len(faulty.front.seen)
    program.manifest(bank.url, jobs + jobs.replace("t.csv", "u.csv"), limits=", rate: 100/s")
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: len(faulty.front.seen) > seen)
    bank.held = None
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    assert bank.posts.total() == 8
