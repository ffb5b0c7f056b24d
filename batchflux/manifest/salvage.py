"""What else is wrong with a manifest that has faults: found by expanding what of it is sound, in the same go.

The rule: no fault is told that repairing the others would take away. So an entry goes without its faulty fields, and
is left out when the rest depends on them, or when a faulty `defaults` may have been to give its prompt; what a style
cannot carry is not told when a fault of `provider` may hide a `params: drop`; and file names are compared only when
output.file_name is sound.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from batchflux.manifest.compile import compile_entry
from batchflux.manifest.entries import APART
from batchflux.manifest.expansion import expand
from batchflux.manifest.yaml_nodes import MERGE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchflux.manifest.diagnostics import Faults
    from batchflux.manifest.schema import Entry, Manifest
    from batchflux.models import Capabilities

MAX_JOBS = 100_000  # looked at; a manifest that has faults need not be read to its end to be sent back

_NO_PARAMS = frozenset({"name", "model", "base_url", "keys", "price", "currency", "options"})
_NEVER_EQUAL = "{{ key }}.{{ ext }}"


def compile_all(manifest: Manifest, faults: Faults) -> None:
    """Note the faults that entries have without their rows."""
    faulty = faults.below("jobs")
    for entry in _judged(manifest, faults):
        if MERGE in faulty.get(str(entry.index), ()):
            continue  # what should have been merged may be all that it lacks
        compile_entry(entry, manifest, faults.note)


def note_expansion(manifest: Manifest, styles: Mapping[str, Capabilities], faults: Faults) -> None:
    """Note the faults of expanding the sound entries of a manifest that has faults, up to MAX_JOBS jobs."""
    faulty = faults.below("jobs")
    judged = (_sound(entry, faulty.get(str(entry.index), set())) for entry in _judged(manifest, faults))
    entries = tuple(entry for entry in judged if entry is not None)
    provider, output = manifest.provider, manifest.output
    if faults.below("provider").keys() - _NO_PARAMS:
        provider = replace(provider, params="drop")
    if "file_name" in faults.below("output"):
        output = replace(output, file_name=_NEVER_EQUAL)
    sound = replace(manifest, entries=entries, provider=provider, output=output)
    for _ in expand(sound, styles, faults.note, most=MAX_JOBS):
        pass


def _sound(entry: Entry, faulty: set[str]) -> Entry | None:
    """The entry without its faulty fields; None when there is no telling what the rest means."""
    if not faulty <= APART:
        return None
    bad = faulty | {"images"} if "image" in faulty else faulty
    return replace(entry, fields={name: value for name, value in entry.fields.items() if name not in bad})


def _judged(manifest: Manifest, faults: Faults) -> Iterator[Entry]:
    """The entries that have a prompt, or certainly lack one."""
    unsure = bool(faults.below("defaults"))
    for entry in manifest.entries:
        if not unsure or "prompt" in entry.fields or any(axis.name == "prompt" for axis in entry.axes):
            yield entry
