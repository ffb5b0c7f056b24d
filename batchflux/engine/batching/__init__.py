"""Batches: jobs that leave many at once, for less, and whose answers come within a day.

`source` puts jobs aside and gives them out again with their answers, `forming` sends batches, `following` sees them
through; `rooms` is who waits for what, and what of the money is theirs; `asking` performs the free steps.
"""

from batchflux.engine.batching.rooms import AT_HAND, SetAside, read_answer
from batchflux.engine.batching.source import Batches

__all__ = ["AT_HAND", "Batches", "SetAside", "read_answer"]
