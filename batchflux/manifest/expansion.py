"""The stream of jobs: entries in order, in each its rows in order, in each row the matrix in order.

A faulty job is reported and left out, and nothing holds more than one row. Over the whole manifest an id and a file
name stand for one job, and a job with the key of an earlier one is that job: counted as merged, not made again. After
MAX_FAULTS faults the expansion ends, for nobody reads more. Redos that people asked for come last, so that a job of the
manifest never has to make way for one; their place (`position`) is their job's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from batchflux.manifest.capabilities import Offers, OptionError
from batchflux.manifest.diagnostics import entry_fault, job_fault, row_fault, unknown_variable
from batchflux.manifest.entries import APART, compile_entry
from batchflux.manifest.identity import Names, NameTakenError, default_id, key_of, references
from batchflux.manifest.job_fields import AUTO, READERS, reference, tag
from batchflux.manifest.redo import choose
from batchflux.manifest.tables import TableError, rows_of
from batchflux.manifest.templates import UndefinedError
from batchflux.manifest.yaml_nodes import MERGE, Scalar, value_of
from batchflux.models import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from batchflux.errors import Fault
    from batchflux.manifest.diagnostics import Faults
    from batchflux.manifest.entries import Plan
    from batchflux.manifest.redo import Redos
    from batchflux.manifest.schema import Entry, Manifest
    from batchflux.manifest.tables import Row
    from batchflux.models import Capabilities, Redo

MAX_FAULTS = 1000
MAX_SALVAGED = 100_000  # jobs looked at; a manifest that has faults need not be read to its end to be sent back
_KEY_DIGITS = 16  # of a key, which tell it from a million others


class _EndError(Exception):
    """Ends the expansion: nobody reads more faults, or wants more jobs."""


Made = Job | Literal[False] | None  # None: merged into an earlier job; False: faults were reported
Variables = dict[str, Any]


class Expansion:
    """The jobs of a manifest, in order, made as they are asked for. Iterating again starts anew.

    `offers` is what APIs can carry, one for each call style of each. `on_fault` takes each fault; the job it belongs to
    is not yielded. No more jobs than `most` are looked at, faulty and merged ones counted. `redos` is what people asked
    to have tried again; it learns what became of each. `merged` counts the jobs left out so far because an earlier one
    has their key, `faults` the faults reported.
    """

    def __init__(
        self,
        manifest: Manifest,
        offers: Sequence[Capabilities],
        on_fault: Callable[[Fault], None],
        *,
        most: int | None = None,
        redos: Redos | None = None,
    ) -> None:
        self.manifest = manifest
        self.offers = Offers(manifest.provider, manifest.limits, offers)
        self._redos = redos
        self._on_fault = on_fault
        self._most = most
        self._built = self.merged = self.faults = 0

    def __iter__(self) -> Iterator[Job]:
        self._built = self.merged = self.faults = 0
        builder = _Builder(self)
        try:
            for entry in self.manifest.entries:
                yield from self._entry(entry, builder)
            if self._redos is not None:
                yield from self._redone(self._redos, builder)
        except _EndError:
            return

    def report(self, fault: Fault) -> None:
        """Pass a fault on; the last one that anybody reads ends the expansion."""
        self.faults += 1
        self._on_fault(fault)
        if self.faults >= MAX_FAULTS:
            raise _EndError

    def _entry(self, entry: Entry, builder: _Builder) -> Iterator[Job]:
        plan = compile_entry(entry, self.manifest, self.report)
        if plan is None:
            return
        builder.take(plan)
        choices = plan.choices()
        for line, row in self._rows(entry):
            for choice in plan.each_choice() if choices is None else choices:
                variables = row if plan.bare else {**row, **choice.variables, "row": row}
                if self._built == self._most:
                    raise _EndError
                self._built += 1
                made = builder.build(variables, choice.fields, line)
                if made:
                    if self._redos is not None:
                        self._redos.met(made)
                    yield made
                elif made is None:
                    self.merged += 1

    def _redone(self, redos: Redos, builder: _Builder) -> Iterator[Job]:
        for root, parent, redo in redos.wanted():
            job = builder.redo(root, parent, redo, redos.is_known)
            if job is None:
                self.merged += 1
            else:
                redos.made(redo, root, job)
                yield job

    def _rows(self, entry: Entry) -> Iterator[tuple[int | None, Row]]:
        if entry.source is None:
            yield None, {}
            return

        def report(line: int | None, message: str) -> None:
            self.report(row_fault(self.manifest, entry, line, "from", message))

        before, some = self.faults, False
        try:
            for pair in rows_of(self.manifest.base / entry.source, report):
                some = True
                yield pair
        except TableError as error:
            report(error.line, error.message)
        if not some and self.faults == before:
            report(None, "has no rows")


class _Builder:
    """Makes the job of one row and one combination of axis values, and knows what the expansion has met so far.

    All faults of a job are reported, each at the line of its row when there is a table.
    """

    def __init__(self, expansion: Expansion) -> None:
        manifest = expansion.manifest
        self._manifest = manifest
        self._provider = manifest.provider
        self._offers = expansion.offers
        self._report = expansion.report
        self._reference = references(manifest.base)
        self._keys: set[int] = set()
        self._names = Names(manifest)
        self._failed = False
        self._line: int | None = None
        self._made = 0  # redos aside

    def take(self, plan: Plan) -> None:
        """Make jobs of this entry from now on."""
        self._plan = plan
        self._reported: set[tuple[str, str]] = set()

    def build(self, variables: Mapping[str, Any], chosen: dict[str, Any], line: int | None) -> Made:
        """Make the job of one row (`line` in its table) and one choice of axis values."""
        self._failed = False
        self._line = line
        plan = self._plan
        values = {**plan.constants, **chosen}
        for name, render in plan.dynamic.items():
            values[name] = self._value(name, render, READERS[name], variables)
        sources = chosen.get("images")
        if sources is None:
            made = [
                self._value(f"images[{at}]", part, reference, variables) if callable(part) else part
                for at, part in enumerate(plan.images)
            ]
            sources = [source for source in made if source is not None]
        values["tags"] = self._pairs("tags", plan.tags, variables, tag)
        values["options"] = self._pairs("options", plan.options, variables, _json_value)
        if self._failed:
            return False
        values["images"] = tuple(map(self._reference, sources))
        values["model"] = values.get("model") or self._provider.model
        values["variant"] = values.get("variant") or 1
        wanted = values.get("style") or self._provider.style
        try:
            offer = self._offers.choose(wanted, values["model"], values["images"])
        except ValueError as error:
            return self._once("style", wanted, str(error), values)
        return self._identify(values, variables, offer, wanted)

    def redo(self, root: Job, parent: Job, redo: Redo, known: Callable[[str], bool]) -> Job | None:
        """Make the job that tries `parent` again; None when the manifest lists the very same job by now.

        `root` is the manifest's job that the redos of this family go back to, `known` tells whether a key is
        taken already.
        """
        offer = self._offers.of(parent.style, parent.model)
        job = choose(parent, redo, offer, lambda key: not known(key) and self._is_new(key))
        if redo.variant is not None and not self._is_new(job.key):
            return None
        name, file_name = self._names.redo(root, redo.ordinal, job.key)
        return replace(job, id=name, file_name=file_name, position=root.position)

    def _is_new(self, key: str) -> bool:
        """Take a key; False when a job has it already. 64 bits of each are kept, so that a million take little room."""
        before = len(self._keys)
        self._keys.add(int(key[:_KEY_DIGITS], 16))
        return len(self._keys) != before

    def _identify(self, values: Variables, variables: Mapping[str, Any], offer: Capabilities, wanted: str) -> Made:
        """Give the job its key and names, unless it was met before."""
        values["style"] = offer.style
        try:
            values["options"] = self._offers.options(offer, values["options"])
        except OptionError as error:
            return self._fail(f"options.{error.name}", str(error))
        key = values["key"] = key_of(values, self._provider.name)
        values["dropped"] = self._offers.dropped(offer, values)
        for name, message in self._offers.refusals(offer, values, wanted):
            self._once(name, values["model"] if name == "model" else offer.style, message, values)
        if self._failed:
            return False
        if not self._is_new(key):
            return None
        try:
            self._names.give(values, variables, (self._plan.entry.index, self._line or 0))
        except NameTakenError as error:
            return self._fail(error.key, str(error))
        except ValueError as error:
            return self._fault("file_name", error, variables)
        values["position"] = self._made
        self._made += 1
        return Job(provider=self._provider.name, **values)

    def _value(self, key: str, render: Callable[..., str], read: Callable[[str], Any], row: Mapping[str, Any]) -> Any:
        """Return what a template comes to; None after a fault was reported."""
        try:
            return read(render(row))
        except ValueError as error:
            self._fault(key, error, row)
            return None

    def _pairs(
        self, key: str, pairs: tuple[tuple[str, Any], ...], row: Mapping[str, Any], read: Callable[[str], Any]
    ) -> tuple[tuple[str, Any], ...]:
        return tuple(
            (name, self._value(f"{key}.{name}", part, read, row) if callable(part) else part) for name, part in pairs
        )

    def _fault(self, key: str, error: ValueError, variables: Mapping[str, Any]) -> Literal[False]:
        if isinstance(error, UndefinedError) and error.name is not None:
            known = variables if self._line is None else {*variables, "row"}
            return self._fail(key, unknown_variable(error.name, known))
        return self._fail(key, str(error))

    def _fail(self, key: str, message: str) -> Literal[False]:
        """Report a fault of one job's field: at its row when there is a table, else where the field is written."""
        self._failed = True
        entry = self._plan.entry
        if self._line is None:
            self._report(entry_fault(self._manifest, entry, key, message))
        else:
            self._report(row_fault(self._manifest, entry, self._line, key, message))
        return False

    def _once(self, key: str, kind: str, message: str, values: Variables) -> Literal[False]:
        """Report a fault that all jobs of an entry share, once, naming the first of them."""
        self._failed = True
        if (key, kind) not in self._reported:
            self._reported.add((key, kind))
            name = values.get("id")
            if name is None and "key" in values:
                name = default_id(values["prompt"], values["key"])
            self._report(job_fault(self._manifest, self._plan.entry, key, message, name))
        return False


