"""A provider that goes away and comes back, and one whose answers are no pictures, to the program as users run it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from batchflux.testing.bank import Bank
from batchflux.testing.serving import serving
from tests.ports import kept_port
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchflux.testing.program import Program


def jobs(count: int, way: str = "url") -> str:
    return "".join(f"  - {{id: j{n}, prompt: 'job j{n} #{way}', output_format: png}}\n" for n in range(count))


@pytest.fixture
def port() -> Iterator[int]:
    """Where nobody listens yet."""
    with kept_port() as kept:
        yield kept


def config(program: Program, url: str, text: str, limits: str = "") -> None:
    program.manifest(url, text, limits=limits)


@pytest.mark.slow
@pytest.mark.parametrize("begun", [False, True], ids=["from the start", "in the middle"])
def test_a_provider_that_refuses_connections_for_ten_seconds_costs_no_job(
    program: Program,
    port: int,
    begun: bool,  # noqa: FBT001  a table's column
) -> None:
    bank = Bank(delay=(0.05, 0.1))
    bank.url = f"http://127.0.0.1:{port}"
    bank.held = lambda: bank.billed.total() >= 20  # it goes in the middle of the run
    config(program, bank.url, jobs(60))
    if begun:
        with serving(bank.app(), port):
            process = program.start("run", "m.yaml")
            wait_until(lambda: bank.billed.total() >= 20)
    else:
        process = program.start("run", "m.yaml")
    wait_until(lambda: program.noted("away") > 0)
    time.sleep(10)
    bank.held = None
    with serving(bank.app(), port):
        ended = program.finish(process)
    assert ended.code == 0, ended.said
    rows = program.rows()
    assert {row["status"] for row in rows} == {"done"}
    assert len(program.pictures()) == 60
    assert not bank.again
    twice = {name for name, count in bank.billed.items() if count > 1}
    assert twice <= {row["id"] for row in rows if row["possibly_billed"] != "0"}, "what was out was cut off"
    told = [line for line in program.log() if line["event"] in {"away", "back"}]
    places = {line["place"] for line in told}  # in the middle also the host of pictures, if there were any to fetch
    for place in places | {"provider"}:
        away, back = (line["message"] for line in told if line["place"] == place)
        assert f"{place} not reachable: connection refused; probing, next at" in away
        assert f"{place} back after" in back
        assert away in ended.err
        assert back in ended.err
    assert places <= {"provider", f"host of pictures 127.0.0.1:{port}"}


def test_a_provider_that_stays_away_ends_the_run_by_its_patience_and_nothing_has_failed(
    program: Program, port: int
) -> None:
    config(program, f"http://127.0.0.1:{port}", jobs(3), ", patience: 1s")
    ended = program.run()
    assert ended.code == 3
    assert "The provider has not been there for" in ended.said
    assert (program.summary()["reason"], program.summary()["jobs"]["pending"], program.rows()) == ("failures", 3, [])


def test_of_two_hundred_four_are_bought_from_a_relay_that_nobody_understands(
    program: Program, bank: Bank, manifest: Callable[..., str]
) -> None:
    name = manifest(jobs(200, "quoting"))
    ended = program("run", name)
    assert ended.code == 3
    assert "No picture was kept of the first 4 requests to tuzi" in ended.said
    assert (len(bank.seen), program.summary()["reason"]) == (4, "canary")
    assert program("run", name).code == 3
    assert len(bank.seen) == 8


def test_links_to_where_nobody_may_fetch_cost_four_and_are_taken_when_they_may(
    program: Program,
) -> None:
    bank = Bank()
    with serving(bank.app()) as answering, serving(bank.app()) as bank.url:  # links lead to another port
        program.out = program.folder / "out" / "m"
        config(program, answering, jobs(50))
        ended = program.run()
        assert ended.code == 3
        assert "unsafe_url 4" in ended.said
        assert "provider.allow_hosts" in ended.said
        assert bank.posts.total() == 4
        allowed = (program.folder / "m.yaml").read_text().replace("keys:", f"allow_hosts: ['{bank.url[7:]}'], keys:")
        program.write("m.yaml", allowed)
        assert program.run().code == 0
        assert bank.posts.total() == 50
        assert len(program.pictures()) == 50


def before_the_first_answer(program: Program, bank: Bank, wanted: int, *arguments: str) -> int:
    """Run eight jobs; return how many requests came while none was answered, which none is before `wanted` have come.

    Half a second more is there for those that should not come.
    """
    bank.forget()
    came: list[int] = []
    bank.held = lambda: len(bank.seen) < wanted or time.monotonic() < bank.seen[wanted - 1].at + 0.5
    bank.hook = lambda _: came.append(len(bank.seen))
    ended = program("run", *arguments, "--set", "limits.concurrency=8")
    assert (ended.code, len(bank.seen)) == (0, 8), ended.said
    return came[0]


def test_a_provider_proven_in_one_folder_is_trusted_in_the_next(
    program: Program, bank: Bank, manifest: Callable[..., str]
) -> None:
    name = manifest(jobs(1))
    assert program("run", name).code == 0
    name = manifest(jobs(8))
    assert before_the_first_answer(program, bank, 8, name, "--out", "other") == 8
    program.environ["XDG_STATE_HOME"] = "/dev/null"
    assert before_the_first_answer(program, bank, 4, name, "--out", "third") == 4


def test_a_bug_ends_the_run_with_its_own_exit_code(program: Program) -> None:
    async def never(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_post("/{tail:.*}", never)
    with serving(app) as url:
        config(program, url, jobs(1))
        (program.folder / "sitecustomize.py").write_text(
            "import batchflux.engine.worker_pool as pool\n"
            "def broken(self, outcome):\n    raise KeyError('sk-test' + '-secret')\n"
            "pool.Tally.add = broken\n"
        )
        program.environ["PYTHONPATH"] = f"{program.folder}:{program.environ['PYTHONPATH']}"
        program.apart = True
        ended = program.run()
    assert ended.code == 70
    assert "KeyError: batchflux ended by a bug of its own" in ended.err
    assert "sk-test-secret" not in ended.said
    assert [line["event"] for line in program.log()][-1] == "bug"
