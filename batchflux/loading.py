"""`load_manifest` as users know it: the manifest's own, with what the APIs can carry.

It stands above both because neither may import the other: so a manifest with faults is checked down to its jobs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchflux import manifest as inner
from batchflux.providers import capabilities

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from batchflux.manifest import Manifest


def load_manifest(
    path: str | os.PathLike[str],
    *,
    sets: Sequence[str] = (),
    provider: str | None = None,
    out: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Manifest:
    """Read and check a manifest; spends nothing.

    Args:
        path: the YAML file.
        sets: `PATH=VALUE` texts that replace values, as `limits.rate=10/s`.
        provider: replaces provider.name; another provider's base_url, keys and options are dropped, and its
            api, or with the simulator (which speaks it) its price.
        out: replaces output.dir.
        environ: where `${NAME}` is looked up; the process's environment when None.

    Raises:
        ManifestError: with every fault. A manifest that is sound but for its rows has them listed by `plan` and `run`.
    """
    return inner.load_manifest(path, sets=sets, provider=provider, out=out, environ=environ, offers=capabilities())
