"""Writes the pictures of an output folder as a dataset into another folder, which is the only one that changes.

First all rows are gone through: which are wanted, whose picture is there, what it is called, in which split it is.
Then the format is given one after the other, with what reads its picture. So what comes out follows from the output
folder and from what was asked for, and an export that was cut off is continued by the same command.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from batchflux.errors import StorageError, UsageError, quoted
from batchflux.exports.base import Export, Sample
from batchflux.exports.card import Card, loading, write_card
from batchflux.exports.dataset import row_of, tag_column
from batchflux.exports.destination import Destination
from batchflux.exports.formats import formats
from batchflux.exports.projection import tag_names
from batchflux.exports.references import STORE, LeftOutError, References
from batchflux.exports.selection import Caption, Selection, Split, Vocabulary
from batchflux.exports.similar import Look, Looks
from batchflux.folders.pictures import pictures_of
from batchflux.ledger.connection import reading
from batchflux.ledger.reviews import Verdict, verdicts_on
from batchflux.ledger.tables import ended_numbers, get_meta, jobs_by_number
from batchflux.manifest.identity import folded
from batchflux.output.base import CARD, IMAGES, SUFFIXES
from batchflux.output.folder import ledger_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from batchflux.exports.base import DatasetExporter, Format, Photo
    from batchflux.ledger.tables import Known

_AT_ONCE = 100  # jobs whose links are fetched at the same time
_LONGEST_NAME = 200  # bytes
_APART = "__"  # between the folders of a name
_SHORT, _LONG = 8, 64  # digits of a key behind a name that another job has
_NO_VERDICT = Verdict(review="")
_FROM_NOTHING = "made from no reference"
_SUFFIX_OF = {suffix: first for first, *others in SUFFIXES.values() for suffix in (first, *others)}


class Steps(Protocol):
    """Is told what begins and of how many steps that is, and returns what to call after each."""

    def __call__(self, what: str, number: int, /) -> Callable[[], object]:
        """Begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a user asks an export for; `kind` is a format's name, with a layout behind a colon or without."""

    kind: str
    only: str | None = None
    where: Sequence[str] = ()
    accepted: bool = False
    split: Split = field(default_factory=Split)
    caption: str = "{{ prompt }}"
    dedup: bool = False
    allow_hosts: Sequence[str] = ()


@dataclass(slots=True, kw_only=True)
class Exported:
    """What an export came to.

    `unfit` counts the pictures that the format has no place for, by why; `left_out` says of jobs by id why their
    picture is not in it though it should be, `copies` of which other job's it is a copy.
    """

    folder: str
    kind: str
    pictures: int = 0
    bytes: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    unfit: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)


def export(out: Path, folder: Path, wish: Wish, steps: Steps = lambda _what, _number: lambda: None) -> Exported:
    """Export the pictures of the output folder `out`; works while a run goes on, too.

    Raises UsageError: something of what is asked for cannot be, or no picture is left; FolderBusy: another process
    exports there; StorageError: a folder cannot be read or written.
    """
    kind, form = format_of(wish.kind)
    with ExitStack() as stack:
        connection = stack.enter_context(reading(ledger_of(out)))
        work = _Work(out, connection, wish, Exported(folder=str(folder), kind=kind))
        stack.callback(work.close)
        stack.enter_context(Destination(folder, out, kind))
        if form.references:
            base = get_meta(connection, "base")
            links = References(out, Path(base) if base else None, folder / STORE, wish.allow_hosts)
            work.references = stack.enter_context(links)
        work.survey(steps)
        told = work.told(folder, kind.partition(":")[2], stack.enter_context(ExitStack()))
        exporter = form.make(told)
        work.write(exporter, steps)
        write_card(folder / CARD, work.card(told.name, exporter))
        return work.done


def format_of(text: str) -> tuple[str, Format]:
    """Return a format by name, with its layout named behind it where it has several; UsageError: there is none."""
    name, _, layout = text.partition(":")
    if name not in formats():
        raise UsageError(f"There is no format {quoted(name)}; there are {', '.join(formats())}.")
    form = formats()[name]
    layout = layout or form.layouts[0]
    if layout not in form.layouts:
        those = ", ".join(filter(None, form.layouts)) or "none"
        raise UsageError(f"The format {name} has no layout {quoted(layout)}; there are {those}.")
    return (f"{name}:{layout}" if layout else name), form


