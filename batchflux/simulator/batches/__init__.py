"""The APIs that take many requests as a batch: a class each, on `base.BatchQueue`."""

from __future__ import annotations

from batchflux.simulator.batches.gemini import GeminiBatchQueue
from batchflux.simulator.batches.openai import OpenAiBatchQueue

__all__ = ["BATCHES"]

BATCHES = (GeminiBatchQueue, OpenAiBatchQueue)
