"""What a manifest may say of webhooks, and what follows from it for each provider."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batchflux import load_manifest
from batchflux.manifest.reading import values
from batchflux.providers import webhook_apis
from batchflux.webhooks.opening import hooks_of
from batchflux.webhooks.wakes import secret_of

if TYPE_CHECKING:
    from pathlib import Path

    from batchflux.manifest import Manifest


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("0.0.0.0:8788", ("0.0.0.0", 8788)),  # noqa: S104  what people write
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("hooks.internal:80", ("hooks.internal", 80)),
    ],
)
def test_where_it_listens(text: str, read: tuple[str, int]) -> None:
    assert values.listen(text) == read


@pytest.mark.parametrize("text", ["", "8788", ":8788", "127.0.0.1", "127.0.0.1:0", "http://127.0.0.1:8788", "::1:8788"])
def test_where_nobody_listens(text: str) -> None:
    with pytest.raises(ValueError, match="allowed is host:port"):
        values.listen(text)


@pytest.mark.parametrize(
    "text",
    [
        "https://h.example",
        "https://h.example/a/b/",
        "http://127.0.0.1:8788",
        "http://[::1]:1",
        "http://10.1.2.3",
        "http://localhost",
    ],
)
def test_an_address_for_others(text: str) -> None:
    assert values.public_url(text) == text.rstrip("/")


@pytest.mark.parametrize(
    "text",
    [
        "http://h.example",
        "http://8.8.8.8",
        "http://localhost.example",
        "ftp://h.example",
        "h.example",
        "https://h.example?a=b",
    ],
)
def test_an_address_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"allowed is (an http:// or )?https://|with a query"):
        values.public_url(text)


def loaded(folder: Path, provider: str) -> Manifest:
    path = folder / "m.yaml"
    hooks = "webhooks: {listen: '0.0.0.0:8788', public_url: https://h.example/x/}"
    path.write_text(f"version: 1\nprovider: {provider}\n{hooks}\njobs: [{{prompt: x}}]\n", encoding="utf-8")
    return load_manifest(path)


def test_a_url_is_the_same_in_each_run_and_another_for_each_key_and_folder(tmp_path: Path) -> None:
    manifest = loaded(tmp_path, "{name: fal, keys: [A, B]}")
    first, same, other = (
        hooks_of(manifest, webhook_apis(), {"A": "key-a", "B": key})["fal", "fal"]
        for key in ("key-b", "key-b", "key-c")
    )
    assert first.url == same.url == f"https://h.example/x/{first.path}"
    assert len({first.path, first.secret, other.path, other.secret}) == 4
    assert "key" not in first.url
    assert first.path not in repr(first)
    assert secret_of(["a"], "path", "folder", "x") != secret_of(["a"], "path", "other", "x")
    assert secret_of([], "path") != secret_of([], "path"), "without a key it is another each time"


def test_the_simulator_calls_where_we_listen(tmp_path: Path) -> None:
    hooks = hooks_of(loaded(tmp_path, "{name: x, api: flux-relay, base_url: simulator}"), webhook_apis(), {})
    assert list(hooks) == [("x", "native")]
    assert hooks["x", "native"].url.startswith("http://127.0.0.1:8788/")


def test_without_webhooks_nobody_calls(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("version: 1\nprovider: fal\njobs: [{prompt: x}]\n", encoding="utf-8")
    assert hooks_of(load_manifest(path), webhook_apis(), {}) == {}
