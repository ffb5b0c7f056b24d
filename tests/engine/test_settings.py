"""The user's rate from one run to the next: the first request keeps its distance to the last one on record."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from batchflux.engine.limits.key_pool import Key
from batchflux.engine.settings import keep_distance, keys_of, secrets_of
from batchflux.errors import UsageError
from batchflux.ledger.tables import empty_ledger, last_activity
from batchflux.planner import load_manifest

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = """
version: 1
provider: {name: tuzi, keys: [KEY_A, KEY_B]}
jobs: [{prompt: x}]
"""
INTERVAL = (60.0 + 0.05) / 2  # of two requests a minute, with the allowance of a long window


def _waits(rate: tuple[float, float] | None, age: float | None) -> tuple[float, float]:
    """Return how long a key waits that was last used so many seconds ago, and how long it took to find out."""
    key = Key(name="A", secret=None, rate=rate)
    began = time.monotonic()
    keep_distance([key], None if age is None else time.time() - age)
    now = time.monotonic()
    return key.next_at(now) - began, now - began


@pytest.mark.parametrize(
    ("age", "wait"),
    [
        (0.0, INTERVAL),
        (10.0, INTERVAL - 10.0),
        (3600.0, 0.0),
        (-3600.0, INTERVAL),  # the clock was set back meanwhile
    ],
)
def test_the_first_request_waits_for_what_is_left_of_an_interval(age: float, wait: float) -> None:
    waits, took = _waits((2, 60.0), age)
    assert wait - 0.1 <= waits <= wait + took + 0.1


def test_never_more_than_the_window() -> None:
    waits, took = _waits((0.01, 60.0), 0.0)
    assert 59.9 <= waits <= 60.1 + took


def test_without_a_rate_or_an_earlier_run_nothing_waits() -> None:
    for rate, age in ((None, 0.0), ((2, 60.0), None)):
        waits, took = _waits(rate, age)
        assert waits <= took


def test_a_key_is_trimmed_and_what_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(MANIFEST)
    manifest = load_manifest(tmp_path / "m.yaml")
    secrets = secrets_of(manifest, {"KEY_A": "sk-canary-1\r\n", "KEY_B": " sk-canary-2 "})
    keys = keys_of(manifest.provider, None, secrets, {})
    assert [key.secret for key in keys] == ["sk-canary-1", "sk-canary-2"]
    for value, said in (
        ("", "is empty"),
        (" \n", "is empty"),
        ("Bearer sk-canary-1", "begins with the word Bearer"),
        ("bearer", "begins with the word Bearer"),
        ("sk-canary\n-1", "put the bare key into it"),
        ("sk-canary-é", "put the bare key into it"),
    ):
        with pytest.raises(UsageError, match=said) as caught:
            secrets_of(manifest, {"KEY_A": value})
        assert "provider.keys[1]: the environment variable KEY_B is not set" in str(caught.value)
        assert "canary" not in str(caught.value)


def test_the_last_activity_is_the_latest_of_all_that_sent() -> None:
    with empty_ledger() as connection:
        assert last_activity(connection) is None
        row = "INSERT INTO jobs (number, key, id, position, planned, tags, spec, started_at, finished_at)"
        sent = "INSERT INTO attempts (job, model, state, price, counts) VALUES (?, 'm', 'failed', 0, ?)"
        for number, (counts, *times) in enumerate([(1, 5.0, None), (1, 1.0, 7.0), (1, 2.0, 3.0), (0, 9.0, 9.0)]):
            connection.execute(f"{row} VALUES (?, ?, 'a', 0, '', '', '', ?, ?)", (number, bytes([number]), *times))
            connection.execute(sent, (number, counts))
        assert last_activity(connection) == 7.0
        connection.execute("INSERT INTO submissions (provider, key_name, sent_at) VALUES ('tuzi', 'KEY', 8.0)")
        assert last_activity(connection) == 8.0
    connection.close()


def test_a_key_has_one_rate_at_all_addresses_of_a_fleet(tmp_path: Path) -> None:
    fleet = MANIFEST.replace("tuzi,", "tuzi, base_url: [https://a.example, https://b.example],")
    (tmp_path / "m.yaml").write_text(f"{fleet}limits: {{rate: 5/s}}\n")
    manifest = load_manifest(tmp_path / "m.yaml")
    keys = keys_of(manifest.provider, manifest.limits.rate, {"KEY_A": "a", "KEY_B": "b"}, {})
    assert [key.secret for key in keys] == ["a", "b", "a", "b"]
    assert keys[0].shared is keys[2].shared is not keys[1].shared is keys[3].shared is not None
