"""Client keys: what a file of them may say, that nothing shows a key, and what bounds a client: its money and rate."""

from __future__ import annotations

import hashlib
import hmac
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.engine.budget import Budget, Purse
from batchflux.engine.shutdown import Gate
from batchflux.errors import ManifestError
from batchflux.gateway import clients as module
from batchflux.gateway.clients import Accounts, Client, ClientKeys, Pace, digest_of, read_clients
from batchflux.manifest.reading.values import Rate

if TYPE_CHECKING:
    from pathlib import Path

KEY = "sk-batchflux-Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4Zm9vYmFy"
HASH = hashlib.sha256(KEY.encode()).hexdigest()
OTHER = "b" * 64


def said(text: str) -> list[str]:
    """Return what is wrong with a file of keys; nothing of it shows the key."""
    with pytest.raises(ManifestError) as caught:
        read_clients(text.encode(), "keys.yaml")
    assert KEY not in str(caught.value)
    assert KEY[13:35] not in str(caught.value)
    return str(caught.value).splitlines()


def keys_of(path: Path, *entries: str) -> ClientKeys:
    path.write_text("".join(entries), encoding="utf-8")
    return ClientKeys(path)


def test_what_a_file_says(tmp_path: Path) -> None:
    bounds = "  budget: 20.00\n  rate: 30/min\n  metrics: true\n"
    whole = f"# shared\n- name: studio\n  sha256: {HASH.upper()}  # Ann's\n{bounds}"
    keys = keys_of(tmp_path / "keys.yaml", whole, f"- name: shop@1.x\n  sha256: {OTHER}\n  budget:\n")
    studio = Client(name="studio", budget=Decimal("20.00"), rate=Rate(count=30, seconds=60), metrics=True)
    assert keys.clients == (studio, Client(name="shop@1.x"))
    assert keys.find(KEY) == studio
    assert HASH not in repr(keys.clients)
    for wrong in ("", KEY[:-1], KEY + "x", HASH, KEY.lower(), "\udcff", "\ud800é"):
        assert keys.find(wrong) is None


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (f"- name: a\n  sha256: {KEY}\n", ["keys.yaml:2: [0].sha256: this is no SHA-256 of a key"]),
        (f"- name: a\n  sha256: {OTHER[:-1]}\n", ["keys.yaml:2: [0].sha256: this is no SHA-256 of a key"]),
        (f"- name: {KEY}\n  sha256: {HASH}\n", ['keys.yaml:1: [0].name: found "***"; allowed is a name of']),
        (f"- name: local\n  sha256: {HASH}\n", ['keys.yaml:1: [0].name: found "local"; allowed is a name of']),
        (f'- name: "a\\nb"\n  sha256: {HASH}\n', ['keys.yaml:1: [0].name: found "a\\nb"; allowed is a name of']),
        (f"- name: a\n  key: {KEY}\n  sha256: {HASH}", ['keys.yaml:2: [0].key: unknown key "key"; ']),
        (f"- {KEY}: a\n  name: a\n  sha256: {HASH}", ['keys.yaml:1: [0].***: unknown key "***"; ']),
        ("- name: a\n", ["keys.yaml:1: [0].sha256: is missing; "]),
        (f"\n- sha256: {HASH}\n", ["keys.yaml:2: [0].name: is missing; "]),
        (f"- name: a\n  sha256: {HASH}\n  budget: -1\n", ['keys.yaml:3: [0].budget: found "-1"; allowed is an amount']),
        (f"- name: a\n  sha256: {HASH}\n  rate: 3\n", ['keys.yaml:3: [0].rate: found "3"; allowed is N/s, N/min or']),
        (
            f"- name: a\n  sha256: {HASH}\n- name: a\n  sha256: {OTHER}\n",
            ['keys.yaml:3: [1].name: the name "a" stands on line 1, too'],
        ),
        (
            f"- name: a\n  sha256: {HASH}\n- name: b\n  sha256: {HASH.upper()}\n",
            ["keys.yaml:4: [1].sha256: the sha256 of the same key stands on line 2, too"],
        ),
        (
            f"[{{name: a, sha256: {HASH}}}, {{name: a, sha256: {OTHER}}}]",
            ['keys.yaml:1: [1].name: the name "a" stands'],
        ),
        (f"- {KEY}\n- name: b\n", ['keys.yaml:1: [0]: found "***"; allowed is a mapping', "keys.yaml:2: [1].sha256: "]),
        (KEY, ['keys.yaml:1: found "***"; allowed is a list of clients']),
        (
            f"clients:\n  - name: a\n    sha256: {HASH}\n",
            ["keys.yaml:1: found a mapping; allowed is a list of clients"],
        ),
        (f'- name: a\n  sha256: "{KEY}\n', ["keys.yaml:"]),
        (f"- name: a\n  sha256: *{KEY}\n", ["keys.yaml:"]),
        (f"- name: a\n  name: b\n  sha256: {HASH}\n", ['keys.yaml:2: [0].name: the key "name" stands here and on']),
        ("", ["keys.yaml: the file has no clients; make one with: batchflux gateway-key NAME"]),
        ("\n  # nobody\n", ["keys.yaml: the file has no clients; "]),
        ("# x\n" * (module.MOST_BYTES // 4) + "- a", ["keys.yaml: the file has more than "]),
    ],
)
def test_each_fault_is_one_sentence_and_shows_no_key(text: str, faults: list[str]) -> None:
    found = said(text)
    assert len(found) == len(faults)
    for line, begins in zip(found, faults, strict=True):
        assert line.startswith(begins)


