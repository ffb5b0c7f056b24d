"""Manifests as files in a fresh folder, and what the two call styles of a relay, and another API, can carry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path  # noqa: TC003  pytest reads the hints
from typing import Any, Protocol

import pytest
from pydantic import BaseModel, ConfigDict, Field

from batchflux.capabilities import Capabilities
from batchflux.errors import Fault, ManifestError
from batchflux.manifest import Expansion, Manifest, expand, load_manifest
from batchflux.manifest.job_fields import REQUEST_FIELDS
from batchflux.models import Job


class Knobs(BaseModel):
    """What only the polling API knows."""

    model_config = ConfigDict(extra="forbid")

    raw: bool = False
    strength: float = Field(0.1, ge=0, le=1)


OFFERS = (
    Capabilities(
        api="flux-relay",
        style="standard",
        fields=frozenset(REQUEST_FIELDS),
        formats=frozenset({"jpeg", "png"}),
        local_images=False,
    ),
    Capabilities(api="flux-relay", style="chat", fields=frozenset(), formats=frozenset(), local_images=True),
    Capabilities(
        api="bfl",
        style="polled",
        fields=frozenset({"seed", "aspect_ratio", "output_format"}),
        formats=frozenset({"jpeg", "png", "webp"}),
        local_images=True,
        url_images=False,
        most_images=2,
        options=Knobs,
        base_url="https://api.bfl.ai",
        key_names=("BFL_API_KEY",),
    ),
)
JPEG = b"\xff\xd8\xff\xe0" + bytes(64)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)


class Load(Protocol):
    def __call__(self, text: str | bytes, **how: Any) -> Manifest: ...


@pytest.fixture
def offers() -> tuple[Capabilities, ...]:
    return OFFERS


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
        return expand(load(text, offers=OFFERS), OFFERS, faults.append), faults

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
            manifest = load(text, offers=OFFERS)
        except ManifestError as error:
            return [str(fault) for fault in error.faults]
        for _ in expand(manifest, OFFERS, found.append):
            pass
        return [str(fault) for fault in found]

    return go
