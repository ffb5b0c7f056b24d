"""Which API a provider speaks, and whether it can carry a job: style, fields, references, options and price.

A known name brings its API, its address and the name of its key's variable; any other name is a relay and needs a
base_url. What an API can carry is handed in as offers, one for each call style. `auto` is standard where that carries
the whole job, chat where a local file must travel. What cannot be carried is a fault that names the remedy; a field is
dropped in its place under `params: drop`. Whether a key's variable is set is asked when the run starts, not here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from batchflux.errors import quoted
from batchflux.manifest.job_fields import AUTO, REQUEST_FIELDS, STYLES
from batchflux.manifest.reading.diagnostics import FieldError, key_names, nearest, unknown_key
from batchflux.manifest.reading.values import either
from batchflux.manifest.reading.yaml_nodes import Table, is_written, line_at

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from batchflux.manifest.reading.diagnostics import Faults
    from batchflux.manifest.schema import LimitsConfig, ProviderConfig
    from batchflux.models import Capabilities, Reference

SIMULATOR = "simulator"
FLUX_RELAY = "flux-relay"
_OPTIONAL = frozenset(REQUEST_FIELDS)
_INSTEAD = {  # what does without a field what people want it for
    "seed": " (variant: {range: [1, 3]} in the matrix makes several takes)",
    "aspect_ratio": " (say the ratio in the prompt, or crop the picture afterwards)",
    "output_format": " (convert the picture afterwards)",
}
Pairs = tuple[tuple[str, Any], ...]


class Known(NamedTuple):
    """What the name of a provider, or of its API, brings."""

    api: str
    base_url: str | None = None
    keys: tuple[str, ...] = ()


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


def provider_config(
    root: Table, given: ProviderConfig, offers: Sequence[Capabilities] | None, faults: Faults
) -> ProviderConfig:
    """Return the provider with what its name and API bring (no base_url for the simulator); note what is wrong."""
    faulty = faults.below("provider")
    written = given.api if is_written(root, "provider", "api") else None
    named = known_providers(offers)
    api = api_of(given.name, written, named)
    simulated = SIMULATOR in (given.name, written)
    known = KNOWN[SIMULATOR] if simulated else named.get(given.name) or named.get(api) or Known(api=api)
    sure = "name" not in faulty and "api" not in faulty
    if sure and simulated and given.base_url is not None:
        message = 'the simulator runs inside; remove base_url, or give the provider another name, as "local"'
        _add(root, faults, message, "base_url")
    if sure and not simulated and known.base_url is None and not is_written(root, "provider", "base_url"):
        message = f"found {quoted(given.name)}, which is not known; {nearest(given.name, named)}, or add base_url"
        _add(root, faults, message, "name")
    base_url = None if simulated else given.base_url or known.base_url
    keys = given.keys if "keys" in given.model_fields_set else known.keys
    made = given.model_copy(update={"api": api, "base_url": base_url, "keys": keys})
    if offers is not None and sure:
        _check_api(root, made, offers, faults)
    return made


def _add(root: Table, faults: Faults, message: str, *keys: str) -> None:
    faults.add(line_at(root, ("provider", *keys)), ("provider", *keys), message)


def _check_api(root: Table, provider: ProviderConfig, offers: Sequence[Capabilities], faults: Faults) -> None:
    own = [offer for offer in offers if offer.api == provider.api]
    if not own:
        names = {SIMULATOR, *(offer.api for offer in offers)}
        message = f"found {quoted(provider.api)}, which is not known; {nearest(provider.api, names)}"
        _add(root, faults, message, "api")
        return
    able = [offer for offer in own if provider.style in (AUTO, offer.style)]
    if provider.style != AUTO and (provider.api != FLUX_RELAY or not able):
        _add(root, faults, _no_style(provider.style, provider.api, own), "style")
    if provider.simulated or not provider.options:
        return
    found = [_option_faults(provider.options, offer) for offer in able or own]
    for name, message in min(found, key=len):
        _add(root, faults, message, "options", name)


def _no_style(style: str, api: str, own: Sequence[Capabilities]) -> str:
    if api != FLUX_RELAY:
        return f"found {quoted(style)}; the API {api} has no call styles, so remove style"
    styles = {AUTO, *(offer.style for offer in own)}
    return f"found {quoted(style)}; allowed is {either(tuple(name for name in STYLES if name in styles))}"


def _option_faults(options: Mapping[str, Any], offer: Capabilities) -> list[tuple[str, str]]:
    """Return what is wrong with options, each with its name; a value is not shown, for it may be a secret."""
    if offer.options is None:
        return [(name, f"unknown key {quoted(name)}; the API {offer.api} has no options") for name in options]
    try:
        offer.options.model_validate(options)
    except ValidationError as error:
        found = []
        for item in error.errors(include_url=False, include_input=False):
            name, *below = item["loc"] or ("",)
            if item["type"] == "extra_forbidden" and not below:
                message = unknown_key(str(name), ("options",), offer.options)
            else:
                place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in below)
                message = f"{place} {item['msg'][:1].lower()}{item['msg'][1:]}".strip()
            found.append((str(name), message))
        return found
    return []


def _local_file(references: Sequence[Reference]) -> str | None:
    for reference in references:
        if reference.path is not None:
            return reference.source
    return None


class Offers:
    """What one provider's API can carry, asked for each job."""

    def __init__(self, provider: ProviderConfig, limits: LimitsConfig, offers: Sequence[Capabilities]) -> None:
        self._provider = provider
        self._prices = limits.budget is not None and isinstance(provider.price, dict) and not provider.simulated
        own = [offer for offer in offers if offer.api == provider.api]
        own.sort(key=lambda offer: (offer.style != "standard", offer.style != "chat"))  # as `auto` prefers them
        self._own = {offer.style: offer for offer in own}
        self._local = next((offer for offer in own if offer.local_images), None)
        self._auto = own[0] if own else None

    def of(self, style: str, model: str) -> Capabilities:
        """Return what a style offers for a model."""
        return self._own[style].for_model(model)

    def choose(self, wanted: str, model: str, references: Sequence[Reference]) -> Capabilities:
        """Return what the job goes by; a ValueError says that the API has no such style, or cannot carry a file."""
        if self._auto is None:
            raise ValueError(f"the API {self._provider.api} is not known")
        local = _local_file(references)
        auto = self._auto if local is None or self._local is None else self._local
        offer = auto if wanted == AUTO else self._own.get(wanted)
        if offer is None:
            raise ValueError(_no_style(wanted, self._provider.api, list(self._own.values())))
        if local is not None and not offer.local_images:
            remedy = "give the photo as a URL" + (", or set style: auto" if self._local is not None else "")
            raise ValueError(f"{self._named(offer)} cannot carry the local file {local}; {remedy}")
        return offer.for_model(model)

    def _named(self, offer: Capabilities) -> str:
        return f"style {offer.style}" if offer.api == FLUX_RELAY else f"the API {offer.api}"

    def dropped(self, offer: Capabilities, values: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the fields that were asked for and have no place in a request."""
        unfit = _OPTIONAL - offer.fields
        if unfit.isdisjoint(values) and not values["options"]:
            return ()
        asked = (*REQUEST_FIELDS, "options") if values["options"] else REQUEST_FIELDS
        return tuple([name for name in asked if values.get(name) is not None and not _carries(offer, name)])

    def refusals(self, offer: Capabilities, values: Mapping[str, Any], wanted: str) -> Iterator[tuple[str, str]]:
        """Yield each field that cannot be as it is, with the reason and the remedy."""
        images: Sequence[Reference] = values["images"]
        if self._provider.params != "drop":
            for name in values["dropped"]:
                yield name, self._refusal(name, offer, wanted, _local_file(images))
        asked = values.get("output_format")
        if asked is not None and "output_format" in offer.fields and asked not in offer.formats:
            allowed = either(tuple(sorted(offer.formats))) if offer.formats else "none; remove it"
            yield "output_format", f"output_format {asked} cannot be made by {self._named(offer)}; allowed is {allowed}"
        for name in offer.allowed:
            if (value := values.get(name)) is not None and offer.value_for(name, value) is None:
                allowed = either(tuple(map(str, offer.allowed[name])))
                yield name, f"{name} {value} cannot be made by {self._named(offer)}; allowed is {allowed}"
        if len(images) < offer.least_images:
            yield "images", f"{self._named(offer)} makes this model's pictures from a reference only; add images"
        if offer.most_images is not None and len(images) > offer.most_images:
            message = f"found {len(images)} references; {self._named(offer)} takes at most {offer.most_images}"
            yield "images", f"{message}; take some out"
        if not offer.url_images and (link := next((image for image in images if image.url is not None), None)):
            shown = quoted(link.source.split("?")[0])
            message = f"{self._named(offer)} takes no URL as a reference, and {shown} is one"
            yield "images", f"{message}; save the photo beside the manifest"
        if self._prices and self._provider.price_of(values["model"]) is None:
            message = f"a budget needs the price of the model {quoted(values['model'])}; add it to provider.price"
            yield "model", f"{message} (0 is one)"

    def _refusal(self, name: str, offer: Capabilities, wanted: str, local: str | None) -> str:
        why, remedy = "", ""
        others = [other.style for other in self._own.values() if other.style != offer.style and _carries(other, name)]
        if others and local is not None:
            why = f", which this job needs because {local} is a local file"
            remedy = "give the photo as a URL" + ("" if wanted == AUTO else " and set style: auto")
            able = [style for style in others if self._own[style].local_images]
            remedy += f", set style: {able[0]} if the relay offers it" if able else ""
        elif others and wanted == "chat":
            why, remedy = ", which this job asks for", "set style: auto"
        elif others:
            remedy = f"set style: {others[0]}"
        ways = ", ".join(filter(None, (remedy, f"remove {name}{_INSTEAD.get(name, '')}, or set provider.params: drop")))
        return f"{name} cannot be carried by {self._named(offer)}{why}; {ways}"

    def options(self, offer: Capabilities, given: Pairs) -> Pairs:
        """Return a job's options and the provider's, as the API's model reads them; a FieldError refuses one."""
        if offer.options is None:
            return given
        known = key_names(offer.options)
        of_provider = {} if self._provider.simulated else self._provider.options
        merged = {**{name: value for name, value in of_provider.items() if name in known}, **dict(given)}
        if not merged:
            return ()
        for name, message in _option_faults(merged, offer):
            raise FieldError(f"options.{name}", message)
        made = offer.options.model_validate(merged).model_dump(mode="json", by_alias=True, exclude_unset=True)
        return tuple(made.items())


def _carries(offer: Capabilities, name: str) -> bool:
    return offer.options is not None if name == "options" else name in offer.fields
