"""Runs jobs: those of a manifest (`run`), or as they come (`endless`, in stream); `session` is what both hold open."""

from __future__ import annotations

from batchflux.runner.batch import run
from batchflux.runner.session import RunOptions
from batchflux.runner.stream import Endless, NotMadeError, endless

__all__ = ["Endless", "NotMadeError", "RunOptions", "endless", "run"]
