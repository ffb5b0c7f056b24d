"""What else is wrong with a manifest that has faults: what of it is sound is expanded, so that all are told at once."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from batchflux.manifest.entries import APART, Plan
from batchflux.manifest.expansion import expand
from batchflux.manifest.job_fields import AUTO
from batchflux.manifest.reading.yaml_nodes import MERGE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchflux.capabilities import Capabilities
    from batchflux.manifest.reading.diagnostics import Faults
    from batchflux.manifest.schema import Entry, Manifest

MAX_SALVAGED = 100_000  # jobs looked at; a manifest that has faults need not be read to its end to be sent back
_NO_PARAMS = frozenset({"name", "model", "base_url", "keys", "price", "currency", "options"})
_NEVER_EQUAL = "{{ key }}.{{ ext }}"


def compile_all(manifest: Manifest, faults: Faults) -> None:
    """Note the faults that entries have without their rows."""
    faulty = faults.below("jobs")
    for entry in _judged(manifest, faults):
        if MERGE not in faulty.get(str(entry.index), ()):  # what should have been merged may be all that it lacks
            Plan(entry, manifest, faults.note)


def note_expansion(manifest: Manifest, offers: Sequence[Capabilities], faults: Faults) -> None:
    """Note what else is wrong with a manifest that has faults, by expanding what of it is sound.

    No fault is noted that mending the others would take away. So an entry goes without its faulty fields, or is left
    out; and what faults of `provider` and output.file_name may hide is taken as it suits.
    """
    faulty = faults.below("jobs")
    of_provider = {*faults.below("provider"), *(key for keys in faults.below("providers").values() for key in keys)}
    known = {offer.api for offer in offers}
    if of_provider & {"", "name", "api", "style"} and not all(one.api in known for one in manifest.providers.values()):
        return
    judged = (_sound(entry, faulty.get(str(entry.index), set())) for entry in _judged(manifest, faults))
    mended: dict[str, Any] = {
        "options": ({}, bool(of_provider & {"options"})),
        "price": (Decimal(0), bool(of_provider & {"", "name", "api", "base_url", "price"})),
        "style": (AUTO, "style" in of_provider),
        "params": ("drop", bool(of_provider - _NO_PARAMS)),
    }
    output, update = manifest.output, {name: value for name, (value, unsure) in mended.items() if unsure}
    providers = {name: one.model_copy(update=update) for name, one in manifest.providers.items()}
    provider = providers[manifest.provider.name]
    if "file_name" in faults.below("output"):
        output = output.model_copy(update={"file_name": _NEVER_EQUAL})
    entries = tuple(entry for entry in judged if entry is not None)
    sound = replace(manifest, entries=entries, provider=provider, providers=providers, output=output)
    for _ in expand(sound, offers, faults.note, most=MAX_SALVAGED):
        pass


def _sound(entry: Entry, faulty: set[str]) -> Entry | None:
    """Return the entry without its faulty fields; None when there is no saying what the rest means."""
    if not faulty <= APART:
        return None
    bad = faulty | {"images"} if "image" in faulty else faulty
    return replace(entry, fields={name: value for name, value in entry.fields.items() if name not in bad})


def _judged(manifest: Manifest, faults: Faults) -> Iterator[Entry]:
    """Yield the entries that have a prompt, or certainly lack one."""
    unsure = bool(faults.below("defaults"))
    for entry in manifest.entries:
        if not unsure or "prompt" in entry.fields or any(axis.name == "prompt" for axis in entry.axes):
            yield entry
