"""Makes jobs of orders, by the rules of any manifest: who makes them, what of them travels, and what is refused.

What an order asks is kept as JSON, from which its jobs are made again after a restart; pictures that came with it are
files of the output folder by then, named by their bytes.
"""

from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from batchflux.engine.shutdown import STORAGE
from batchflux.errors import quoted
from batchflux.gateway.addresses import leads_inside
from batchflux.gateway.answering import errors
from batchflux.gateway.orders import Order, Picture, RefusalError
from batchflux.gateway.uploads import Uploads
from batchflux.ledger.books.calls import FIRST_POSITION
from batchflux.manifest.identity import FOLDER, default_id, key_of, key_of_job, redo_id
from batchflux.manifest.job_fields import READERS
from batchflux.manifest.providers.makers import Makers, api_in_keys
from batchflux.manifest.reading.diagnostics import FieldError
from batchflux.manifest.redo import choose
from batchflux.manifest.sameness import parted
from batchflux.models import Job
from batchflux.output.base import SUFFIXES, UPLOADS
from batchflux.providers import capabilities

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from batchflux.manifest import Manifest
    from batchflux.manifest.redo import Redo
    from batchflux.models import Reference
    from batchflux.photos import Photos


_LOOKED_AT = re.compile("[:;] looked at ")  # as `photos` says where a file is not, or cannot be read
_LOGGER = logging.getLogger("batchflux.gateway")


class Model(NamedTuple):
    """What can be asked for by `id`: a provider's model, and its price as a decimal number, where one is known."""

    id: str
    model: str
    provider: str
    price: str | None
    currency: str


