"""Runs jobs: those of a manifest (`run`), or as they come (`endless`); `session` is what both hold open."""

from __future__ import annotations

from batchflux.runner.batch import run
from batchflux.runner.endless import Endless, NotMadeError, endless
from batchflux.runner.session import RunOptions

__all__ = ["Endless", "NotMadeError", "RunOptions", "endless", "run"]
