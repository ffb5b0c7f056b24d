"""YAML text → Manifest → a stream of Jobs. Pure but for reading the files that the manifest names.

The order of the modules: yaml_nodes, values, job_fields, schema, diagnostics, capabilities, loader; tables, matrix,
templates, entries, identity, redo, expansion.
"""

from __future__ import annotations

from batchflux.manifest.expansion import Expansion, expand
from batchflux.manifest.loader import load_manifest
from batchflux.manifest.redo import Redos
from batchflux.manifest.schema import LimitsConfig, Manifest, OutputConfig, ProviderConfig, schema, starter
from batchflux.manifest.values import Deadline, Rate

__all__ = [
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
