"""`batchflux reconcile OUT` against the simulator's own books: no key, no network, and what was made by real runs."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.simulator import EmbeddedSimulator, parse_options
from tests.program import program

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchflux.testing.program import Program

__all__ = ["program"]

pytestmark = pytest.mark.slow

JOBS = "".join(f"  - {{id: {name}, prompt: 'A {name} [{name}]'}}\n" for name in ("mug", "jug", "pot"))
WAYS = {
    "fal": ("base_url: '{}', price: 0.04", "admin:1"),
    "fal-requests": ("base_url: '{}', price: 0.04", "user:1"),
    "openrouter": ("base_url: '{}/api', model: google/gemini-3-pro-image, price: 0.2", "sk-or-1"),
    "openrouter-chat": ("base_url: '{}/api', model: google/x, price: 0.2, options: {{endpoint: chat}}", "sk-or-1"),
    "bfl": ("base_url: '{}', price: 0.04", "bfl-1"),
    "relay": ("base_url: '{}', price: 0.04", "sk-1"),
}


@pytest.fixture
def simulator() -> Iterator[EmbeddedSimulator]:
    """A simulator of all APIs that cuts off the first answer to a jug, after it was made and billed."""
    script = [{"match": "[jug]", "fault": "reset", "times": 1}]
    made = EmbeddedSimulator(parse_options({"latency": 0, "size": 96, "script": script}))
    made.start()
    yield made
    made.stop()


def run(program: Program, simulator: EmbeddedSimulator, way: str, jobs: str = JOBS) -> None:
    """Run a manifest of a way to its end."""
    provider, key = WAYS[way]
    url = f"http://{simulator.simulator.host}:{simulator.simulator.port}"
    program.write(
        "m.yaml",
        f"version: 1\nname: m\nprovider: {{name: {way.partition('-')[0]}, {provider.format(url)}, keys: [TEST_KEY]}}\n"
        f"limits: {{timeout: 20s}}\noutput: {{dir: {program.out}}}\njobs:\n{jobs}",
    )
    ended = program.run(TEST_KEY=key)
    assert ended.code == 0, ended.said


def reconcile(program: Program, way: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code, and what is said of the one provider."""
    ended = program("reconcile", str(program.out), "--json", TEST_KEY=WAYS[way][1])
    assert ended.code in (0, 1), ended.said
    return ended.code, json.loads(ended.out)["books"][0]


@pytest.mark.parametrize("way", ["fal", "fal-requests"])
def test_the_books_say_that_a_lost_request_was_billed(program: Program, simulator: EmbeddedSimulator, way: str) -> None:
    """As a run leaves it that could not ask: without a name, it is told by amount and time."""
    run(program, simulator, way)
    with closing(sqlite3.connect(program.out / "ledger.db")) as connection:
        query = "SELECT MAX(attempts.number), MAX(submission) FROM attempts JOIN jobs ON jobs.number = job WHERE id = ?"
        attempt, submission = connection.execute(query, ("jug",)).fetchone()
        connection.execute("UPDATE attempts SET billed = 'maybe', state = 'unknown' WHERE number = ?", (attempt,))
        connection.execute("UPDATE submissions SET handle = NULL WHERE number = ?", (submission,))
        connection.commit()
    code, found = reconcile(program, way)
    charged = Decimal(str(simulator.simulator.requests.credits)) / 100
    assert charged == Decimal("0.12")
    assert (code, Decimal(found["sums"]["theirs"]["USD"])) == (0, charged)
    assert (found["counts"]["matched"], [one["job"] for one in found["decided"]]) == (3, ["jug"])
    assert found["decided"][0]["billed"]["amount"] == "0.04"


def test_other_requests_with_the_same_key_are_only_theirs(program: Program, simulator: EmbeddedSimulator) -> None:
    """What the folder forgot, or another program asked for."""
    run(program, simulator, "fal", JOBS.replace("[jug]", ""))
    with closing(sqlite3.connect(program.out / "ledger.db")) as connection:
        [gone] = connection.execute("SELECT number FROM jobs WHERE id = 'mug'").fetchone()
        connection.execute("DELETE FROM attempts WHERE job = ?", (gone,))
        connection.execute("UPDATE attempts SET cost = 50000000 WHERE job != ? AND billed = 'yes'", (gone,))
        connection.commit()
    code, found = reconcile(program, "fal")
    assert code == 1
    assert sorted(one["kind"] for one in found["differences"]) == ["amount", "amount", "only_theirs"]
    assert found["sums"] == {"ours": {"USD": "0.1"}, "ours_possibly": {}, "theirs": {"USD": "0.12"}}


