"""Whether a provider can carry a job: style, fields, references, options and price.

What an API can carry is handed in as offers, one for each call style. `auto` is standard where that carries the whole
job, chat where a local file must travel. What cannot be carried is a fault that names the remedy; a field is dropped in
its place under `params: drop`.
"""

from __future__ import annotations

import json
from dataclasses import fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from batchflux.errors import quoted
from batchflux.manifest.job_fields import AUTO, REQUEST_FIELDS, STYLES
from batchflux.manifest.providers.modes import sells_none, terms_of
from batchflux.manifest.reading.diagnostics import FieldError, key_names, unknown_key
from batchflux.manifest.reading.values import either
from batchflux.models import Way

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from batchflux.capabilities import Capabilities
    from batchflux.manifest.schema import Manifest
    from batchflux.models import Job, Reference

FLUX_RELAY = "flux-relay"
_OPTIONAL = frozenset({*REQUEST_FIELDS, "mask"})
_INSTEAD = {  # what does without a field what people want it for
    "seed": " (variant: {range: [1, 3]} in the matrix makes several takes)",
    "aspect_ratio": " (say the ratio in the prompt, or crop the picture afterwards)",
    "output_format": " (convert the picture afterwards)",
}
_AS_LINK = "give the photo as a URL (references.publish makes them of photos)"
Pairs = tuple[tuple[str, Any], ...]


def no_style(style: str, api: str, own: Sequence[Capabilities]) -> str:
    """Say that an API has no such call style, and which it has."""
    if api != FLUX_RELAY:
        return f"found {quoted(style)}; the API {api} has no call styles, so remove style"
    styles = {AUTO, *(offer.style for offer in own)}
    return f"found {quoted(style)}; allowed is {either(tuple(name for name in STYLES if name in styles))}"


def option_faults(options: Mapping[str, Any], offer: Capabilities) -> list[tuple[str, str]]:
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
                said = (
                    "is missing; add it" if item["type"] == "missing" else f"{item['msg'][:1].lower()}{item['msg'][1:]}"
                )
                message = f"{place} {said}".strip()
            found.append((str(name), message))
        return found
    return []


def _local_file(references: Sequence[Reference]) -> str | None:
    for reference in references:
        if reference.path is not None:
            return reference.source
    return None


