"""New client keys: the file keeps its comments and its mode, is whole at any moment, and never holds a key."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pytest

from batchflux.errors import ManifestError, StorageError, UsageError
from batchflux.gateway.clients import Client, ClientKeys, digest_of
from batchflux.gateway.new_keys import add_key, renew_key
from batchflux.manifest.reading.values import Rate, rate

KEY = re.compile(r"sk-batchflux-[A-Za-z0-9_-]{43}")


def test_a_client_is_added_and_its_key_is_not_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    client = Client(name="null", budget=Decimal("1E-3"), rate=Rate(count=0.5, seconds=3600), metrics=True)
    key = add_key(path, client)
    assert KEY.fullmatch(key)
    assert add_key(path, Client(name="b")) != key
    assert ClientKeys(path).find(key) == client
    assert key not in path.read_text(encoding="utf-8")
    assert [one.name for one in ClientKeys(path).clients] == ["null", "b"]


@pytest.mark.parametrize(
    "text",
    [
        "# who\n\n",
        "# who\n- name: x\n  sha256: {0}  # Ann's\n# end",
        "  - name: x\n    sha256: {0}\n",
        "\ufeff- name: x\r\n  sha256: {0}\r\n",
        "-   name: x\n    sha256: {0}\n",
    ],
)
def test_what_stands_in_the_file_stays(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.yaml"
    before = text.format("a" * 64).encode()
    path.write_bytes(before)
    path.chmod(0o640)
    key = add_key(path, Client(name="new"))
    assert path.read_bytes().startswith(before)
    assert ClientKeys(path).find(key) == Client(name="new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    again = renew_key(path, "new")
    assert path.read_bytes().startswith(before)
    assert ClientKeys(path).find(key) is None
    assert ClientKeys(path).find(again) == Client(name="new")
    assert [one.name for one in tmp_path.iterdir()] == ["keys.yaml"]


@pytest.mark.parametrize("text", ["[{{name: x, sha256: {0}}}]\n", "- name: x\n  sha256: {0}\n...\n"])
def test_a_list_that_no_line_can_be_added_to_says_which_lines_to_add(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text.format("a" * 64), encoding="utf-8")
    with pytest.raises(UsageError, match=r"none can be added; add:\n- name: 'new'\n  sha256: [0-9a-f]{64}\n"):
        add_key(path, Client(name="new"))
    assert path.read_text(encoding="utf-8") == text.format("a" * 64)


def test_what_is_refused_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    key = add_key(path, Client(name="a"))
    before = path.read_bytes()
    with pytest.raises(UsageError, match="has a client a already; --renew"):
        add_key(path, Client(name="a"))
    with pytest.raises(UsageError, match="has no client of that name"):
        renew_key(path, "b")
    for name in ("local", "", "a b", "-x", "a" * 41, key, "ä", "x\n"):
        with pytest.raises(UsageError, match="allowed is a name of") as caught:
            add_key(path, Client(name=name))
        assert key not in str(caught.value)
    assert path.read_bytes() == before
    path.write_text("- name: a\n  sha256: no\n", encoding="utf-8")
    with pytest.raises(ManifestError, match="no SHA-256"):
        add_key(path, Client(name="b"))
    with pytest.raises(ManifestError, match="no SHA-256"):
        renew_key(path, "a")
    path.write_bytes(b"\xff")
    with pytest.raises(ManifestError, match="not UTF-8"):
        add_key(path, Client(name="b"))
    with pytest.raises(UsageError, match=r"The folder of .* cannot be opened"):
        add_key(tmp_path / "none/keys.yaml", Client(name="b"))
    with pytest.raises(ManifestError, match="cannot be read"):
        add_key(tmp_path, Client(name="b"))


def test_a_link_to_the_file_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "keys.yaml"
    link.symlink_to(tmp_path / "real/keys.yaml")
    key = add_key(link, Client(name="a"))
    assert link.is_symlink()
    assert ClientKeys(tmp_path / "real/keys.yaml").find(key) == Client(name="a")


def test_a_disk_that_cannot_be_written_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys.yaml"
    add_key(path, Client(name="a"))
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StorageError, match="the disk is full"):
        add_key(path, Client(name="b"))
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["keys.yaml"]


def test_of_many_at_once_none_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda number: add_key(path, Client(name=f"c{number}")), range(24)))
    found = ClientKeys(path)
    assert [client.name if (client := found.find(key)) else None for key in keys] == [f"c{n}" for n in range(24)]


def command(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = (sys.executable, "-m", "batchflux", "gateway-key", *words)
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_command_prints_the_key_alone_to_stdout(tmp_path: Path) -> None:
    made = command("studio", "--client-keys", "keys.yaml", "--budget", "20.00", "--rate", "30/min", folder=tmp_path)
    assert made.returncode == 0, made.stderr
    key = made.stdout.removesuffix("\n")
    assert KEY.fullmatch(key)
    assert key not in made.stderr
    client = Client(name="studio", budget=Decimal("20.00"), rate=rate("30/min"))
    assert ClientKeys(tmp_path / "keys.yaml").find(key) == client
    other = command("studio", "--client-keys", "keys.yaml", "--renew", folder=tmp_path).stdout.strip()
    assert ClientKeys(tmp_path / "keys.yaml").find(other) == client
    assert digest_of(key).hex() not in (tmp_path / "keys.yaml").read_text(encoding="utf-8")
    for words, says in (
        (("x", "--budget", "much"), '--budget: found "much"; allowed is an amount'),
        (("x", "--rate", "5"), '--rate: found "5"; allowed is N/s'),
        (("studio", "--renew", "--budget", "3"), "--renew changes the key alone"),
    ):
        made = command(*words, "--client-keys", "keys.yaml", folder=tmp_path)
        assert (made.returncode, made.stdout) == (2, "")
        assert made.stderr.startswith(says)