class _Work:
    """One export: what is wanted of the output folder, and what became of it."""

    def __init__(self, out: Path, connection: sqlite3.Connection, wish: Wish, done: Exported) -> None:
        self._out, self._connection, self._wish, self.done = out, connection, wish, done
        self._pictures = pictures_of(out, connection)
        self._tags = tag_names(out, connection)
        self._words = Vocabulary(self._tags)
        self._selection = Selection(self._words, wish.only, wish.where, accepted=wish.accepted)
        self._caption = Caption(wish.caption, self._words)
        self._words.type_of(wish.split.by, "--split-by")
        self.references: References | None = None
        self.plan = Plan()
        self._looks = Looks() if wish.dedup else None
        self._card = Card()

    def survey(self, steps: Steps) -> None:
        """Go through all rows and plan those that are wanted; UsageError when none is."""
        numbers = ended_numbers(self._connection)
        step = steps("looking", len(numbers))
        for first in range(0, len(numbers), _AT_ONCE):
            rows = self._rows(numbers[first : first + _AT_ONCE])
            wanted = [(known, row) for known, row in rows if known.status == "done" and self._selection.takes(row)]
            if self.references is not None:
                self.references.begin(known for known, _ in wanted)
            for known, row in wanted:
                self._take(known, row)
            for _ in numbers[first : first + _AT_ONCE]:
                step()
        if not self.plan.count:
            why = [*self.done.unfit, *dict.fromkeys(self.done.left_out.values())]
            reason = f" ({'; '.join(why[:3])})" if why else ": none is done and as was asked for"
            raise UsageError(f"No picture of {self._out} can be exported{reason}.")

    def told(self, folder: Path, layout: str, held: ExitStack) -> Export:
        """Return what the format is told before its first picture."""
        splits = tuple(name for name in self._wish.split.names if self.plan.splits[name])
        return Export(
            folder=folder,
            name=get_meta(self._connection, "name") or self._out.resolve().name,
            columns=self._words.columns,
            splits=splits,
            suffix=self.plan.suffixes.most_common(1)[0][0],
            references=self.plan.references,
            layout=layout,
            held=held,
        )

    def write(self, exporter: DatasetExporter, steps: Steps) -> None:
        """Give the format all that is planned; StorageError where something changed in the meantime."""
        step = steps("pictures", self.plan.count)
        planned = self.plan.rows()
        while batch := list(islice(planned, _AT_ONCE)):
            rows = {known.number: (known, row) for known, row in self._rows([number for number, *_ in batch])}
            for number, sha256, split, name in batch:
                known, row = rows.get(number, (None, {}))
                photos = None if known is None or known.sha256 != sha256 else self._photos(known)
                if known is None or photos is None:
                    what = f"{self._out}, or what its pictures were made from, changed while it was exported"
                    raise StorageError(f"{what}: export again to continue.")
                sample = self._sample(known, row, (split, name), photos)
                exporter.write(sample, partial(self._pictures.read, str(known.file_name), sha256, known.mirrored))
                self._count(sample, row)
                step()
        exporter.close()

    def close(self) -> None:
        """Forget what was planned."""
        self.plan.close()
        if self._looks is not None:
            self._looks.close()

    def card(self, name: str, exporter: DatasetExporter) -> str:
        """Return the dataset card."""
        found = exporter.loading
        config = [*(f"    {line}" for line in found.config), "    data_files:"] if found.files else []
        for split, patterns in found.files.items():
            config.append(f"      - {{split: {split}, path: {json.dumps(patterns)}}}")
        by_datasets = [f"By its card `datasets` reads it:\n\n{loading(next(iter(found.files)))}"] if found.files else []
        return self._card.text(name, config, "\n\n".join([found.use, *by_datasets]))

    def _rows(self, numbers: Sequence[int]) -> Iterator[tuple[Known, Mapping[str, Any]]]:
        """Yield the jobs with these numbers, each with all that conditions and captions can name."""
        jobs = list(jobs_by_number(self._connection, numbers))
        said = verdicts_on(self._connection, [known.key for known in jobs])
        for known in jobs:
            yield known, self._row(known, said.get(known.key, _NO_VERDICT))

    def _row(self, known: Known, verdict: Verdict) -> Mapping[str, Any]:
        row = row_of(known, self._tags)
        tags = {f"tags.{name}": row[tag_column(name)] for name in self._tags}
        return {**row, **tags, "review": verdict.review, "note": verdict.note, "reviewer": verdict.reviewer}

    def _take(self, known: Known, row: Mapping[str, Any]) -> None:
        """Plan a picture, unless it cannot be exported."""
        amiss = None if known.mirrored else self._amiss(known)
        if amiss is not None:
            self.done.left_out[known.id] = amiss
            return
        photos = self._photos(known)
        if photos is None or self._is_copy(known):
            return
        self._caption.of(row)
        suffix = PurePosixPath(str(known.file_name)).suffix
        suffix = _SUFFIX_OF.get(suffix.lower(), suffix)
        self.plan.add(known, self._wish.split.of_value(row[self._wish.split.by]), suffix, len(photos))

    def _amiss(self, known: Known) -> str | None:
        """Return what is wrong with the file of a picture that is nowhere else, None when nothing is."""
        try:
            size = (self._out / str(known.file_name)).stat().st_size
        except OSError:
            return "its picture is not there"
        return None if size == known.bytes else "its picture is not the one that is on record"

    def _photos(self, known: Known) -> tuple[Photo, ...] | None:
        """Return a job's references where the format wants them; None where it has none, or they cannot be had."""
        if self.references is None:
            return ()
        if not json.loads(known.spec)["images"]:
            self.done.unfit[_FROM_NOTHING] = self.done.unfit.get(_FROM_NOTHING, 0) + 1
            return None
        try:
            return self.references.of(known)
        except LeftOutError as error:
            self.done.left_out[known.id] = str(error)
            return None

    def _is_copy(self, known: Known) -> bool:
        if self._looks is None:
            return False
        look = Look.of(self._pictures.read(str(known.file_name), str(known.sha256), known.mirrored))
        first = None if look is None else self._looks.first_like(look)
        if first is not None:
            self.done.copies[known.id] = first
        elif look is not None:
            self._looks.add(known.id, look)
        return first is not None

    def _sample(
        self, known: Known, row: Mapping[str, Any], place: tuple[str, str], photos: tuple[Photo, ...]
    ) -> Sample:
        split, name = place
        suffix = PurePosixPath(str(known.file_name)).suffix
        return Sample(
            id=known.id,
            split=split,
            name=name,
            suffix=_SUFFIX_OF.get(suffix.lower(), suffix),
            size=known.bytes or 0,
            sha256=str(known.sha256),
            made_at=known.finished_at or 0.0,
            caption=self._caption.of(row),
            columns={column: row[column] for column in self._words.columns},
            references=photos,
        )

    def _count(self, sample: Sample, row: Mapping[str, Any]) -> None:
        self._card.add(row)
        self.done.pictures += 1
        self.done.bytes += sample.size
        self.done.splits[sample.split] = self.done.splits.get(sample.split, 0) + 1


