"""YAML text → Manifest → a stream of Jobs. Pure but for reading the files that the manifest names.

yaml_nodes          text → nodes with lines; bounds against bombs
values, job_fields  the text of a scalar → a value; the table of job fields
schema              the parts of a manifest, and its JSON Schema
diagnostics         faults: where, what was found, what is allowed
capabilities        what the provider's API can carry
loader              a file, the command line and the environment → Manifest
tables, matrix      rows; axes and their product
templates, entries  an entry of `jobs` made ready for rows
identity, redo      a job's key, id and file name; another try at it
expansion           all of it, as a stream
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
