"""The providers of a manifest: one, or several by names of the user's own; which API each speaks, and where.

A known name brings its API, its address and the name of its key's variable; any other name is a relay and needs a
base_url. Whether a key's variable is set is asked when the run starts, not here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from batchflux.errors import quoted
from batchflux.manifest.job_fields import AUTO
from batchflux.manifest.providers.modes import mode_faults, terms_of
from batchflux.manifest.providers.offers import FLUX_RELAY, no_style, option_faults
from batchflux.manifest.providers.settings import ProviderConfig
from batchflux.manifest.reading.diagnostics import nearest
from batchflux.manifest.reading.values import EMBEDDED
from batchflux.manifest.reading.yaml_nodes import Table, is_written, line_at

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchflux.capabilities import Capabilities
    from batchflux.manifest.reading.diagnostics import Faults

SIMULATOR = "simulator"
_RUNS_INSIDE = 'the simulator runs inside; remove base_url, or give the provider another name, as "local"'


class Known(NamedTuple):
    """What the name of a provider, or of its API, brings."""

    api: str
    base_url: str | None = None
    keys: tuple[str, ...] = ()


class _Meant(NamedTuple):
    """Who is meant by what is written of a provider, and where that is.

    `called` is its name, or its API where it has none. `place`: `inside` is the simulator of this process, `own` a
    server of the user's, which is not to have a known one's key, `known` where the name says, or another way there.
    """

    called: str
    api: str
    known: Known
    place: Literal["inside", "own", "known"]


_TUZI = Known(FLUX_RELAY, "https://api.tu-zi.com", ("TUZI_API_KEY",))
KNOWN = {SIMULATOR: Known(FLUX_RELAY), "tuzi": _TUZI}


def known_providers(offers: Sequence[Capabilities] | None) -> dict[str, Known]:
    """Return all providers that are known by name; that of an API with an address of its own is known, too."""
    own = [offer for offer in offers or () if offer.base_url is not None]
    return {offer.api: Known(offer.api, offer.base_url, offer.key_names) for offer in own} | KNOWN


def api_of(name: str, written: str | None, named: Mapping[str, Known]) -> str:
    """Return the API that a provider speaks, by what is written or by its name."""
    if written is not None and written != SIMULATOR:
        return written
    return named[name].api if name in named and written is None else FLUX_RELAY


class Section:
    """Where a provider stands in the manifest: `provider`, or one of `providers`, whose key is its name."""

    def __init__(self, root: Table, faults: Faults, *path: str) -> None:
        self.path, self._root, self._faults = path, root, faults
        below = faults.below(path[0])
        self.faulty = below.keys() if len(path) == 1 else below.get(path[1], set())

    @property
    def name(self) -> tuple[str, ...]:
        """The path below it to the provider's name; none where that is the section's own key."""
        return ("name",) if len(self.path) == 1 or self.has("name") else ()

    def has(self, key: str) -> bool:
        """Whether a key is written there."""
        return is_written(self._root, *self.path, key)

    def add(self, message: str, *keys: str) -> None:
        """Note what is wrong with what stands there."""
        path = (*self.path, *keys)
        self._faults.add(line_at(self._root, path), path, message)


def provider_config(
    section: Section, given: ProviderConfig, offers: Sequence[Capabilities] | None, *, simulate: bool = False
) -> ProviderConfig:
    """Return the provider with what its name and API bring (no address for the simulator); note what is wrong.

    `simulate`: the command line says that the simulator takes its place, which speaks its API.
    """
    meant = _meant(section, given, known_providers(offers), simulate=simulate)
    sure = section.faulty.isdisjoint({"name", "api"})
    if sure:
        _check_place(section, given, meant, offers, simulate=simulate)
    known = meant.known
    own = given.addresses or (() if known.base_url is None else (known.base_url,))
    keys = given.keys if "keys" in given.model_fields_set else known.keys if meant.place == "known" else ()
    made = given.model_copy(
        update={
            "name": section.path[1] if len(section.path) > 1 else meant.called,
            "api": meant.api,
            "model": given.model if section.has("model") else _model_of(meant.api, offers),
            "addresses": () if meant.place == "inside" else own,
            "keys": () if simulate else keys,
            **({"options": {}, "price": None} if simulate else {}),
        }
    )
    _check_api(section, made, offers if sure else None)
    return made if offers is None else _in_mode(section, made, offers)


def _meant(section: Section, given: ProviderConfig, named: Mapping[str, Known], *, simulate: bool) -> _Meant:
    written = given.api if section.has("api") else None
    embedded = given.addresses == (EMBEDDED,)
    unnamed = len(section.path) == 1 and not section.has("name") and bool(given.addresses) and not embedded
    called = written if unnamed and written is not None else given.name if section.name else section.path[1]
    api = api_of(called, written, named)
    if simulate or embedded or SIMULATOR in (called, written):
        return _Meant(called, api, KNOWN[SIMULATOR], "inside")
    own = section.has("base_url") and (unnamed or called not in named)
    return _Meant(called, api, named.get(called) or named.get(api) or Known(api=api), "own" if own else "known")


def _check_place(
    section: Section, given: ProviderConfig, meant: _Meant, offers: Sequence[Capabilities] | None, *, simulate: bool
) -> None:
    if meant.place == "inside" and given.addresses not in ((), (EMBEDDED,)) and not simulate:
        section.add(_RUNS_INSIDE, "base_url")
    if meant.place != "known" or meant.known.base_url is not None or section.has("base_url"):
        return
    if not section.has("api"):
        near = nearest(meant.called, known_providers(offers))
        section.add(f"found {quoted(meant.called)}, which is not known; {near}, or add base_url", *section.name)
    elif offers is None or any(offer.api == meant.api for offer in offers):  # of an unknown API only that is said
        section.add(f"the API {meant.api} has no address of its own; add base_url", "api")


def _in_mode(section: Section, made: ProviderConfig, offers: Sequence[Capabilities]) -> ProviderConfig:
    """Return the provider with the share of the price that its batches cost; note what its mode cannot be."""
    if section.faulty.isdisjoint({"name", "api", "style", "model", "mode", "live_from", "batch_share"}):
        for key, message in mode_faults(made, offers, shared=section.has("batch_share")):
            section.add(message, key)
    terms = terms_of(made, offers)
    share = made.batch_share or (None if terms is None else terms.share)
    return made.model_copy(update={"batch_share": share})


def _model_of(api: str, offers: Sequence[Capabilities] | None) -> str:
    """Return the model that an API makes pictures with where none is named; "" where one must be."""
    found = (offer.model for offer in offers or () if offer.api == api)
    return next(found, str(ProviderConfig.model_fields["model"].default))


def _check_api(section: Section, provider: ProviderConfig, offers: Sequence[Capabilities] | None) -> None:
    if offers is None:
        return
    own = [offer for offer in offers if offer.api == provider.api]
    if not own:
        names = {SIMULATOR, *(offer.api for offer in offers)}
        message = f"found {quoted(provider.api)}, which is not known; {nearest(provider.api, names)}"
        section.add(message, "api")
        return
    able = [offer for offer in own if provider.style in (AUTO, offer.style)]
    if provider.style != AUTO and (provider.api != FLUX_RELAY or not able):
        section.add(no_style(provider.style, provider.api, own), "style")
    if provider.simulated or not provider.options:
        return
    found = [option_faults(provider.options, offer) for offer in able or own]
    for name, message in min(found, key=len):
        section.add(message, "options", name)