@given(st.text(max_size=60), st.text(max_size=60))
def test_whatever_a_file_holds_it_is_read_or_refused(before: str, behind: str) -> None:
    text = f"{before}{KEY}{behind}".encode(errors="surrogatepass")
    try:
        assert KEY not in repr(read_clients(text, "keys.yaml"))
    except ManifestError as error:
        assert KEY not in str(error)  # noqa: PT017  what is shown must not hold it


def test_a_file_that_is_not_there_or_no_file(tmp_path: Path) -> None:
    for path, says in ((tmp_path / "none.yaml", "does not exist; make one with"), (tmp_path, "cannot be read: Is a")):
        with pytest.raises(ManifestError, match=says):
            ClientKeys(path)


def test_every_entry_is_compared_whatever_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that time tells neither how much of a key was right nor where in the file its client stands."""
    made = [f"- name: c{number}\n  sha256: {digest_of(f'k{number}').hex()}\n" for number in range(5)]
    keys = keys_of(tmp_path / "keys.yaml", *made)
    compared: list[tuple[bytes, bytes]] = []

    def compare(given: bytes, known: bytes) -> bool:
        compared.append((given, known))
        return hmac.compare_digest(given, known)

    class Watched:
        compare_digest = staticmethod(compare)

    monkeypatch.setattr(module, "hmac", Watched)
    for key in ("k0", "k4", "none"):
        compared.clear()
        keys.find(key)
        assert compared == [(digest_of(key), digest_of(f"k{number}")) for number in range(5)]


def test_a_file_is_read_again_and_one_with_faults_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    keys = keys_of(path, f"- name: a\n  sha256: {HASH}\n")
    path.write_text(f"- name: a\n  sha256: {KEY}\n", encoding="utf-8")
    told = keys.reload()
    assert "[0].sha256: this is no SHA-256" in told
    assert told.endswith("The client keys that were read before stay in force.")
    assert KEY not in told
    assert keys.find(KEY) == Client(name="a")
    path.unlink()
    assert "does not exist" in keys.reload()
    assert keys.find(KEY) == Client(name="a")
    path.write_text(f"- name: b\n  sha256: {OTHER}\n", encoding="utf-8")
    assert keys.reload() == f"Client keys are read again: 1 client in {path}."
    assert keys.find(KEY) is None


class TestPace:
    def test_so_many_at_once_and_then_in_their_time(self) -> None:
        pace = Pace(Rate(count=3, seconds=60))
        assert [pace.admit(now) for now in (0.0, 1.0, 2.0)] == [0, 0, 0]
        assert pace.admit(10.0) == 50
        assert pace.admit(59.0) == 1, "a refused call does not count"
        assert pace.admit(60.0) == 0
        assert pace.admit(60.0) == 1

    def test_without_a_rate_all_are_admitted(self) -> None:
        pace = Pace()
        assert {pace.admit(0.0) for _ in range(1000)} == {0}

    def test_a_rate_below_one(self) -> None:
        pace = Pace(Rate(count=0.5, seconds=60))
        assert pace.admit(0.0) == 0
        assert pace.admit(1.0) == 119

    def test_a_rate_that_is_never_reached_holds_little(self) -> None:
        pace = Pace(Rate(count=1_000_000, seconds=3600))
        admitted = [pace.admit(0.0) == 0 for _ in range(module.MOST_IN_WINDOW + 1)]
        assert admitted == [True] * module.MOST_IN_WINDOW + [False]
        assert pace.admit(36.0) == 0

    @given(st.integers(1, 5), st.lists(st.floats(0, 30), min_size=1, max_size=60))
    def test_no_window_holds_more(self, count: int, steps: list[float]) -> None:
        pace, now, admitted = Pace(Rate(count=count, seconds=60)), 0.0, []
        for step in steps:
            now += step
            wait = pace.admit(now)
            if wait == 0:
                admitted.append(now)
            assert wait <= 60 + 1e-6
        for first, last in zip(admitted, admitted[count:], strict=False):
            assert last - first >= 60 - 1e-6


def test_accounts_go_on_when_a_client_gets_other_bounds() -> None:
    accounts = Accounts({"a": 5_000_000_000}, "CNY", {})
    budget = Budget(spent=5_000_000_000, gate=Gate())

    def purse(client: Client) -> Purse:
        return accounts.purse(client).of(budget)

    client = Client(name="a", budget=Decimal(10), rate=Rate(count=1, seconds=60))
    assert purse(client).try_reserve(5_000_000_000)
    assert not purse(client).allows(1)
    assert accounts.pace(client).admit(0.0) == 0
    assert accounts.pace(client).admit(1.0) == 59
    more = Client(name="a", budget=Decimal(20), rate=Rate(count=2, seconds=60))
    assert purse(more).allows(10_000_000_000)
    assert not purse(more).allows(10_000_000_001)
    assert accounts.pace(more).admit(2.0) == 0
    assert accounts.pace(more).admit(3.0) == 57
    assert purse(Client(name="b")).allows(10**20)
