"""A client's manifest as calls.

It comes from outside, so it may say what pictures it wants and nothing else: no table, file, pattern, bucket, provider,
folder or variable of this machine is looked at for it. Making it into calls sends and buys nothing.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from math import prod
from typing import TYPE_CHECKING, Any

from batchflux.errors import Fault, ManifestError, quoted
from batchflux.gateway.orders import RefusalError
from batchflux.gateway.reading.parameters import ORDERED
from batchflux.manifest.entries import read_entries
from batchflux.manifest.expansion import expand
from batchflux.manifest.loader import FREE
from batchflux.manifest.reading.diagnostics import Faults, check_sound
from batchflux.manifest.reading.values import is_nothing
from batchflux.manifest.reading.yaml_nodes import Items, Table, found, read_tree
from batchflux.manifest.schema import Defaults, OutputConfig
from batchflux.models import Reference
from batchflux.photos import Photos

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from batchflux.capabilities import Capabilities
    from batchflux.manifest import Manifest
    from batchflux.manifest.reading.yaml_nodes import KeyPath, Node
    from batchflux.manifest.schema import Entry
    from batchflux.models import Job

MOST_BYTES = 1 << 20  # of a manifest
MOST_JOBS = 1000
MOST_TEXT = 4 << 20  # characters of all prompts together, which templates make longer than the manifest
MOST_READ = 16 << 20  # characters that templates go through: of each entry, as often as it is rendered
_NAME = "manifest"  # what messages call the text
_TOP = frozenset({"version", "name", "defaults", "jobs"})
_FIELDS = frozenset({"id", "prompt", "image", "images", "model", "provider", "variant", "tags", *ORDERED})
_ENTRY = _FIELDS | {"matrix", "zip", "exclude"}


class _Links(Photos):
    """References of jobs that come from outside: addresses of the web alone; no file is looked for."""

    def reference(self, source: str) -> Reference:
        return Reference(source=source, fault=_no_link(source))

    def object(self, address: str) -> Reference:
        return self.reference(address)


def _no_link(source: str) -> str:
    return f"the reference {quoted(source)} is no address of the web, and no files or buckets are read here"


def expanded(
    manifest: Manifest, offers: Sequence[Capabilities], models: Mapping[tuple[str, str], str], text: bytes
) -> dict[str, Any]:
    """Return the calls that a client's manifest comes to, as JSON, and what they cost at most.

    `manifest` is the gateway's own; `models` has what clients call each model, by it and its provider. Jobs with tags
    lose them. Blocks, since it renders templates. RefusalError: with what is wrong first.
    """
    faults = Faults(_NAME)
    try:
        root = _tree(text, faults)
        _allowed(root, faults)
        _raise(faults)
        entries = read_entries(root, check_sound(Defaults, _defaults(root), ("defaults",), faults)[0], faults)
        _raise(faults)
        _check_sizes(root, entries, faults)
        _raise(faults)
        jobs = [*_jobs(manifest, offers, entries, faults)]
    except ManifestError as error:
        raise _refused(str(error.faults[0])) from None
    _raise(faults)
    if not jobs:
        raise _refused("all of its jobs are excluded")
    prices = [manifest.providers[job.provider].price_of(job.model) for job in jobs]
    cost = None if None in prices else f"{sum(filter(None, prices), Decimal(0)):f}"
    return {"jobs": [_call(job, models) for job in jobs], "cost": cost, "currency": manifest.currency}


def text_of(body: Mapping[str, Any]) -> bytes:
    """Return the text of the manifest in a body; RefusalError."""
    text = body.get("manifest")
    if not isinstance(text, str):
        raise _refused('send {"manifest": "..."}, the text of a manifest')
    data = text.encode("utf-8", "surrogatepass")
    if len(data) > MOST_BYTES:
        raise _refused(f"the manifest has {len(data)} bytes; at most {MOST_BYTES} are read")
    return data


def _tree(data: bytes, faults: Faults) -> Table:
    root = read_tree(data, _NAME, faults.note)
    if not isinstance(root, Table):
        raise _refused(f"found {found(root)}; a manifest is a mapping with jobs")
    return root


def _defaults(root: Table) -> Node:
    return root.pairs.get("defaults") or Table(root.line)


def _allowed(root: Table, faults: Faults) -> None:
    """Note what a client's manifest says that is the gateway's to say, or would be read from its machine."""
    for key, line in root.lines.items():
        if key not in _TOP and not key.startswith(FREE):
            faults.add(line, (key,), "is the gateway's own; a manifest that comes to it has name, defaults and jobs")
    defaults, jobs = root.pairs.get("defaults"), root.pairs.get("jobs")
    parts: list[tuple[KeyPath, Node | None, frozenset[str]]] = [(("defaults",), defaults, _FIELDS)]
    if isinstance(jobs, Items):
        parts += [(("jobs", index), node, _ENTRY) for index, node in enumerate(jobs.items)]
    for path, node, allowed in parts:
        table = node if isinstance(node, Table) else Table(root.line)
        for key, value in table.pairs.items():
            if key not in allowed and not is_nothing(value):
                faults.add(table.lines[key], (*path, key), "does not reach a gateway; remove it")


def _check_sizes(root: Table, entries: Sequence[Entry], faults: Faults) -> None:
    """Note axes that are read from files, and more jobs or work than is done, before any value is made."""
    listed, jobs, read = root.pairs["jobs"], 0, 0
    for entry in entries:
        path = "jobs", entry.index
        for axis in entry.axes:
            if axis.kind not in {"list", "range"}:
                message = f"{axis.kind} reads files, and none are read here; write a list"
                faults.add(axis.line, (*path, axis.place, axis.name), message)
        zipped = [axis.least() for axis in entry.axes if axis.zipped]
        many = prod(axis.least() for axis in entry.axes if not axis.zipped) * max(zipped, default=1)
        jobs += many
        if isinstance(listed, Items):
            read += many * (_size(listed.items[entry.index]) + _size(_defaults(root)))
        if jobs > MOST_JOBS:
            faults.add(entry.line, path, f"these are more than {MOST_JOBS} jobs; make several manifests of them")
            return
    if read > MOST_READ:
        faults.add(
            root.line, ("jobs",), f"their texts, each as often as it is read, have more than {MOST_READ} characters"
        )


def _size(node: Node) -> int:
    """Return how many characters are below a node, whoever reads them."""
    if isinstance(node, Table):
        return sum(len(key) + _size(child) for key, child in node.pairs.items())
    return sum(map(_size, node.items)) if isinstance(node, Items) else len(node.text) + 1


def _jobs(
    manifest: Manifest, offers: Sequence[Capabilities], entries: tuple[Entry, ...], faults: Faults
) -> Iterator[Job]:
    output = manifest.output.model_copy(update={"file_name": OutputConfig().file_name})
    listed = replace(manifest, display=_NAME, output=output, entries=entries, served=False)
    made = expand(listed, offers, faults.note).decoding(_Links(manifest.base))
    texts = 0
    for job in made:
        texts += len(job.prompt)
        fault = job.fault
        if fault is None and texts > MOST_TEXT:
            fault = f"the prompts have more than {MOST_TEXT} characters together; make several manifests of them"
        if fault is not None:
            faults.note(Fault(file=_NAME, line=None, where="", message=fault))
            return
        yield job


def _call(job: Job, models: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """Return one job as a client calls for it."""
    model = models.get((job.model, job.provider))
    if model is None:
        raise _refused(f"the model {quoted(job.model)} is none of this gateway's; it has {', '.join(models.values())}")
    given = {name: getattr(job, name) for name in sorted(ORDERED)}
    return {
        "id": job.id,
        "prompt": job.prompt,
        "model": model,
        "images": [image.url for image in job.images],
        **{name: value for name, value in given.items() if value is not None},
        "idempotency_key": job.key,
    }


def _raise(faults: Faults) -> None:
    if faults.found:
        raise _refused(str(faults.in_order()[0]))


def _refused(message: str) -> RefusalError:
    return RefusalError(400, "invalid_manifest", f"{message.removesuffix('.')}.", param="manifest")
