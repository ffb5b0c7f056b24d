"""batchflux: an async batch job runner for paid image APIs.

The public names: `load_manifest`, `plan` and `run` (a coroutine), and the types and errors they speak in.
They are imported when first used, so that `batchflux --help` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchflux.engine.selection import Selection
    from batchflux.errors import BatchfluxError, Fault, FolderBusy, JobError, ManifestError, StopRun, UsageError
    from batchflux.loading import load_manifest
    from batchflux.manifest import Manifest
    from batchflux.model import Job, Outcome, Status
    from batchflux.planner import Plan, plan
    from batchflux.runner import RunOptions, run
    from batchflux.storage.summary import Summary
    from batchflux.watcher import Watcher

__version__ = "0.1.0"

__all__ = [
    "BatchfluxError",
    "Fault",
    "FolderBusy",
    "Job",
    "JobError",
    "Manifest",
    "ManifestError",
    "Outcome",
    "Plan",
    "RunOptions",
    "Selection",
    "Status",
    "StopRun",
    "Summary",
    "UsageError",
    "Watcher",
    "load_manifest",
    "plan",
    "run",
]

_HOMES = {
    "Manifest": "manifest",
    "load_manifest": "loading",
    "Job": "model",
    "Outcome": "model",
    "Status": "model",
    "Plan": "planner",
    "plan": "planner",
    "RunOptions": "runner",
    "Selection": "engine.selection",
    "Summary": "storage.summary",
    "run": "runner",
    "Watcher": "watcher",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'batchflux' has no attribute {name!r}")
    return getattr(import_module(f"batchflux.{_HOMES.get(name, 'errors')}"), name)
