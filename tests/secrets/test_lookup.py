"""Where keys are found, in which order, and what of them never shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batchflux.engine.settings import secrets_of
from batchflux.errors import ManifestError, UsageError
from batchflux.planner import load_manifest, plan
from batchflux.secrets import Secrets

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = """version: 1
provider: {name: tuzi, base_url: "https://${HOST}", keys: [MY_KEY], proxy: "http://u:${PASS}@p:1", price: 1}
jobs: [{id: a, prompt: x}]
"""
ENV = {"HOST": "relay.example", "PASS": "pass-of-the-proxy"}


def found(folder: Path, environ: dict[str, str], env_file: Path | None = None) -> str | None:
    return Secrets(environ, folder, env_file).get("MY_KEY")


def test_the_first_place_that_has_it_counts(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MY_KEY=beside\n")
    given = tmp_path / "given.env"
    given.write_text("MY_KEY=given\n")
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "MY_KEY").write_text("credential\n")
    mounted = tmp_path / "mounted"
    mounted.write_bytes(b"\xef\xbb\xbfmounted\r\n")
    environ: dict[str, str] = {}
    assert found(tmp_path, environ) == "beside"
    assert found(tmp_path, environ, given) == "given"
    environ["CREDENTIALS_DIRECTORY"] = str(credentials)
    assert found(tmp_path, environ, given) == "credential"
    environ["MY_KEY_FILE"] = str(mounted)
    assert found(tmp_path, environ, given) == "mounted"
    environ["MY_KEY"] = ""
    assert found(tmp_path, environ, given) == "", "found, and empty"
    assert Secrets({}, tmp_path).get("OTHER") is None


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b"MY_KEY=sk-1", "sk-1"),
        (b"export MY_KEY = sk-1", "sk-1"),
        (b'MY_KEY="sk-1" # mine', "sk-1"),
        (b"MY_KEY='a $b'", "a $b"),
        (b"MY_KEY=a=b==", "a=b=="),
        (b"MY_KEY=a#b # c", "a#b"),
        (b"# c\r\n\r\nMY_KEY=sk-1\r\n", "sk-1"),
        (b"\xef\xbb\xbfMY_KEY=sk-1\r", "sk-1"),
        (b"MY_KEY=", ""),
        (b"MY_KEY", None),
        (b"MY_KEYS=x", None),
    ],
)
def test_a_file_is_read_as_other_tools_read_it(tmp_path: Path, line: bytes, value: str | None) -> None:
    (tmp_path / ".env").write_bytes(line)
    assert found(tmp_path, {}) == value


@pytest.mark.parametrize(("text", "line"), [("A=1\n\nnot so\n", 3), ('\n A = 1\nB="x\nC=2\n', 3), ("A=1\nnor this", 2)])
def test_a_line_that_assigns_nothing_is_said_where_a_name_is_not_found(tmp_path: Path, text: str, line: int) -> None:
    """It may be the one that was meant to; what others wrote for programs of theirs is in nobody's way."""
    for name in ("k.env", ".env"):
        path = tmp_path / name
        path.write_text(text)
        secrets = Secrets({}, tmp_path, None if name == ".env" else path)
        assert secrets.get("A") == "1"
        with pytest.raises(ValueError, match=rf"/{name}, of which line {line} is no NAME=value; mend it$"):
            secrets.get("KEY")
        path.unlink()


def test_a_plan_needs_no_key_and_a_run_does(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(MANIFEST)
    manifest = load_manifest(path, environ=ENV, out=str(tmp_path / "out"))
    assert plan(manifest, environ=ENV).keys_missing == ("MY_KEY",)
    with pytest.raises(UsageError, match=r"m\.yaml:2: provider\.keys\[0\]: .* MY_KEY is not set"):
        secrets_of(manifest, ENV)
    (tmp_path / ".env").write_text('MY_KEY="sk-of-mine"\n')
    assert plan(manifest, environ=ENV).keys_missing == ()
    assert secrets_of(manifest, ENV) == {"MY_KEY": "sk-of-mine"}


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"MY_KEY": " \r\n"}, "the environment variable MY_KEY is empty"),
        ({"MY_KEY_FILE": "/dev/null"}, "/dev/null, which MY_KEY_FILE names, is empty; put the key into it"),
        ({"MY_KEY": "Bearer sk-abc-SECRET"}, "begins with the word Bearer"),
        ({"MY_KEY": "sk abc-SECRET"}, "holds a blank"),
        ({"MY_KEY_FILE": "/nowhere/at/all"}, "MY_KEY_FILE names /nowhere/at/all, which cannot be read (No such file"),
        ({"MY_KEY_FILE": "/"}, "MY_KEY_FILE names /, which cannot be read (Is a directory"),
    ],
)
def test_what_is_no_key_is_said_and_not_shown(tmp_path: Path, environ: dict[str, str], says: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(MANIFEST)
    manifest = load_manifest(path, environ=ENV, out=str(tmp_path / "out"))
    with pytest.raises(UsageError) as caught:
        secrets_of(manifest, environ)
    assert says in str(caught.value)
    assert "SECRET" not in str(caught.value)
    assert plan(manifest, environ=environ).keys_missing == ("MY_KEY",)


def test_values_in_the_manifest_are_looked_up_in_files_too(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(MANIFEST)
    env_file = tmp_path / "x.env"
    env_file.write_text("HOST=from.example\nPASS=pass-of-the-proxy\n")
    manifest = load_manifest(path, environ={}, env_file=env_file)
    assert manifest.provider.base_url == "https://from.example"
    assert "pass-of-the-proxy" not in manifest.text + repr(manifest)
    with pytest.raises(ManifestError, match="the environment variable HOST is not set"):
        load_manifest(path, environ={})
    with pytest.raises(UsageError, match=r"--env-file: .*none\.env, which cannot be read"):
        load_manifest(path, environ=ENV, env_file=tmp_path / "none.env")


def test_a_password_written_into_the_manifest_is_not_kept_with_the_pictures(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(MANIFEST.replace("${PASS}", "s3cret"))
    manifest = load_manifest(path, environ=ENV)
    assert manifest.provider.proxy == "http://u:s3cret@p:1"
    assert "http://***@p:1" in manifest.text
