"""What the manifest says of which an output folder keeps a copy, written by whatever version of this program."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from batchflux.errors import ManifestError, UsageError
from batchflux.manifest.loader import store_configs
from batchflux.manifest.reading.diagnostics import Faults
from batchflux.manifest.reading.yaml_nodes import Items, Scalar, Table, read_tree
from batchflux.manifest.schema import stores_of
from batchflux.output.base import MANIFEST
from batchflux.secrets import Secrets
from batchflux.transport.connecting.ssrf import Allowed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from batchflux.manifest.reading.yaml_nodes import Node
    from batchflux.output.stores.opening import Stores

_PORT = re.compile(r":\d+$")


def kept(out: Path) -> Table:
    """Return the manifest that an output folder keeps; an empty one where there is none that can be read."""
    path = out / MANIFEST
    with suppress(OSError, ManifestError):
        root = read_tree(path.read_bytes(), str(path), lambda _: None)
        if isinstance(root, Table):
            return root
    return Table(1, {}, {})


def hosts_of_folder(out: Path) -> tuple[str, ...]:
    """Return which private hosts the providers of an output folder's manifest may reach: `allow_hosts` and their own.

    What names no host as it is written, such as a `${NAME}`, is left out.
    """
    root = kept(out)
    several = root.pairs.get("providers")
    providers = [root.pairs.get("provider"), *(several.pairs.values() if isinstance(several, Table) else ())]
    pairs = [one.pairs for one in providers if isinstance(one, Table)]
    hosts = [text for one in pairs for text in _texts(one.get("allow_hosts"))]
    hosts += [_host_of(text) for one in pairs for text in _texts(one.get("base_url"))]
    return tuple(filter(_is_host, hosts))


def _texts(node: Node | None) -> list[str]:
    items = node.items if isinstance(node, Items) else [node]
    return [one.text for one in items if isinstance(one, Scalar)]


def _host_of(base_url: str) -> str:
    place = urlsplit(base_url).netloc.rpartition("@")[2]
    return place if _PORT.search(place) else f"{place}:{443 if base_url.startswith('https:') else 80}"


def _is_host(text: str) -> bool:
    try:
        Allowed.of(text)
    except UsageError:
        return False
    return True


def stores_of_folder(out: Path, base: Path | None, environ: Mapping[str, str]) -> Stores:
    """Return who opens buckets for an output folder, by its manifest and by what is looked up, `environ` first.

    `base` is where the manifest lay when it was run, beside whose `.env` things are looked up, too. UsageError: what it
    says of buckets cannot be.
    """
    faults = Faults(str(out / MANIFEST))
    configs = store_configs(kept(out), faults)
    if faults.found:
        raise UsageError(str(ManifestError(faults.in_order())))
    return stores_of(configs, Secrets(environ, out if base is None else base))