@pytest.mark.parametrize("way", ["openrouter", "openrouter-chat"])
def test_each_generation_is_asked_for_by_its_id(program: Program, simulator: EmbeddedSimulator, way: str) -> None:
    run(program, simulator, way)
    code, found = reconcile(program, way)
    assert (code, found["counts"]["matched"], found["counts"]["untold"]) == (0, 3, 1)
    assert found["sums"]["theirs"] == {"USD": "0.12"}
    with closing(sqlite3.connect(program.out / "ledger.db")) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM receipts")]
        assert len(names) == 3
        assert all(name.startswith("gen-") for name in names)
        connection.execute("UPDATE receipts SET name = 'gen-other' WHERE name = ?", (names[0],))
        connection.commit()
    code, found = reconcile(program, way)
    assert (code, [one["kind"] for one in found["differences"]]) == (1, ["only_ours"])


def test_what_an_account_spent_in_a_run_lies_between_certain_and_possible(
    program: Program, simulator: EmbeddedSimulator
) -> None:
    way = "bfl"
    run(program, simulator, way)
    code, found = reconcile(program, way)
    first = found["balances"][0]
    assert (code, first["agrees"]) == (0, True)
    assert first["spent"] == {"amount": "0.16", "currency": "USD"}
    assert (first["certain"]["amount"], first["possible"]["amount"]) == ("0.12", "0.04")
    assert [one["of_all_time"] for one in found["balances"]] == [False]
    run(program, simulator, way, JOBS + "  - {id: cup, prompt: A cup}\n")
    code, found = reconcile(program, way)
    assert [one["spent"]["amount"] for one in found["balances"] if not one["of_all_time"]] == ["0.16", "0.04"]
    with closing(sqlite3.connect(program.out / "ledger.db")) as connection:
        connection.execute("UPDATE attempts SET cost = 90000000 WHERE billed = 'yes'")
        connection.commit()
    code, found = reconcile(program, way)
    assert (code, found["balances"][0]["agrees"]) == (1, False)


def test_a_relays_key_has_used_at_least_what_the_folder_spent(program: Program, simulator: EmbeddedSimulator) -> None:
    """It is asked by `reconcile` alone: a relay of no known address may be any server, and a run leaves it alone."""
    run(program, simulator, "relay")
    code, found = reconcile(program, "relay")
    assert (code, len(found["balances"])) == (0, 1)
    used = found["balances"][0]
    assert (used["of_all_time"], used["agrees"], used["spent"]["amount"]) == (True, True, "0.16")
    with closing(sqlite3.connect(program.out / "ledger.db")) as connection:
        connection.execute("UPDATE attempts SET cost = 90000000 WHERE billed = 'yes'")
        connection.commit()
    code, found = reconcile(program, "relay")
    assert (code, found["balances"][0]["agrees"]) == (1, False)


def test_a_provider_without_books_says_what_to_do(program: Program, simulator: EmbeddedSimulator) -> None:
    url = f"http://{simulator.simulator.host}:{simulator.simulator.port}"
    provider = f"{{name: together, base_url: '{url}/together', model: m, price: 0.04, keys: [TEST_KEY]}}"
    out = f"output: {{dir: {program.out}}}\njobs:\n  - {{prompt: A mug}}\n"
    program.write("m.yaml", f"version: 1\nname: m\nprovider: {provider}\n{out}")
    assert program.run().code == 0
    ended = program("reconcile", str(program.out))
    assert ended.code == 2
    assert "together tells nothing that could be compared: export its books" in ended.said


def test_a_price_by_megapixels_reserves_the_most_and_settles_what_is_told(program: Program) -> None:
    """`no_cost`: the answers tell megapixels only, 1 of the picture and 1 of the reference; else what was settled."""
    script = [{"match": "[untold]", "fault": "no_cost"}]
    made = EmbeddedSimulator(parse_options({"latency": 0, "size": 96, "script": script}), "bfl")
    host, port = made.start()
    try:
        price = "model: flux-2-pro, price: {flux-2-pro: {megapixel: 0.03, further: 0.015}}"
        provider = f"{{name: bfl, base_url: 'http://{host}:{port}', {price}, keys: [TEST_KEY]}}"
        jobs = "  - {id: told, prompt: A mug}\n"
        jobs += "  - {id: untold, prompt: 'A jug [untold]', image: 'https://x.example/a.png'}\n"
        program.write(
            "m.yaml",
            f"version: 1\nname: m\nprovider: {provider}\nlimits: {{budget: 0.2, timeout: 20s}}\n"
            f"output: {{dir: {program.out}}}\njobs:\n{jobs}",
        )
        planned = json.loads(program("plan", "m.yaml", "--json").out)
        assert Decimal(planned["cost"]) == Decimal("0.075") + Decimal("0.135"), "4 megapixels, and 4 with 4 more"
        ended = program.run()
        assert ended.code == 0, ended.said
        assert {row["id"]: Decimal(row["cost"]) for row in program.rows()} == {
            "told": Decimal("0.03"),
            "untold": Decimal("0.045"),
        }
    finally:
        made.stop()
