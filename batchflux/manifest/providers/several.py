"""All providers of a manifest: the one of `provider`, or several of `providers`, of which jobs choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchflux.errors import quoted
from batchflux.manifest.kinds import fallback_on, texts
from batchflux.manifest.providers.config import SIMULATOR, Section, provider_config
from batchflux.manifest.providers.makers import not_listed
from batchflux.manifest.providers.settings import NamedProvider, ProviderConfig
from batchflux.manifest.reading.diagnostics import Faults, check_sound
from batchflux.manifest.reading.yaml_nodes import Scalar, Table, found, is_written, line_at, plain_data

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from batchflux.capabilities import Capabilities

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
    if isinstance(node, Table) and node.pairs:
        return _several(root, node, offers, faults, chosen)
    if is_written(root, "providers"):
        what = "nothing" if node is None or isinstance(node, Table) else found(node)
        faults.add(line_at(root, ("providers",)), ("providers",), f"found {what}; allowed are providers by names")
    given = root.pairs.get("provider")
    config = ProviderConfig() if given is None else check_sound(ProviderConfig, given, ("provider",), faults)[0]
    one = provider_config(Section(root, faults, "provider"), config, offers)
    for key in ("fallback", "fallback_on"):
        if _listed(root, key, texts, faults):
            message = "there is one provider only; list it and the others under providers, by names"
            faults.add(line_at(root, (key,)), (key,), message)
    return Providers(default=one, named={one.name: one}, chosen=chosen is not None)


def _several(
    root: Table, node: Table, offers: Sequence[Capabilities] | None, faults: Faults, chosen: str | None
) -> Providers:
    simulate = chosen == SIMULATOR and not is_written(root, "providers", chosen)
    named: dict[str, ProviderConfig] = {}
    for name, given in node.pairs.items():
        if not name or len(name) > _NAME or name != name.strip() or not name.isprintable():
            message = f"a name is text on one line of at most {_NAME} characters"
            faults.add(node.lines[name], ("providers", name), message)
        config = check_sound(NamedProvider, given, ("providers", name), faults)[0]
        named[name] = provider_config(Section(root, faults, "providers", name), config, offers, simulate=simulate)
    default = _default(root, named, faults)
    named = _in_one_currency(root, named, named[default].currency, faults)
    fallback = _listed(root, "fallback", texts, faults)
    for name in fallback:
        if name not in named:
            faults.add(line_at(root, ("fallback",)), ("fallback",), f"found {not_listed(name, named)}")
        elif named[name].batched:
            message = f"{name} works in batches, which take no job over; take it out, or set its mode: live"
            faults.add(line_at(root, ("fallback",)), ("fallback",), message)
    others = _listed(root, "fallback_on", fallback_on, faults)
    if others and not is_written(root, "fallback"):
        message = "nobody takes these jobs over; add fallback, the providers that do, in order"
        faults.add(line_at(root, ("fallback_on",)), ("fallback_on",), message)
    return Providers(
        default=named[default],
        named=named,
        several=True,
        chosen=chosen is not None and not simulate,
        fallback=tuple(name for name in dict.fromkeys(fallback) if name in named),
        fallback_on=others,
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
    faults.add(line_at(root, ("provider",)), ("provider",), f"found {not_listed(node.text, named)}")
    return first


def _in_one_currency(
    root: Table, named: Mapping[str, ProviderConfig], default: str, faults: Faults
) -> dict[str, ProviderConfig]:
    """Return the providers in the currency of all prices, `default` where there are none; note those in another.

    What answers tell in another currency counts for nothing then: one sum has them all.
    """
    said = {name: is_written(root, "providers", name, "currency") for name in named}
    priced = [name for name, one in named.items() if one.price is not None and (one.price != 0 or said[name])]
    first = next(iter(priced), None)
    currency = default if first is None else named[first].currency
    for name in priced:
        if (other := named[name].currency) != currency:
            message = (
                f"found {quoted(other)}, and the price of {first} is in {quoted(currency)}; one budget counts all"
                " prices, so write them in one currency"
            )
            path = ("providers", name, "currency" if said[name] else "price")
            faults.add(line_at(root, path), path, message)
    return {name: one.model_copy(update={"currency": currency}) for name, one in named.items()}


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