def _held(path: Path, name: str) -> Any:
    """Return what a JSON file holds that an option names; a FieldError says why it cannot be had."""
    try:
        found = path.stat()
        return _read(path, found.st_mtime_ns, found.st_size)
    except OSError as error:
        raise FieldError(f"options.{name}", f"{quoted(str(path))} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise FieldError(f"options.{name}", f"{quoted(str(path))} holds no JSON; export it again") from None


@lru_cache(maxsize=8)
def _read(path: Path, _changed: int, _size: int) -> Any:
    return json.loads(path.read_bytes())


class Offers:
    """What one provider of a manifest can carry, asked for each job."""

    def __init__(self, manifest: Manifest, name: str, offers: Sequence[Capabilities]) -> None:
        self.provider = self._provider = provider = manifest.providers[name]
        self._several, self._base = manifest.several, manifest.base
        by_model = isinstance(provider.price, dict) or manifest.several
        self._prices = bool(manifest.limits.budgets) and by_model and not provider.simulated
        own = [offer for offer in offers if offer.api == provider.api]
        own.sort(key=lambda offer: (offer.style != "standard", offer.style != "chat"))  # as `auto` prefers them
        self._own = {offer.style: offer for offer in own}
        self._publishes = manifest.references.publish is not None and not self._provider.batched
        self._local = next((offer for offer in own if self._takes_files(offer)), None)
        self._auto = own[0] if own else None
        self._all, self._batches = offers, terms_of(provider, offers) is not None

    def _takes_files(self, offer: Capabilities) -> bool:
        """Whether local references travel: their bytes, or links to them."""
        return offer.local_images or (self._publishes and offer.url_images)

    def of(self, style: str, model: str) -> Capabilities:
        """Return what a style offers for a model."""
        return self._own[style].for_model(model)

    def choose(self, wanted: str, model: str, references: Sequence[Reference]) -> Capabilities:
        """Return what the job goes by; a ValueError says that the API has no such style, or cannot carry a file."""
        if self._auto is None:
            raise ValueError(f"the API {self._provider.api} is not known")
        if not model:
            place = f"providers.{self._provider.name}.model" if self._several else "provider.model"
            raise ValueError(f"the API {self._provider.api} has models of many makers; name one, as {place}")
        local = _local_file(references)
        auto = self._auto if local is None or self._local is None else self._local
        offer = auto if wanted == AUTO else self._own.get(wanted)
        if offer is None:
            raise ValueError(no_style(wanted, self._provider.api, list(self._own.values())))
        if local is not None and not self._takes_files(offer):
            remedy = _AS_LINK + (", or set style: auto" if self._local is not None else "")
            raise ValueError(f"{self._named(offer)} cannot carry the local file {local}; {remedy}")
        return offer.for_model(model)

    def other(self, offer: Capabilities, wanted: str, references: Sequence[Reference]) -> Capabilities | None:
        """Return by which other style `auto` would send the same files, were `references.publish` not as it is."""
        if wanted != AUTO or self._auto is None or _local_file(references) is None:
            return None
        bytes_by = next((one for one in self._own.values() if one.local_images), None)
        either_way = {one.style: one for one in (self._auto, bytes_by) if one is not None and one.url_images}
        return next((one for style, one in either_way.items() if style != offer.style), None)

    def way(self, values: Mapping[str, Any], given: Pairs, api: str) -> Way | None:
        """Return how this provider makes a job of another's, which speaks `api`; None when it cannot carry all of it.

        `given` are the options that the job says itself: those of its own API.
        """
        if given and api != self._provider.api:
            return None
        try:
            offer = self.choose(self._provider.style, self._provider.model, values["images"])
            options = self.options(offer, given)
        except ValueError:
            return None
        made = {**values, "model": self._provider.model, "style": offer.style, "options": options}
        return self._way(offer, made)

    def again(self, job: Job, way: Way) -> Way | None:
        """Return the way by which this provider makes what a job became since; None when it cannot carry all of it."""
        written = {each.name: getattr(job, each.name) for each in fields(job)}
        made = {**written, "model": way.model, "style": way.style, "options": way.options}
        return self._way(self.of(way.style, way.model), made)

    def _way(self, offer: Capabilities, made: dict[str, Any]) -> Way | None:
        made["dropped"] = self.dropped(offer, made)
        if next(self.refusals(offer, made, self._provider.style), None) is not None:
            return None
        taken = {name: made[name] for name in ("style", "model", "options", "dropped")}
        return Way(provider=self._provider.name, **taken)

    def _named(self, offer: Capabilities) -> str:
        named = f"style {offer.style}" if offer.api == FLUX_RELAY else f"the API {offer.api}"
        return f"{named} of {self._provider.name}" if self._several else named

    def dropped(self, offer: Capabilities, values: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the fields that were asked for and have no place in a request."""
        unfit = _OPTIONAL - offer.fields
        if unfit.isdisjoint(values) and not values["options"]:
            return ()
        asked = (*REQUEST_FIELDS, "mask", "options") if values["options"] else (*REQUEST_FIELDS, "mask")
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
        yield from self._miscounted(offer, images)
        mask = () if "mask" in values["dropped"] or not values.get("mask") else (values["mask"],)
        links = [image for image in (*images, *mask) if image.url is not None and image.address is None]
        if links and not offer.url_images:
            shown = quoted(links[0].source.split("?")[0])
            message = f"{self._named(offer)} takes no URL as a reference, and {shown} is one"
            yield "mask" if links[0] in mask else "images", f"{message}; save the photo beside the manifest"
        yield from offer.conflicts(values)
        if self._provider.batched:
            yield from self._unbatched(offer, values)
        if self._prices and self._provider.price_of(values["model"]) is None:
            place = f"providers.{self._provider.name}.price" if self._several else "provider.price"
            message = f"a budget needs the price of the model {quoted(values['model'])}; add it to {place}"
            yield "model", f"{message} (0 is one)"

    def _unbatched(self, offer: Capabilities, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield what a batch cannot carry of a job."""
        if offer.batch is not None:
            yield from offer.batch.conflicts(values)
        elif self._batches:
            yield "model", f"{sells_none(self._provider, self._all, values['model'])}; set mode: live, or another model"

    def _miscounted(self, offer: Capabilities, images: Sequence[Reference]) -> Iterator[tuple[str, str]]:
        if len(images) < offer.least_images:
            yield "images", f"{self._named(offer)} makes this model's pictures from a reference only; add images"
        if offer.most_images is not None and len(images) > offer.most_images:
            message = f"found {len(images)} references; {self._named(offer)} takes at most {offer.most_images}"
            yield "images", f"{message}; take some out"

    def _refusal(self, name: str, offer: Capabilities, wanted: str, local: str | None) -> str:
        why, remedy = "", ""
        others = [other.style for other in self._own.values() if other.style != offer.style and _carries(other, name)]
        if others and local is not None:
            why = f", which this job needs because {local} is a local file"
            remedy = _AS_LINK + ("" if wanted == AUTO else " and set style: auto")
            able = [style for style in others if self._own[style].local_images]
            remedy += f", set style: {able[0]} if the relay offers it" if able else ""
        elif others and wanted == "chat":
            why, remedy = ", which this job asks for", "set style: auto"
        elif others:
            remedy = f"set style: {others[0]}"
        drop = f"providers.{self._provider.name}.params" if self._several else "provider.params"
        ways = ", ".join(filter(None, (remedy, f"remove {name}{_INSTEAD.get(name, '')}, or set {drop}: drop")))
        return f"{name} cannot be carried by {self._named(offer)}{why}; {ways}"

    def options(self, offer: Capabilities, given: Pairs) -> Pairs:
        """Return a job's options and the provider's, as the API's model reads them; a FieldError refuses one."""
        if offer.options is None:
            return given
        known, takes_all = key_names(offer.options), offer.options.model_config.get("extra") == "allow"
        of_provider = {} if self._provider.simulated else self._provider.options
        own = {name: value for name, value in of_provider.items() if takes_all or name in known}
        merged = {**own, **dict(given)}
        if not merged:
            return ()
        for name in offer.option_files:
            if isinstance(path := merged.get(name), str):
                merged[name] = _held(self._base / path, name)
        for name, message in option_faults(merged, offer):
            raise FieldError(f"options.{name}", message)
        made = offer.options.model_validate(merged).model_dump(mode="json", by_alias=True, exclude_unset=True)
        return tuple(made.items())


def _carries(offer: Capabilities, name: str) -> bool:
    return offer.options is not None if name == "options" else name in offer.fields
