"""All providers of a manifest: the one of `provider`, or several of `providers`, of which jobs choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchflux.errors import quoted
from batchflux.manifest.kinds import fallback_on, texts
from batchflux.manifest.providers.config import SIMULATOR, Section, provider_config
from batchflux.manifest.reading.diagnostics import Faults, check_sound, nearest
from batchflux.manifest.reading.yaml_nodes import Scalar, Table, found, is_written, line_at, plain_data
from batchflux.manifest.schema import NamedProvider, ProviderConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from batchflux.models import Capabilities

_NAME = 64  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Providers:
    """The providers by their names, as Manifest has them."""

    default: ProviderConfig
    named: Mapping[str, ProviderConfig]
    several: bool = False
    chosen: bool = False
    fallback: tuple[str, ...] = ()
    fallback_on: tuple[str, ...] = ()


def providers_of(
    root: Table, offers: Sequence[Capabilities] | None, faults: Faults, chosen: str | None = None
) -> Providers:
    """Return all providers that a manifest names; note what is wrong with them.

    `chosen` is who makes all jobs, by the command line; the simulator then speaks the API of each.
    """
    node = root.pairs.get("providers")
    if not is_written(root, "providers") or not isinstance(node, Table) or not node.pairs:
        if is_written(root, "providers"):
            what = found(node) if node is not None else "nothing"
            faults.add(line_at(root, ("providers",)), ("providers",), f"found {what}; allowed are providers by names")
        given = root.pairs.get("provider")
        config = ProviderConfig() if given is None else check_sound(ProviderConfig, given, ("provider",), faults)[0]
        one = provider_config(Section(root, faults, "provider"), config, offers)
        fallback = _listed(root, "fallback", texts, faults)
        if fallback:
            message = "there is one provider only; list it and the others under providers, by names"
            faults.add(line_at(root, ("fallback",)), ("fallback",), message)
        return Providers(default=one, named={one.name: one})
    simulate = chosen == SIMULATOR and SIMULATOR not in node.pairs
    named: dict[str, ProviderConfig] = {}
    for name, given in node.pairs.items():
        if not name or len(name) > _NAME or name != name.strip() or not name.isprintable():
            faults.add(
                node.lines[name], ("providers", name), f"a name is text on one line of at most {_NAME} characters"
            )
        config = check_sound(NamedProvider, given, ("providers", name), faults)[0]
        named[name] = provider_config(Section(root, faults, "providers", name), config, offers, simulate=simulate)
    default = next(iter(named)) if simulate else _default(root, named, faults)
    _one_currency(root, named, faults)
    fallback = _listed(root, "fallback", texts, faults)
    for name in fallback:
        if name not in named:
            message = f"found {quoted(name)}, which is no provider of this manifest; {nearest(name, named)}"
            faults.add(line_at(root, ("fallback",)), ("fallback",), message)
    return Providers(
        default=named[default],
        named=named,
        several=True,
        chosen=chosen is not None and not simulate,
        fallback=tuple(name for name in dict.fromkeys(fallback) if name in named),
        fallback_on=_listed(root, "fallback_on", fallback_on, faults),
    )


def _default(root: Table, named: Mapping[str, ProviderConfig], faults: Faults) -> str:
    """Return the name of the provider that makes the jobs which name none."""
    first, node = next(iter(named)), root.pairs.get("provider")
    if node is None or not is_written(root, "provider"):
        return first
    if not isinstance(node, Scalar):
        message = f"found {found(node)} beside providers; allowed is the name of one of them: move it there"
        faults.add(line_at(root, ("provider",)), ("provider",), message)
        return first
    if node.text in named:
        return node.text
    message = f"found {quoted(node.text)}, which is no provider of this manifest; {nearest(node.text, named)}"
    faults.add(line_at(root, ("provider",)), ("provider",), message)
    return first


def _one_currency(root: Table, named: Mapping[str, ProviderConfig], faults: Faults) -> None:
    """Note prices in another currency than the first: one budget counts them all."""
    priced = [(name, one.currency) for name, one in named.items() if one.price is not None]
    for name, currency in priced:
        if currency != (first := priced[0])[1]:
            message = (
                f"found {quoted(currency)}, and the price of {first[0]} is in {quoted(first[1])}; one budget counts all"
                " prices, so write them in one currency"
            )
            path = ("providers", name, "currency" if is_written(root, "providers", name, "currency") else "price")
            faults.add(line_at(root, path), path, message)


def _listed(root: Table, key: str, check: Callable[[object], tuple[str, ...]], faults: Faults) -> tuple[str, ...]:
    """Return what a list of texts at the top holds; note what is wrong with it."""
    node: Any = root.pairs.get(key)
    if node is None or not is_written(root, key):
        return ()
    try:
        return check(plain_data(node, loose=True))
    except ValueError as error:
        faults.add(line_at(root, (key,)), (key,), str(error))
        return ()
