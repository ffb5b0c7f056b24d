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

__all__ = ["BatchfluxError", "Fault", "FolderBusy", "Job", "JobError", "Manifest", "ManifestError", "Outcome", "Plan"]
__all__ += ["RunOptions", "Selection", "Status", "StopRun", "Summary", "UsageError", "Watcher"]
__all__ += ["load_manifest", "plan", "run"]

_HOMES = {
    "ledger.reconcile": ["Selection"],
    "ledger.summary": ["Summary"],
    "manifest": ["Manifest"],
    "models": ["Job", "Outcome", "Status"],
    "observers": ["Watcher"],
    "planner": ["Plan", "load_manifest", "plan"],
    "runner": ["RunOptions", "run"],
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'batchflux' has no attribute {name!r}")
    home = next((home for home, names in _HOMES.items() if name in names), "errors")
    return getattr(import_module(f"batchflux.{home}"), name)
