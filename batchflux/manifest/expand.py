"""The stream of jobs: entries in order, in each its rows in order, in each row the matrix in order.

The rule: a faulty job is reported and left out, and nothing holds more than one row. Over the whole manifest an id
and a file name stand for one job, and a job with the key of an earlier one is that job: counted as merged, not made
again. After MAX_FAULTS faults the expansion ends, for nobody reads more. Redos that people asked for come last, so
that a job of the manifest never has to make way for one; their place (`position`) is their job's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchflux.manifest.expansion import Builder
from batchflux.manifest.compile import compile_entry
from batchflux.manifest.places import entry_fault, job_fault, row_fault
from batchflux.manifest.tables import Unreadable, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from batchflux.errors import Fault
    from batchflux.manifest.compile import Plan
    from batchflux.manifest.schema import Entry, Manifest
    from batchflux.manifest.redo import Redos
    from batchflux.manifest.tables import Row
    from batchflux.models import Capabilities, Job

MAX_FAULTS = 1000


class _Enough(Exception):  # noqa: N818  ends the expansion
    pass


class Expansion:
    """The jobs of a manifest, made as they are asked for. Iterating again starts anew.

    `merged` counts the jobs left out so far because an earlier one has their key, `faults` the faults reported;
    `made` the manifest's jobs that were made, once there are no more.
    """

    def __init__(
        self,
        manifest: Manifest,
        styles: Mapping[str, Capabilities],
        on_fault: Callable[[Fault], None],
        most: int | None = None,
        redos: Redos | None = None,
    ) -> None:
        self._redos = redos
        self._manifest = manifest
        self._styles = styles
        self._on_fault = on_fault
        self._most = most
        self._built = 0
        self.merged = 0
        self.faults = 0
        self.made: int | None = None

    def __iter__(self) -> Iterator[Job]:
        self.merged = self.faults = self._built = 0
        self.made = None
        builder = Builder(self._manifest, self._styles, self)
        try:
            for entry in self._manifest.entries:
                yield from self._entry(entry, builder)
            if self._redos is not None:
                yield from self._redone(self._redos, builder)
            self.made = builder.made
        except _Enough:
            return

    def field(self, entry: Entry, line: int | None, key: str, message: str) -> None:
        """Report a fault of one job's field: at its row when there is a table, else where the field is written."""
        if line is None:
            self._report(entry_fault(self._manifest, entry, key, message))
        else:
            self._report(row_fault(self._manifest, entry, line, key, message))

    def job(self, entry: Entry, key: str, message: str, name: str | None) -> None:
        """Report a fault that all jobs of an entry share, at the field it is about, naming the first of them."""
        self._report(job_fault(self._manifest, entry, key, message, name))

    def _report(self, fault: Fault) -> None:
        self.faults += 1
        self._on_fault(fault)
        if self.faults >= MAX_FAULTS:
            raise _Enough

    def _entry(self, entry: Entry, builder: Builder) -> Iterator[Job]:
        plan = compile_entry(entry, self._manifest, self._report)
        if plan is None:
            return
        builder.take(plan)
        choices = plan.choices()
        bare = plan.bare
        for line, row in self._rows(plan):
            for choice in plan.each_choice() if choices is None else choices:
                variables = row if bare else {**row, **choice.variables, "row": row}
                if self._built == self._most:
                    raise _Enough
                self._built += 1
                made = builder.build(variables, choice.fields, line)
                if made:
                    if self._redos is not None:
                        self._redos.met(made)
                    yield made
                elif made is None:
                    self.merged += 1

    def _redone(self, redos: Redos, builder: Builder) -> Iterator[Job]:
        for root, parent, redo in redos.wanted():
            job = builder.redo(root, parent, redo, redos.is_known)
            if job is None:
                self.merged += 1
            else:
                redos.made(redo, root, job)
                yield job

    def _rows(self, plan: Plan) -> Iterator[tuple[int | None, Row]]:
        entry = plan.entry
        if entry.source is None:
            yield None, {}
            return

        def report(line: int | None, message: str) -> None:
            self._report(row_fault(self._manifest, entry, line, "from", message))

        before, some = self.faults, False
        try:
            for pair in rows_of(self._manifest.base / entry.source, report):
                some = True
                yield pair
        except Unreadable as error:
            report(error.line, error.message)
            return
        if not some and self.faults == before:
            report(None, "has no rows")


def expand(
    manifest: Manifest,
    styles: Mapping[str, Capabilities],
    on_fault: Callable[[Fault], None],
    *,
    most: int | None = None,
    redos: Redos | None = None,
) -> Expansion:
    """The jobs of a manifest, in order, one at a time.

    Args:
        manifest: what to expand.
        styles: what each call style of the provider can carry.
        on_fault: told of each fault; the job it belongs to is not yielded.
        most: look at no more jobs than this, faulty and merged ones counted.
        redos: what people asked to have tried again; it learns what became of each.
    """
    return Expansion(manifest, styles, on_fault, most, redos)
