"""batchflux: an async batch job runner for paid image APIs.

The public names: `load_manifest`, `plan` and `run` (a coroutine), and the types and errors they speak in.
They are imported when first used, so that `batchflux --help` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchflux.errors import BatchfluxError, Fault, FolderBusy, JobError, ManifestError, StopRun, UsageError
    from batchflux.ledger.reconcile import Selection
    from batchflux.ledger.summary import Summary
    from batchflux.manifest import Manifest
    from batchflux.models import Job, Outcome, Status
    from batchflux.observers import Watcher
    from batchflux.planner import Plan, load_manifest, plan
    from batchflux.runner import RunOptions, run

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
    "load_manifest": "planner",
    "Job": "models",
    "Outcome": "models",
    "Status": "models",
    "Plan": "planner",
    "plan": "planner",
    "RunOptions": "runner",
    "Selection": "ledger.reconcile",
    "Summary": "ledger.summary",
    "run": "runner",
    "Watcher": "observers",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'batchflux' has no attribute {name!r}")
    return getattr(import_module(f"batchflux.{_HOMES.get(name, 'errors')}"), name)
