"""Which providers are known by name, and what a manifest's provider comes to.

The rule: a known name brings its address and the name of its key's variable; any other name is a relay of the same
API and needs a base_url. Whether a key's variable is set is asked when the run starts, not here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchflux.manifest.diagnostics import nearest
from batchflux.manifest.schema import ProviderConfig
from batchflux.manifest.yaml_nodes import OVERRIDE, Scalar, Table, quoted

if TYPE_CHECKING:
    from batchflux.manifest.diagnostics import Faults
    from batchflux.manifest.schema import Provider

# name: (base_url, names of environment variables)
KNOWN: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "simulator": (None, ()),
    "tuzi": ("https://api.tu-zi.com", ("TUZI_API_KEY",)),
}


def provider_config(root: Table, model: Provider, faults: Faults) -> ProviderConfig:
    """The provider, with what its name brings."""
    base_url, keys = KNOWN.get(model.name, (None, ()))
    base_url = model.base_url or base_url
    sure = "name" not in faults.below("provider")
    if sure and model.name not in KNOWN and not _has_address(root):
        line = _name_line(root)
        message = f"found {quoted(model.name)}, which is not known; {nearest(model.name, KNOWN)}, or add base_url"
        faults.add(line, ("provider", "name"), message)
    if sure and model.name == "simulator" and model.base_url is not None:
        line = _name_line(root, "base_url")
        message = 'the simulator runs inside; remove base_url, or give the provider another name, as "local"'
        faults.add(line, ("provider", "base_url"), message)
    return ProviderConfig(
        name=model.name,
        style=model.style or "auto",
        model=model.model,
        base_url=base_url,
        keys=model.keys if model.keys is not None else keys,
        price=model.price,
        currency=model.currency,
        params=model.params or "strict",
        options=model.options or {},
    )


def _has_address(root: Table) -> bool:
    section = root.pairs.get("provider")
    address = section.pairs.get("base_url") if isinstance(section, Table) else None
    return address is not None and not (isinstance(address, Scalar) and address.is_null and address.shown is None)


def _name_line(root: Table, key: str = "name") -> int:
    section = root.pairs.get("provider")
    if isinstance(section, Table):
        return section.lines.get(key, section.line)
    return section.line if isinstance(section, Scalar) else OVERRIDE
