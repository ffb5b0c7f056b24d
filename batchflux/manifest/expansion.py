"""The stream of jobs: entries in order, in each its rows in order, in each row the matrix in order.

A faulty job is reported and left out, and nothing holds more than one row. A job with the key of an earlier one is that
job: counted as merged, not made again. After MAX_FAULTS faults the expansion ends. Redos that people asked for come
last, so that a job of the manifest never has to make way for one; their place (`position`) is their job's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from batchflux.errors import ReadError
from batchflux.manifest.entries import Plan
from batchflux.manifest.identity import Names, default_id, former_key, key_of, mark, references
from batchflux.manifest.job_fields import reference, tag
from batchflux.manifest.providers.makers import Makers, api_in_keys
from batchflux.manifest.reading.diagnostics import (
    Causes,
    FieldError,
    entry_fault,
    job_fault,
    row_fault,
    unknown_variable,
)
from batchflux.manifest.reading.objects import is_object
from batchflux.manifest.reading.yaml_nodes import Scalar, plain_data
from batchflux.manifest.redo import choose
from batchflux.manifest.rows import as_written, of_paths, references_in, without_blanks
from batchflux.manifest.sameness import parted
from batchflux.manifest.templates import BlankError, Compiled, UndefinedError
from batchflux.models import Job

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchflux.capabilities import Capabilities
    from batchflux.errors import Fault
    from batchflux.manifest.identity import KnownBefore
    from batchflux.manifest.providers.offers import Offers
    from batchflux.manifest.redo import Redos
    from batchflux.manifest.rows import Row
    from batchflux.manifest.schema import Entry, Manifest
    from batchflux.models import Reference
    from batchflux.photos import Photos

MAX_FAULTS = 1000
SAME = 3  # merged jobs that are named
_NO_REFERENCE = "skip_empty: true leaves such rows out, allow_empty: true makes the job without it"


Variables = Mapping[str, Any]  # what templates see


class _EndError(Exception):
    """Nobody reads more faults, or wants more jobs."""


class _SkipError(Exception):
    """The row has no reference and is to be left out."""


class Expansion:
    """The jobs of a manifest, in order, made as they are asked for. Iterating again starts anew.

    `offers` is what APIs can carry, one for each call style of each. `on_fault` takes each fault; the job it belongs to
    is not yielded. No more jobs than `most` are looked at, faulty and merged ones counted. `redos` is what people asked
    to have tried again; it learns what became of each. `known_as` finds what a ledger has a job by, from its key,
    the one that it had before, and the one of the style that it goes by with or without `references.publish`; such a
    job keeps both key and id. `merged` counts the jobs left out so far
    because an earlier one has their key, `same` names the first of them; `faults` counts the faults reported.
    `tables` says of each table what was assumed and left out so far.
    """

    def __init__(
        self,
        manifest: Manifest,
        offers: Sequence[Capabilities],
        on_fault: Callable[[Fault], None],
        *,
        most: int | None = None,
        redos: Redos | None = None,
        known_as: KnownBefore | None = None,
    ) -> None:
        self._manifest = manifest
        self._makers = Makers(manifest, offers)
        self._redos = redos
        self._photos: Photos | None = None
        self._known_as = known_as
        self._on_fault = on_fault
        self._most = most
        self.merged = self.faults = 0
        self.same: list[str] = []
        self.tables: list[dict[str, Any]] = []
        self._leads = bytearray()

    def decoding(self, photos: Photos | None) -> Expansion:
        """Have these photos decoded, so that a job's fault tells what is wrong with any; None: they are only found."""
        self._photos = photos
        return self

    def __iter__(self) -> Iterator[Job]:
        return self._jobs() if self._photos is None else self._photos.judged(self._jobs())

    def _jobs(self) -> Iterator[Job]:
        self._looked_at = self._made = self.merged = self.faults = 0
        self.same = []
        self._reference = references(self._photos or self._manifest.photos())
        self._keys: set[int] = set()
        self.tables, self._leads = [], bytearray()
        self._names = Names(self._manifest)
        self._causes = Causes(self._on_fault)
        try:
            for entry in self._manifest.entries:
                yield from self._entry(entry)
            if self._redos is not None:
                yield from self._redone(self._redos)
        except _EndError:
            pass
        self._causes.close(self._manifest, cut=self.faults >= MAX_FAULTS)

    @property
    def renamed(self) -> tuple[int, str]:
        """How many file names of the jobs so far were changed to what Windows has, too, and the first of them."""
        return self._names.changed

    def _report(self, fault: Fault) -> None:
        self.faults += 1
        self._causes.take(fault)
        if self.faults >= MAX_FAULTS:
            raise _EndError

    def _entry(self, entry: Entry) -> Iterator[Job]:
        self._plan = plan = Plan(entry, self._manifest, self._report)
        if not plan.sound:
            return
        self._reported: set[tuple[str, str]] = set()
        kept = plan.choices()
        bare, redos, most = plan.bare, self._redos, self._most
        for line, row in self._rows(entry):
            self._line: int | None = line
            self._skipped, leads = False, True
            for seen, fields in kept if isinstance(kept, list) else plan.choices():
                if self._looked_at == most:
                    raise _EndError
                self._looked_at += 1
                self._failed = False
                self._seen = seen
                job = self._job(row if bare else {**row, **seen, "row": row}, fields)
                if job is not None:
                    if redos is not None:
                        redos.met(job)
                    self._leads.append(leads)
                    leads = False
                    yield job
            if self._skipped:
                self._note["skip_empty"] = self._note.get("skip_empty", 0) + 1

    def leads(self, job: Job) -> bool:
        """Whether a job that was made is the first of its row, or of an entry without a table."""
        return bool(self._leads[job.position])

    def place(self) -> tuple[int, int | None, tuple[tuple[str, str], ...]]:
        """Return where the last job comes from: its entry, its line in the table, and its axes' values as text."""
        return self._plan.entry.index, self._line, tuple((name, str(value)) for name, value in self._seen.items())

    def _rows(self, entry: Entry) -> Iterator[tuple[int | None, Row]]:
        table, view = self._plan.table, self._plan.view
        if table is None:
            yield None, {}
            return

        def report(line: int | None, message: str) -> None:
            self._report(row_fault(self._manifest, entry, line, "from", message))

        note: dict[str, Any] = {"table": self._manifest.beside(entry.source or ""), "rows": 0, **table.assumed}
        self._note = note
        self.tables.append(note)
        before, rows, left_out = self.faults, 0, 0
        try:
            for line, row in table.source.rows(report):
                rows += 1
                seen = view.of(row)
                if view.where is None or self._keeps(line, seen):
                    yield line, seen
                else:
                    left_out += 1
        except ReadError as error:
            report(error.line, error.message)
        finally:
            left = {"blank_rows": table.source.blank_rows, "where": left_out}
            note.update({"rows": rows, **{name: number for name, number in left.items() if number}})
        if not rows and self.faults == before:
            report(None, "has no rows; add one for each job")

    def _keeps(self, line: int, seen: Row) -> bool:
        """Whether `where` keeps a row; not one that it fails on, which is reported."""
        try:
            return self._plan.view.keeps(seen)
        except ValueError as error:
            self._line = line
            self._fail("where", error, seen)
            return False

    def _redone(self, redos: Redos) -> Iterator[Job]:
        """Yield the redos, but for those whose very job the manifest lists by now."""
        for root, parent, redo in redos.wanted():
            offers = self._makers.named(parent.provider)
            offer, api = offers.of(parent.style, parent.model), api_in_keys(offers.provider)
            job = choose(parent, redo, offer, api, lambda key: not redos.is_known(key) and self._is_new(key))
            if redo.variant is not None and not self._is_new(job.key):
                self._merge(root.id)
                continue
            name, file_name = self._names.redo(root, redo.ordinal, job.key)
            ways = self._makers.again(job)
            job = replace(job, id=name, file_name=file_name, position=root.position, fallbacks=ways)
            redos.made(redo, root, job)
            yield job

    def _is_new(self, key: str) -> bool:
        """Take a key; False when a job has it already."""
        before = len(self._keys)
        self._keys.add(mark(key))
        return len(self._keys) != before

    def _merge(self, name: str) -> None:
        """Leave out a job, so called, that an earlier one has the key of."""
        self.merged += 1
        if len(self.same) < SAME:
            self.same.append(name)

    def _origin(self) -> str:
        """Return where a job without an id comes from, as faults say it."""
        source = self._plan.entry.source
        return f"jobs[{self._plan.entry.index}]" if source is None else f"{self._manifest.beside(source)}:{self._line}"

    def _job(self, variables: Variables, chosen: dict[str, Any]) -> Job | None:
        """Make the job of one row and one choice of axis values; None when it is faulty or merged."""
        plan = self._plan
        values = {**plan.constants, **chosen}
        if plan.images:
            try:
                found = [self._images(key, part, variables) for key, part in plan.images]
            except _SkipError:
                self._skipped = True
                return None
            values["images"] = tuple(chain.from_iterable(found))
        for name, compiled, render, read in plan.dynamic:
            try:
                try:
                    text = render(variables)
                except BlankError as error:
                    text = self._without_cell(name, compiled, variables, error)
                values[name] = read(text)
            except ValueError as error:
                self._fail(name, error, variables)
        for name, items in plan.pairs:
            read = _READ_PAIRS[name]
            values[name] = tuple([(label, self._value(key, part, read, variables)) for label, key, part in items])
        if self._failed:
            return None
        prompt = values["prompt"]
        urls, values["prompt"] = parted(prompt)
        if values["images"]:
            values["images"] = tuple(map(self._referenced, values["images"]))
        images = values["images"]
        if urls:
            values["images"] = (*map(self._reference, urls), *images)
        return self._carried(values, variables, prompt, images)

    def _carried(
        self, values: dict[str, Any], variables: Variables, prompt: str, images: tuple[Reference, ...]
    ) -> Job | None:
        """See by which style the job goes and what of it travels; `prompt` and `images` are as they were written."""
        if mask := values.get("mask"):
            values["mask"] = self._referenced(mask)
        try:
            carried = self._makers.carried(values, says_so=self._plan.entry.names_provider)
        except FieldError as error:
            if error.kind is None:
                self._fail(error.key, error, variables)
            else:
                self._once(error.key, error.kind, str(error), values)
            return None
        offers, offer = carried.offers, carried.offer
        values["key"] = key_of(values, api_in_keys(offers.provider))
        self._twin = self._key_by(offers, offers.other(offer, carried.wanted, values["images"]), values)
        for name, message in carried.refusals(values):
            self._once(name, f"{values['model']} {offer.style} {offers.provider.name}", message, values)
        return self._identified(values, variables, prompt, images)

    def _key_by(self, offers: Offers, offer: Capabilities | None, values: dict[str, Any]) -> str | None:
        """Return the key that a job has by another style; None without one, or where it cannot carry the same."""
        if self._known_as is None or offer is None:
            return None
        made = {**values, "style": offer.style, "dropped": offers.dropped(offer, values)}
        return key_of(made, api_in_keys(offers.provider)) if made["dropped"] == values["dropped"] else None

    def _recorded(self, values: dict[str, Any], prompt: str, images: tuple[Reference, ...]) -> tuple[bool, str | None]:
        """Give a job the key that the ledger has it by; return whether it is new here, and its id there."""
        key, had = values["key"], None
        is_new = self._is_new(key)
        if self._known_as is not None:
            former = partial(former_key, values, values["provider"], prompt, images)
            known = self._known_as(key, former, self._twin)
            if known is not None:
                values["key"], had = known
            if values["key"] != key:
                values["alias"] = key if is_new and values["key"] != self._twin else None
                is_new = self._is_new(values["key"])
        return is_new, had

    def _identified(
        self, values: dict[str, Any], variables: Variables, prompt: str, images: tuple[Reference, ...]
    ) -> Job | None:
        """Give the job its names, unless it failed or was met before."""
        if self._failed:
            return None
        is_new, had = self._recorded(values, prompt, images)
        if not is_new:
            self._merge(values.get("id") or self._origin())
            return None
        try:
            self._names.give(values, variables, self._plan.entry.index, self._line or 0, had)
        except FieldError as error:
            if not error.shared:
                self._fail(error.key, error, variables)
            elif (error.key, "") not in self._reported:
                self._reported.add((error.key, ""))
                self._report(entry_fault(self._manifest, self._plan.entry, error.key, str(error)))
            return None
        except ValueError as error:
            self._fail("file_name", error, variables)
            return None
        values["position"] = self._made
        self._made += 1
        return Job(**values)

    def _referenced(self, source: str) -> Reference:
        """Return a reference; one that is not beside the manifest may be beside its table, which is in a bucket."""
        made, table = self._reference(source), self._plan.entry.source
        if made.path is None or made.fault is None or made.size is not None or table is None or not is_object(table):
            return made
        there = f"{table.rpartition('/')[0]}/{source}"
        return replace(made, fault=f"{made.fault}; if it is in the bucket, write its address, as {there}")

    def _value(self, key: str, part: Any, read: Callable[[str], Any], variables: Variables) -> Any:
        """Return what a template comes to, None after a fault was reported; what is no template is what it is."""
        if not isinstance(part, Compiled):
            return part
        try:
            try:
                return read(part.render(variables))
            except BlankError as error:
                if key.startswith("tags."):  # they are the row's own words, whatever it says
                    return read(part.render(as_written(variables)))
                return read(self._without_cell(key, part, variables, error))
        except ValueError as error:
            self._fail(key, error, variables)
            return None

    def _without_cell(self, name: str, compiled: Compiled, variables: Variables, error: BlankError) -> str:
        """Return the text of a field that reads a blank cell: nothing for one that is that cell, but for a prompt."""
        if self._plan.entry.allow_empty:
            return compiled.render(without_blanks(variables))
        if compiled.lone and name != "prompt":
            return ""
        raise error

    def _images(self, key: str, part: str | Compiled, variables: Variables) -> list[str]:
        """Return the references that an item of `images` comes to."""
        if not isinstance(part, Compiled):
            return [part]
        plan = self._plan
        try:
            try:
                cells = variables if part.lone or self._line is None else of_paths(variables)
                found = references_in(part.value(cells), split=plan.split)
            except BlankError:
                if not (plan.entry.allow_empty or plan.entry.skip_empty):
                    raise
                found = []
            sources = [source for text in found if (source := reference(text)) is not None]
        except ValueError as error:
            self._fail(key, error, variables)
            return []
        if not sources and plan.entry.skip_empty:
            raise _SkipError
        if not sources and not (plan.entry.allow_empty or part.defaults):
            self._fail(key, ValueError(f"the reference is empty; {_NO_REFERENCE}"), variables)
        return sources

    def _fail(self, key: str, error: ValueError, variables: Variables) -> None:
        """Report a fault of one job's field: at its row when there is a table, else where the field is written."""
        self._failed = True
        message = str(error)
        if isinstance(error, BlankError):
            instead = f'write what stands there instead, as {{{{ {error.read} | default("a product") }}}}'
            rows = f"leave such rows out with where: '{{{{ {error.read} }}}}', or set allow_empty: true"
            message += f"; {_NO_REFERENCE if key.startswith('images') else f'{instead}, {rows}'}"
        if isinstance(error, UndefinedError) and error.name is not None:
            message = unknown_variable(error.name, variables if self._line is None else {*variables, "row"})
        if self._line is None:
            self._report(entry_fault(self._manifest, self._plan.entry, key, message))
        else:
            self._report(row_fault(self._manifest, self._plan.entry, self._line, key, message))

    def _once(self, key: str, kind: str, message: str, values: dict[str, Any]) -> None:
        """Report a fault that all jobs of an entry share, once, naming the first of them."""
        self._failed = True
        if (key, kind) not in self._reported:
            self._reported.add((key, kind))
            name = values.get("id")
            if name is None and "key" in values:
                name = default_id(values["prompt"], values["key"])
            self._report(job_fault(self._manifest, self._plan.entry, key, message, name))


_READ_PAIRS: dict[str, Callable[[str], Any]] = {
    "tags": tag,
    "options": lambda text: plain_data(Scalar(text, plain=True, line=0)),
}
expand = Expansion  # what it is called as a step of a run
