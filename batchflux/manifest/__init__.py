"""YAML text → Manifest → a stream of Jobs. Pure but for reading the files that the manifest names."""

from __future__ import annotations

from batchflux.manifest.expansion import Expansion, expand
from batchflux.manifest.loader import load_manifest
from batchflux.manifest.providers.settings import ProviderConfig
from batchflux.manifest.reading.values import AutoTimeout, Deadline, Rate
from batchflux.manifest.redo import Redos
from batchflux.manifest.schema import LimitsConfig, Manifest, OutputConfig, schema, starter

__all__ = [
    "AutoTimeout",
    "Deadline",
    "Expansion",
    "LimitsConfig",
    "Manifest",
    "OutputConfig",
    "ProviderConfig",
    "Rate",
    "Redos",
    "expand",
    "load_manifest",
    "schema",
    "starter",
]
