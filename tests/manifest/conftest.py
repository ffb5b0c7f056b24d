"""Manifests as files in a fresh folder, and what the two call styles of the real API can carry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path  # noqa: TC003  pytest reads the hints
from typing import Any, Protocol

import pytest

from batchflux.errors import Fault, ManifestError
from batchflux.manifest import Expansion, Manifest, expansion as expand, load_manifest
from batchflux.models import Capabilities, Job

STYLES = {
    "standard": Capabilities(
        style="standard",
        fields=frozenset(
            {
                "seed",
                "aspect_ratio",
                "output_format",
                "safety_tolerance",
                "prompt_upsampling",
                "webhook_url",
                "webhook_secret",
            }
        ),
        local_images=False,
    ),
    "chat": Capabilities(style="chat", fields=frozenset(), local_images=True),
}
JPEG = b"\xff\xd8\xff\xe0" + bytes(64)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)


class Load(Protocol):
    def __call__(self, text: str | bytes, **how: Any) -> Manifest: ...


@pytest.fixture
def styles() -> dict[str, Capabilities]:
    return dict(STYLES)


Jobs = Callable[[str], list[Job]]
Faulty = Callable[[str | bytes], list[str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two photos and a small table beside the manifest."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/mug.jpg").write_bytes(JPEG)
    (tmp_path / "photos/cup.png").write_bytes(PNG)
    (tmp_path / "empty.csv").touch()
    (tmp_path / "twice.csv").write_text("a,a\n1,2\n")
    (tmp_path / "products.csv").write_text("sku,title,photo\nM-1,Mug,photos/mug.jpg\nC-1,Cup,https://x.example/c.png\n")
    return tmp_path


@pytest.fixture
def load(folder: Path) -> Load:
    """Write a manifest as m.yaml and load it, in an empty environment."""

    def go(text: str | bytes, **how: Any) -> Manifest:
        (folder / "m.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_manifest("m.yaml", **{"environ": {}, **how})

    return go


@pytest.fixture
def expansion(load: Load) -> Callable[[str], tuple[Expansion, list[Fault]]]:
    """An expansion of a manifest, and the list its faults go to."""

    def go(text: str) -> tuple[Expansion, list[Fault]]:
        faults: list[Fault] = []
        return expand(load(text), STYLES, faults.append), faults

    return go


@pytest.fixture
def jobs(expansion: Callable[[str], tuple[Expansion, list[Fault]]]) -> Jobs:
    """All jobs of a manifest that has no faults."""

    def go(text: str) -> list[Job]:
        made, faults = expansion(text)
        got = list(made)
        assert [str(fault) for fault in faults] == []
        return got

    return go


@pytest.fixture
def faults(load: Load) -> Faulty:
    """The faults of a manifest as the user sees them: those of loading, or those of expanding when there are none."""

    def go(text: str | bytes) -> list[str]:
        found: list[Fault] = []
        try:
            manifest = load(text, styles=STYLES)
        except ManifestError as error:
            return [str(fault) for fault in error.faults]
        for _ in expand(manifest, STYLES, found.append):
            pass
        return [str(fault) for fault in found]

    return go
