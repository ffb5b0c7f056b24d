"""Tables as files in a fresh folder, and the jobs or faults of a manifest that reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchflux.errors import Fault, ManifestError
from batchflux.manifest import Expansion, expand, load_manifest
from batchflux.models import Job
from batchflux.providers import capabilities

Outcome = tuple[list[Job], list[str], list[dict[str, Any]]]
Read = Callable[..., Outcome]


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Return the jobs of a table and an entry that reads it, the faults, and what was assumed of tables."""
    monkeypatch.chdir(tmp_path)

    def go(name: str, data: str | bytes, entry: str = 'prompt: "{{ title }}"') -> Outcome:
        Path(name).write_bytes(data if isinstance(data, bytes) else data.encode())
        Path("m.yaml").write_text(f"version: 1\njobs:\n  - from: {name}\n    " + entry.replace("\n", "\n    ") + "\n")
        faults: list[Fault] = []
        jobs: list[Job] = []
        made: Expansion | None = None
        try:
            made = expand(load_manifest("m.yaml", environ={}, offers=capabilities()), capabilities(), faults.append)
            jobs += made
        except ManifestError as error:
            faults += error.faults
        return jobs, [str(fault) for fault in faults], made.tables if made is not None else []

    return go
