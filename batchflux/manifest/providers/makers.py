"""Who makes each job of a manifest: the provider that it names, and those that take over when that one cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from batchflux.errors import quoted
from batchflux.manifest.providers.config import SIMULATOR
from batchflux.manifest.providers.offers import Offers
from batchflux.manifest.reading.diagnostics import FieldError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from batchflux.capabilities import Capabilities
    from batchflux.manifest.providers.offers import Pairs
    from batchflux.manifest.providers.settings import ProviderConfig
    from batchflux.manifest.schema import Manifest
    from batchflux.models import Job, Way


class Carried(NamedTuple):
    """Who makes a job, and by what; `wanted` is the style that was asked for."""

    offers: Offers
    offer: Capabilities
    wanted: str

    def refusals(self, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield each field that cannot be as it is, with the reason and the remedy."""
        return self.offers.refusals(self.offer, values, self.wanted)


class Makers:
    """The providers of a manifest with what each can carry, for its jobs to choose among."""

    def __init__(self, manifest: Manifest, offers: Sequence[Capabilities]) -> None:
        self._manifest = manifest
        self._by_name = {name: Offers(manifest, name, offers) for name in manifest.providers}

    def named(self, name: str) -> Offers:
        """Return what a provider of the manifest can carry."""
        return self._by_name[name]

    def choose(self, values: dict[str, Any], *, says_so: bool) -> Offers:
        """Return who makes a job, and note it in its values; ValueError: it names none of the manifest's providers.

        `says_so`: the job itself or an axis names it, so that the job's key does, too, whoever makes it in the end.
        """
        manifest, said = self._manifest, values.get("provider")
        name = said or manifest.provider.name
        if name not in self._by_name and (manifest.several or not manifest.chosen):
            raise ValueError(f"found the provider {not_listed(name, manifest.providers)}")
        values["key_provider"] = name if says_so and said else None
        values["provider"] = manifest.provider.name if manifest.chosen else name
        return self._by_name[values["provider"]]

    def carried(self, values: dict[str, Any], *, says_so: bool) -> Carried:
        """See who makes a job, by which style, and what of it travels; note it in its values, where it is given.

        Raises FieldError: a field names what nobody has, or cannot be carried by anybody. For `says_so` see `choose`.
        """
        said, given = values.get("provider"), values["options"]
        try:
            offers = self.choose(values, says_so=says_so)
        except ValueError as error:
            raise FieldError("provider", str(error), kind=str(said)) from None
        values["model"] = values.get("model") or offers.provider.model
        values["variant"] = values.get("variant") or 1
        wanted = values.get("style") or offers.provider.style
        try:
            offer = offers.choose(wanted, values["model"], values["images"])
        except ValueError as error:
            raise FieldError("style", str(error), kind=wanted) from None
        values["options"] = offers.options(offer, given)
        values["style"] = offer.style
        values["dropped"] = offers.dropped(offer, values)
        values["fallbacks"] = self.fallbacks(values, given)
        return Carried(offers, offer, wanted)

    def fallbacks(self, values: Mapping[str, Any], given: Pairs) -> tuple[Way, ...]:
        """Return how others make a job when its provider cannot; not one that says who does.

        `given` are its options as they were written.
        """
        manifest, own = self._manifest, values["provider"]
        if not manifest.fallback or manifest.chosen or values["key_provider"] is not None:
            return ()
        api = manifest.providers[own].api
        ways = (self._by_name[name].way(values, given, api) for name in manifest.fallback if name != own)
        return tuple(way for way in ways if way is not None)

    def again(self, job: Job) -> tuple[Way, ...]:
        """Return those of a job's fallbacks that can carry what it became since, a redo with another seed, say."""
        ways = (self._by_name[way.provider].again(job, way) for way in job.fallbacks)
        return tuple(way for way in ways if way is not None)


def not_listed(name: str, listed: Mapping[str, object]) -> str:
    """Say of a name that was found that no provider has it, and which there are."""
    return f"{quoted(name)}, which is no provider of this manifest; {nearest(name, listed)}"


def api_in_keys(provider: ProviderConfig) -> str:
    """Return what stands in a job's key for what makes it."""
    return SIMULATOR if provider.simulated else provider.api
