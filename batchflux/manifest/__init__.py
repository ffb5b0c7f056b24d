"""YAML text → Manifest → a stream of Jobs. Pure but for reading the files that the manifest names.

tree, reader, merges    text → nodes with lines; bounds against bombs
overrides           --set and --provider, on the nodes
environment         ${NAME}, and no secrets in files
schema, leaves, fields, units, urls, check     nodes → checked values; faults in our words
load, providers, entries, config               → Manifest
sources, parquet    tables → rows
axes, templates, compile                       an entry made ready for rows
build, capability, identity, references, seen  a row → a Job
redo                a Job → another try at it
expand              all of it, as a stream
vet, lines          a large table without fault, told without making its jobs
salvage             what can be told of the rest when something is wrong
"""

from __future__ import annotations

from batchflux.manifest.values import Deadline, Rate
from batchflux.manifest.schema import LimitsConfig, Manifest, OutputConfig, ProviderConfig
from batchflux.manifest.expansion import Expansion, expand
from batchflux.manifest.loader import load_manifest
from batchflux.manifest.redo import Redos
from batchflux.manifest.schema import schema
from batchflux.manifest.schema import starter
from batchflux.manifest.vet import vet

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
    "vet",
]