class Plan:
    """What is to be exported, in order, each under a name of its own; on disk where it is much."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect("", isolation_level=None)
        self._connection.execute(
            "CREATE TABLE plan (place INTEGER PRIMARY KEY, number INTEGER, sha256, split, name, folded UNIQUE)"
        )
        self._connection.execute("BEGIN")
        self.count = self.references = 0
        self.splits: Counter[str] = Counter()
        self.suffixes: Counter[str] = Counter()

    def add(self, known: Known, split: str, suffix: str, references: int) -> None:
        """Add a picture."""
        for name in names_of(str(known.file_name), known.key.hex()):
            values = (known.number, known.sha256, split, name, folded(name))
            statement = "INSERT OR IGNORE INTO plan VALUES (NULL, ?, ?, ?, ?, ?)"
            if self._connection.execute(statement, values).rowcount:
                break
        self.count += 1
        self.splits[split] += 1
        self.suffixes[suffix] += 1
        self.references = max(self.references, references)

    def rows(self) -> Iterator[tuple[int, str, str, str]]:
        """Yield number, digest, split and name of each."""
        yield from self._connection.execute("SELECT number, sha256, split, name FROM plan ORDER BY place")

    def close(self) -> None:
        """Forget it."""
        self._connection.close()


def names_of(file_name: str, key: str) -> Iterable[str]:
    """Return what a picture may be called without folders: the first that no other has; the last is its own alone."""
    path = PurePosixPath(file_name)
    parts = path.with_suffix("").parts
    name = _APART.join(parts[1:] if parts[0] == IMAGES and len(parts) > 1 else parts)
    begun = _cut(name, _LONGEST_NAME - _LONG)
    names = [f"{begun}-{key[:digits]}" for digits in (_SHORT, _LONG)]
    return [name, *names] if _cut(name, _LONGEST_NAME) == name else names


def _cut(text: str, most: int) -> str:
    return text.encode(errors="replace")[:most].decode(errors="ignore")
