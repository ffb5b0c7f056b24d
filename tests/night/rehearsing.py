"""Scenes to rehearse: a manifest in a folder of its own, and what its providers are like."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from batchflux import Selection, load_manifest
from batchflux.ledger.ledger import Ledger
from batchflux.ledger.tables import nanos
from batchflux.manifest import expand
from batchflux.models import Leaving
from batchflux.night.rehearsal import Assumed, Scene, scene_of
from batchflux.night.weather import Call, Climate, Draws, Past
from batchflux.providers import capabilities

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchflux.errors import Code
    from batchflux.manifest import Manifest
    from batchflux.models import Job

DUSK = 1_800_000_000.0
PRICE = nanos(Decimal("0.14"))
ONE = "provider: {name: tuzi, base_url: https://api.example/v1, keys: [NO_SUCH_KEY], price: 0.14, currency: CNY}"


def manifest_in(folder: Path, jobs: int, limits: str = "", provider: str = ONE) -> Path:
    """Write `m.yaml` of so many jobs, and return its path."""
    folder.mkdir(exist_ok=True)
    (folder / "t.csv").write_text("n\n" + "".join(f"{number}\n" for number in range(jobs)))
    path = folder / "m.yaml"
    path.write_text(
        f"version: 1\nname: m\n{provider}\nlimits: {{{limits}}}\noutput: {{dir: {folder / 'out'}}}\n"
        'jobs:\n  - {from: t.csv, id: "j{{ n }}", prompt: "picture {{ n }}"}\n'
    )
    return path


def scene_in(folder: Path, jobs: int, limits: str = "", provider: str = ONE, **assumed: Any) -> Scene:
    """Return the scene of such a manifest; a call takes 10 s unless it is said otherwise."""
    given: dict[str, Any] = {"at": DUSK, "seconds": (10.0, 10.0), **assumed}
    return scene_of(load_manifest(manifest_in(folder, jobs, limits, provider)), Selection(), Assumed(**given))


def climate(seconds: float = 10.0, code: Code | None = None, **more: Any) -> Climate:
    """Return one whose calls all come to the same."""
    usual = Draws.of([Call(seconds=seconds, code=code)])
    return Climate(past=Past(source="given"), usual=usual, **more)


def under(scene: Scene, **climates: Climate) -> Scene:
    """Return a scene in which these providers are as is said."""
    return replace(scene, climates={**scene.climates, **climates})


def left_behind(manifest: Manifest, follows: Callable[[Ledger, Job, int], None]) -> None:
    """Make the ledger of a run, one attempt a job, and end each attempt as `follows` says."""
    manifest.output.dir.mkdir()

    async def run() -> None:
        ledger = Ledger(manifest.output.dir / "ledger.db", durable=False, threaded=False, clock=lambda: DUSK - 600)
        for job in expand(manifest, capabilities(), lambda _: None):
            leaving = Leaving(provider="tuzi", key_name="K", model=job.model, price=PRICE, at=DUSK - 630)
            follows(ledger, job, await ledger.authorize(job, leaving))
        ledger.close()

    asyncio.run(run())
