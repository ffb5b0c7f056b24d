"""The stream of jobs: entries in order, in each its rows in order, in each row the matrix in order.

The rule: a faulty job is reported and left out, and nothing holds more than one row. Over the whole manifest an id
and a file name stand for one job, and a job with the key of an earlier one is that job: counted as merged, not made
again. After MAX_FAULTS faults the expansion ends, for nobody reads more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchflux.errors import Fault
from batchflux.manifest.build import Builder, Place
from batchflux.manifest.check import OVERRIDE_FILE
from batchflux.manifest.compile import Plan, compile_entry
from batchflux.manifest.sources import Row, Unreadable, rows_of
from batchflux.manifest.tree import OVERRIDE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from batchflux.manifest.config import Entry, Manifest
    from batchflux.model import Capabilities, Job

MAX_FAULTS = 1000


class _Enough(Exception):  # noqa: N818  ends the expansion
    pass


class Expansion:
    """The jobs of a manifest, made as they are asked for. Iterating again starts anew.

    `merged` counts the jobs left out so far because an earlier one has their key, `faults` the faults reported.
    """

    def __init__(
        self, manifest: Manifest, styles: Mapping[str, Capabilities], on_fault: Callable[[Fault], None]
    ) -> None:
        self._manifest = manifest
        self._styles = styles
        self._on_fault = on_fault
        self.merged = 0
        self.faults = 0

    def __iter__(self) -> Iterator[Job]:
        self.merged = self.faults = 0
        builder = Builder(self._manifest, self._styles, self._report)
        try:
            for entry in self._manifest.entries:
                for job in self._entry(entry, builder):
                    if job is None:
                        self.merged += 1
                    else:
                        yield job
        except _Enough:
            return

    def _report(self, fault: Fault) -> None:
        self.faults += 1
        self._on_fault(fault)
        if self.faults >= MAX_FAULTS:
            raise _Enough

    def _entry(self, entry: Entry, builder: Builder) -> Iterator[Job | None]:
        def report(line: int, key: str, message: str) -> None:
            self._report(entry_fault(self._manifest, entry, line, key, message))

        def on_table(error: Unreadable) -> None:
            self._report(table_fault(self._manifest, entry, error.line, error.message))

        plan = compile_entry(entry, self._manifest, report, on_table)
        if plan is None:
            return
        builder.take(plan)
        choices = plan.choices()
        build = builder.build
        for line, row in self._rows(plan):
            for choice in plan.each_choice() if choices is None else choices:
                variables = {**row, **choice.variables, "row": row} if row is not None else choice.variables
                place = Place(entry=entry, line=line)
                made = build(variables, choice.fields, place)
                if made is not False:
                    yield made

    def _rows(self, plan: Plan) -> Iterator[tuple[int | None, Row | None]]:
        entry = plan.entry
        if entry.source is None:
            yield None, None
            return

        def report(line: int | None, message: str) -> None:
            self._report(table_fault(self._manifest, entry, line, message))

        count = 0
        try:
            for count, (line, row) in enumerate(rows_of(self._manifest.base / entry.source, report), start=1):  # noqa: B007  counted after the loop
                yield line, row
        except Unreadable as error:
            report(error.line, error.message)
        else:
            if count == 0 and self.faults == 0:
                report(None, "the table has no rows")


def expand(manifest: Manifest, styles: Mapping[str, Capabilities], on_fault: Callable[[Fault], None]) -> Expansion:
    """The jobs of a manifest, in order, one at a time.

    Args:
        manifest: what to expand.
        styles: what each call style of the provider can carry.
        on_fault: told of each fault; the job it belongs to is not yielded.
    """
    return Expansion(manifest, styles, on_fault)


def entry_fault(manifest: Manifest, entry: Entry, line: int, key: str, message: str) -> Fault:
    """A fault in the manifest's text, below an entry."""
    override = line == OVERRIDE
    where = f"jobs[{entry.index}].{key}" if key else f"jobs[{entry.index}]"
    file = OVERRIDE_FILE if override else manifest.display
    return Fault(file=file, line=None if override else line, where=where, message=message)


def table_fault(manifest: Manifest, entry: Entry, line: int | None, message: str) -> Fault:
    """A fault in the table of an entry."""
    file = manifest.beside(entry.source or "")
    return Fault(file=file, line=line, where=f"jobs[{entry.index}].from", message=message)