class Maker:
    """Makes the jobs of a gateway over `manifest`; `photos` are its references. Methods block: they read and decode."""

    def __init__(self, manifest: Manifest, photos: Photos) -> None:
        self._manifest, self._photos = manifest, photos
        self._makers = Makers(manifest, capabilities())
        self._uploads = Uploads(manifest.output.dir)
        self._allowed = tuple(host for provider in manifest.providers.values() for host in provider.allow_hosts)

    def models(self) -> list[Model]:
        """Return what can be asked for; what the manifest's own provider has comes first."""
        manifest, found = self._manifest, list[tuple[str, str]]()
        named = sorted(manifest.providers, key=lambda name: name != manifest.provider.name)
        for name in named:
            provider = manifest.providers[name]
            priced = provider.price if isinstance(provider.price, dict) else {}
            found += [(model, name) for model in dict.fromkeys((provider.model, *priced)) if model]
        models = [model for model, _ in found]
        return [
            Model(m if models.count(m) == 1 else f"{name}/{m}", m, name, self._price(name, m), manifest.currency)
            for m, name in found
        ]

    def _price(self, provider: str, model: str) -> str | None:
        price = self._manifest.price_of(provider, model)
        return None if price is None else format(price, "f")

    def kept(self, order: Order) -> str:
        """Keep the pictures of an order, and return what it asks as JSON; `settle` says what became of it.

        RefusalError: one is no picture, or cannot be kept.
        """
        asked: dict[str, Any] = {"prompt": order.prompt, "model": order.model, "fields": dict(order.fields)}
        asked["count"] = order.count
        asked["images"] = []
        try:
            for image in order.images:
                asked["images"].append(self._source(image, "image"))
            asked |= {} if order.mask is None else {"mask": self._source(order.mask, "mask")}
        except BaseException:
            self.settle(json.dumps(asked), called=False)
            raise
        return json.dumps(asked, ensure_ascii=False, sort_keys=True)

    def settle(self, asked: str, *, called: bool) -> None:
        """End an order: `called`, a call on record is of it; else its pictures need not be kept."""
        said = json.loads(asked)
        paths = [Path(os.path.normpath(self._manifest.base / source)) for source in _files(said)]
        self._uploads.settle([path for path in paths if path.parent.name == UPLOADS], called=called)

    def _source(self, picture: Picture, param: str) -> str:
        """Return what a reference is written as: an address, or a path from the manifest's folder."""
        if picture.url is not None:
            return picture.url
        path = self._uploads.keep(picture.data or b"", param) if picture.path is None else picture.path
        return os.path.relpath(path, self._manifest.base)

    def job(self, asked: str) -> Job:
        """Return the first variant of what is asked, which `take` names; RefusalError says what cannot be made."""
        said = json.loads(asked)
        provider, model = self._resolved(said["model"])
        values: dict[str, Any] = {"options": (), "tags": (), "model": model, "provider": provider}
        values |= dict(self._fields({"prompt": said["prompt"], **said["fields"]}))
        urls, values["prompt"] = parted(values["prompt"])
        values["images"] = tuple(map(self._reference, (*urls, *said["images"])))
        values |= {"mask": self._reference(said["mask"])} if "mask" in said else {}
        try:
            carried = self._makers.carried(values, says_so=provider is not None and self._names_provider(said["model"]))
        except FieldError as error:
            raise _refused(error.key, _without_places(str(error), said)) from None
        for name, message in carried.refusals(values):
            raise _refused(name, _without_places(message, said))
        values["key"] = key_of(values, api_in_keys(carried.offers.provider))
        job = Job(**values, id="", file_name="", position=FIRST_POSITION)
        job = next(self._photos.judged([job]))
        for image in job.references:
            _check_usable(image)
        return job

    def take(self, job: Job, variant: int, position: int) -> Job:
        """Return the same job as this variant, by its own names."""
        api = api_in_keys(self._manifest.providers[job.provider])
        key = job.key if variant == job.variant else key_of_job(replace(job, variant=variant), api)
        name = default_id(job.prompt, key, long=True)
        suffix = SUFFIXES[job.output_format or "jpeg"][0]
        place = f"{FOLDER}{name}{suffix}"
        return replace(job, variant=variant, key=key, id=name, file_name=place, position=position)

    def redo(self, root: Job, parent: Job, redo: Redo, free: Callable[[str], bool]) -> Job:
        """Return the job that tries `parent` again, which goes back to `root`: the first choice whose key is `free`."""
        offers = self._makers.named(parent.provider)
        offer = offers.of(parent.style, parent.model)
        job = choose(parent, redo, offer, api_in_keys(offers.provider), free)
        name, suffix = redo_id(root.id, redo.ordinal), SUFFIXES[job.output_format or "jpeg"][0]
        ways, place = self._makers.again(job), f"{FOLDER}{name}{suffix}"
        return replace(job, id=name, file_name=place, position=root.position, fallbacks=ways)

    def _resolved(self, asked: str) -> tuple[str | None, str | None]:
        """Return provider and model of what a client calls a model; both None: the manifest's own."""
        if not asked:
            return None, None
        own = self._manifest.provider.name
        for one in self.models():
            if asked in {one.id, f"{one.provider}/{one.model}"}:
                return (None if one.provider == own and asked == one.model else one.provider), one.model
        if asked in self._manifest.providers:
            return asked, None
        names = ", ".join(one.id for one in self.models())
        message = f"The model {quoted(asked)} is none of this gateway's; it has {names}."
        raise RefusalError(404, "model_not_found", message, param="model")

    def _names_provider(self, asked: str) -> bool:
        """Whether what was asked for names the provider itself, so that no other is to make it."""
        return asked in self._manifest.providers or asked.partition("/")[0] in self._manifest.providers

    def _fields(self, said: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
        for name, text in said.items():
            try:
                yield name, READERS[name](text)
            except ValueError as error:
                raise _refused(name, str(error)) from None

    def _reference(self, source: str) -> Reference:
        # What a client wrote is an address, however its scheme is spelled, or it would be a path; ours has no `//`.
        if "://" in source and leads_inside(source, self._allowed):
            message = (
                "A link of this request leads into a private network; it was not followed, and nothing was bought."
            )
            raise RefusalError(400, "unsafe_url", message, param="image")
        made = self._photos.url(source) if "://" in source else self._photos.reference(source)
        _check_usable(made)
        return made


def _check_usable(image: Reference) -> None:
    """Refuse a picture that cannot be sent; where a file of ours lies, or why it cannot be read, no client is told."""
    if image.fault is None:
        return
    why = image.fault
    if image.path is not None:
        why = _LOOKED_AT.split(why.replace(f"the reference {image.source}", "a picture", 1))[0]
    if why.startswith("a picture cannot be read"):
        _LOGGER.error("%s", image.fault)
        raise errors.refusal(STORAGE, billed=False)
    raise RefusalError(400, "invalid_image", f"{why}.", param="image")


def _without_places(message: str, said: Mapping[str, Any]) -> str:
    """Return a message without the paths of uploads: where they lie is not the client's business."""
    for source in _files(said):
        message = message.replace(source, "that was uploaded")
    return message


def _files(said: Mapping[str, Any]) -> list[str]:
    """Return the pictures of an order that are files, as it writes them."""
    sources = [*said["images"], *([said["mask"]] if "mask" in said else [])]
    return [source for source in sources if "://" not in source]


def _refused(name: str, message: str) -> RefusalError:
    return RefusalError(400, "invalid_value", f"{name}: {message}.", param=name)
