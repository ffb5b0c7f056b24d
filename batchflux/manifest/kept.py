"""What the manifest says of which an output folder keeps a copy, written by whatever version of this program."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from batchflux.errors import ManifestError, UsageError
from batchflux.manifest.loader import store_configs
from batchflux.manifest.reading.diagnostics import Faults
from batchflux.manifest.reading.yaml_nodes import Table, read_tree
from batchflux.output.base import MANIFEST
from batchflux.output.stores.base import StoreSettings
from batchflux.output.stores.opening import Stores
from batchflux.secrets import Secrets

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def kept(out: Path) -> Table:
    """Return the manifest that an output folder keeps; an empty one where there is none that can be read."""
    path = out / MANIFEST
    with suppress(OSError, ManifestError):
        root = read_tree(path.read_bytes(), str(path), lambda _: None)
        if isinstance(root, Table):
            return root
    return Table(1, {}, {})


def stores_of_folder(out: Path, base: Path | None, environ: Mapping[str, str]) -> Stores:
    """Return who opens buckets for an output folder, by its manifest and by what is looked up, `environ` first.

    `base` is where the manifest lay when it was run, beside whose `.env` things are looked up, too. UsageError: what it
    says of buckets cannot be.
    """
    faults = Faults(str(out / MANIFEST))
    configs = store_configs(kept(out), faults)
    if faults.found:
        raise UsageError(str(ManifestError(faults.in_order())))
    settings = {name: StoreSettings(**said.model_dump()) for name, said in configs.items()}
    return Stores(look_up=Secrets(environ, out if base is None else base).get, settings=settings)