def _json_value(text: str) -> Any:
    """Return what a rendered text says as a value of YAML, decimals as ordinary floats."""
    value = value_of(Scalar(text, plain=True, line=0))
    return float(value) if isinstance(value, float) else value


expand = Expansion  # what it is called as a step of a run
_NO_PARAMS = frozenset({"name", "model", "base_url", "keys", "price", "currency", "options"})
_NEVER_EQUAL = "{{ key }}.{{ ext }}"


def compile_all(manifest: Manifest, faults: Faults) -> None:
    """Note the faults that entries have without their rows."""
    faulty = faults.below("jobs")
    for entry in _judged(manifest, faults):
        if MERGE not in faulty.get(str(entry.index), ()):  # what should have been merged may be all that it lacks
            compile_entry(entry, manifest, faults.note)


def note_expansion(manifest: Manifest, offers: Sequence[Capabilities], faults: Faults) -> None:
    """Note what else is wrong with a manifest that has faults, by expanding what of it is sound.

    No fault is noted that mending the others would take away. So an entry goes without its faulty fields, and is left
    out when the rest depends on them, or when a faulty `defaults` may have been to give its prompt; what an API cannot
    carry is not noted when a fault of `provider` may hide a `params: drop`; and file names are compared only when
    output.file_name is sound.
    """
    faulty, of_provider = faults.below("jobs"), faults.below("provider").keys()
    if of_provider & {"", "name", "api", "style"} and not any(offer.api == manifest.provider.api for offer in offers):
        return
    judged = (_sound(entry, faulty.get(str(entry.index), set())) for entry in _judged(manifest, faults))
    mended: dict[str, Any] = {
        "options": ({}, bool(of_provider & {"options"})),
        "price": (None, bool(of_provider & {"", "name", "api", "base_url", "price"})),
        "style": (AUTO, "style" in of_provider),
        "params": ("drop", bool(of_provider - _NO_PARAMS)),
    }
    provider, output = manifest.provider, manifest.output
    provider = provider.model_copy(update={name: value for name, (value, unsure) in mended.items() if unsure})
    if "file_name" in faults.below("output"):
        output = output.model_copy(update={"file_name": _NEVER_EQUAL})
    entries = tuple(entry for entry in judged if entry is not None)
    sound = replace(manifest, entries=entries, provider=provider, output=output)
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
