"""Writes the pictures of an output folder as a dataset into another folder, or a bucket, and changes nothing else.

First all rows are gone through: which are wanted, whose picture is there, what it is called, in which split it is.
Then the format is given one after the other, with what reads its picture. So what comes out follows from the output
folder and from what was asked for, and an export that was cut off is continued by the same command.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from batchflux.errors import StorageError, UsageError, quoted
from batchflux.exports.archive import write_zip, zip_of
from batchflux.exports.base import Export, Sample
from batchflux.exports.card import Card, code, loading, marked
from batchflux.exports.dataset import row_of, tag_column
from batchflux.exports.formats import formats
from batchflux.exports.marks import Marking
from batchflux.exports.places import SET_ASIDE, opened
from batchflux.exports.projection import tag_names
from batchflux.exports.references import LeftOutError, References
from batchflux.exports.selection import Caption, Selection, Split, Vocabulary
from batchflux.exports.similar import Look, Looks
from batchflux.folders.pictures import pictures_of
from batchflux.ledger.connection import reading
from batchflux.ledger.reviews import Verdict, verdict_counts, verdicts_on
from batchflux.ledger.tables import ended_numbers, get_meta, jobs_by_number
from batchflux.manifest.identity import folded
from batchflux.manifest.kept import hosts_of_folder, stores_of_folder
from batchflux.output.base import CARD, IMAGES, SUFFIXES
from batchflux.output.folder import ledger_of
from batchflux.output.stores.base import Address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from batchflux.exports.base import Called, DatasetExporter, Format, Loading, Options, Photo
    from batchflux.exports.places import Place
    from batchflux.ledger.tables import Known

_AT_ONCE = 100  # jobs whose links are fetched at the same time
_LONGEST_NAME = 200  # bytes
_APART = "__"  # between the folders of a name
_SHORT, _LONG = 8, 64  # digits of a key behind a name that another job has
_NO_VERDICT = Verdict(review="")
_FROM_NOTHING = "made from no reference"
_SET_ASIDE = f"moved to {SET_ASIDE}, as no export wrote what was there"
_SUFFIX_OF = {suffix: first for first, *others in SUFFIXES.values() for suffix in (first, *others)}


class Steps(Protocol):
    """Is told what begins and of how many steps that is, and returns what to call after each."""

    def __call__(self, what: str, number: int, /) -> Callable[[], object]:
        """Begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a user asks an export for; `kind` is a format's name, with a layout behind a colon or without.

    `marks` are those of provenance that pictures get, None: what the format has by itself; `producer` is named in them.
    `options` are those that the format alone has, by name; with `zip` all is put into one file beside the folder, too.
    """

    kind: str
    only: str | Sequence[str] | None = None
    where: Sequence[str] = ()
    accepted: bool = False
    split: Split = field(default_factory=Split)
    caption: str = "{{ prompt }}"
    dedup: bool = False
    marks: Sequence[str] | None = None
    producer: str | None = None
    allow_hosts: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    zip: bool = False


@dataclass(slots=True, kw_only=True)
class Exported:
    """What an export came to.

    `unfit` counts the pictures that the format has no place for, by why; `left_out` says of jobs by id why their
    picture is not in it though it should be, `copies` of which other job's it is a copy. `loading` is the call by
    which `datasets` reads it, '' where it cannot. `remarks` counts the pictures that are in it, and of which a user
    should know something; `zip` is the file that holds all of it.
    """

    folder: str
    kind: str
    loading: str = ""
    pictures: int = 0
    bytes: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    unfit: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)
    remarks: dict[str, int] = field(default_factory=dict)
    zip: str | None = None


def export(out: Path, dest: Path | Address, wish: Wish, steps: Steps = lambda _what, _number: lambda: None) -> Exported:
    """Export the pictures of the output folder `out`; works while a run goes on, too.

    Raises UsageError: something of what is asked for cannot be, or no picture is left; FolderBusy: another process
    exports there; StorageError: a folder or bucket cannot be read or written.
    """
    kind, form = format_of(wish.kind)
    marking = Marking(form.marks if wish.marks is None else wish.marks, wish.producer, draws=form.draws)
    options = options_of(form, kind, wish)
    archive = zip_of(dest) if wish.zip else None
    with ExitStack() as stack:
        connection = stack.enter_context(reading(ledger_of(out)))
        work = _Work(out, connection, wish, Exported(folder=str(dest), kind=kind), form, options)
        stack.callback(work.close)
        said = get_meta(connection, "base")
        base = Path(said) if said else None
        mirror, stores = get_meta(connection, "mirror"), cache(partial(stores_of_folder, out, base, os.environ))
        place = stack.enter_context(opened(dest, out, kind, stores, mirror))
        if form.references or (options is not None and options.references):
            hosts = (*hosts_of_folder(out), *wish.allow_hosts)
            found = References(out, base, place, stores, hosts, sent=form.references)
            work.references = stack.enter_context(found)
        work.survey(steps)
        told = work.told(place, kind.partition(":")[2], stack.enter_context(ExitStack()))
        exporter = form.make(told)
        work.write(exporter, marking, steps)
        without = Counter(f"stand alone: {why}" for why in work.without.values())
        moved = Counter({_SET_ASIDE: place.set_aside} if place.set_aside else {})
        work.done.remarks = {**marking.remarks, **told.remarks, **without, **moved}
        work.done.loading = _loaded_by(exporter.loading, dest)
        card = marked(work.card(told.name, exporter.loading, dest), place.read(CARD)) if options is None else None
        if card is not None:
            place.put(CARD, card)
        if archive is not None and isinstance(dest, Path):
            write_zip(dest, archive)
            work.done.zip = str(archive)
    return work.done


def _loaded_by(found: Loading, dest: Path | Address) -> str:
    """Return the call by which `datasets` reads an export; '' when it cannot."""
    if not found.files:
        return ""
    if isinstance(dest, Path):
        return f"load_dataset({json.dumps(str(dest))})"
    root = str(dest).rstrip("/")
    files = {split: [f"{root}/{pattern}" for pattern in patterns] for split, patterns in found.files.items()}
    return f"load_dataset({json.dumps(found.builder)}, data_files={json.dumps(files)})"


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


def options_of(form: Format, kind: str, wish: Wish) -> Options | None:
    """Return what a format is told of its own, None where there is nothing of the kind; UsageError."""
    for option in wish.options:
        if option not in form.options:
            those = ", ".join(name for name, one in formats().items() if option in one.options) or "no format"
            raise UsageError(f"--{option.replace('_', '-')} is an option of {those}, and not of {kind}.")
    if form.told is None:
        return None
    if wish.split.names != Split().names:
        raise UsageError(f"--split: {kind} has no splits, which are for training.")
    return form.told(wish.options)


class _Work:
    """One export: what is wanted of the output folder, and what became of it."""

    def __init__(
        self,
        out: Path,
        connection: sqlite3.Connection,
        wish: Wish,
        done: Exported,
        form: Format,
        options: Options | None,
    ) -> None:
        self._out, self._connection, self._wish, self.done = out, connection, wish, done
        self._pictures = pictures_of(out, connection)
        self._form, self._options = form, options
        self._tags = tag_names(out, connection)
        self._words = Vocabulary(self._tags)
        self._naming = None if options is None else options.naming(self._tags)
        self._selection = Selection(self._words, wish.only, wish.where, accepted=wish.accepted or form.accepted)
        self._caption = Caption(wish.caption, self._words)
        self._words.type_of(wish.split.by, "--split-by")
        self.references: References | None = None
        self.without: dict[str, str] = {}  # by id why a picture's references are not with it
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
            if self._form.accepted and not verdict_counts(self._connection).get("accept"):
                remedy = f"accept some (batchflux review {self._out}), then export again"
                raise UsageError(
                    f"No picture of {self._out} was accepted, and {self.done.kind} takes no others: {remedy}."
                )
            why = [*self.done.unfit, *dict.fromkeys(self.done.left_out.values())]
            reason = f" ({'; '.join(why[:3])})" if why else ": none is done and as was asked for"
            raise UsageError(f"No picture of {self._out} can be exported{reason}.")

    def told(self, place: Place, layout: str, held: ExitStack) -> Export:
        """Return what the format is told before its first picture."""
        splits = tuple(name for name in self._wish.split.names if self.plan.splits[name])
        return Export(
            place=place,
            name=get_meta(self._connection, "name") or self._out.resolve().name,
            columns=self._words.columns,
            splits=splits,
            suffix=self.plan.suffixes.most_common(1)[0][0],
            references=self.plan.references,
            layout=layout,
            held=held,
            options=self._options,
        )

    def write(self, exporter: DatasetExporter, marking: Marking, steps: Steps) -> None:
        """Give the format all that is planned; StorageError where something changed in the meantime."""
        step = steps("pictures", self.plan.count)
        planned = self.plan.rows()
        while batch := list(islice(planned, _AT_ONCE)):
            rows = {known.number: (known, row) for known, row in self._rows([number for number, *_ in batch])}
            for number, sha256, *place in batch:
                known, row = rows.get(number, (None, {}))
                photos = None if known is None or known.sha256 != sha256 else self._photos(known)
                if known is None or photos is None:
                    what = f"{self._out}, or what its pictures were made from, changed while it was exported"
                    raise StorageError(f"{what}: export again to continue.")
                image = partial(self._pictures.read, str(known.file_name), sha256, known.mirrored)
                sample, read = marking.of(known, self._sample(known, row, place, photos), image)
                exporter.write(sample, read)
                self._count(sample, row)
                step()
        exporter.close()

    def close(self) -> None:
        """Forget what was planned."""
        self.plan.close()
        if self._looks is not None:
            self._looks.close()

    def card(self, name: str, found: Loading, dest: Path | Address) -> str:
        """Return the dataset card."""
        if not found.files:
            return self._card.text(name, [], found.use)
        config = [*(f"    {line}" for line in found.config), "    data_files:"]
        for split, patterns in found.files.items():
            config.append(f"      - {{split: {split}, path: {json.dumps(patterns)}}}")
        uses = [found.use, f"By its card `datasets` reads it:\n\n{loading(next(iter(found.files)))}"]
        if isinstance(dest, Address):
            said = f"From the bucket, with what fsspec needs for it (as `s3fs`):\n\n{code(self.done.loading)}"
            uses[1:] = [uses[1].replace("reads it:", "reads a copy of it in a folder:"), said]
        return self._card.text(name, config, "\n\n".join(uses))

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
        called = None if self._naming is None else self._naming.of(row)
        split = self._wish.split.of_value(row[self._wish.split.by])
        if not self.plan.add(known, split, suffix, len(photos), called) and called is not None:
            (first,) = jobs_by_number(self._connection, [self.plan.number_of(called.name)])
            remedy = "give them names that differ, with {{ position }} or {{ id }} in --name"
            raise UsageError(f"The pictures of {first.id} and {known.id} would both be called {called.name}: {remedy}.")

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
        if not self._form.references:
            return self._photos_if_any(known)
        if not json.loads(known.spec)["images"]:
            self.done.unfit[_FROM_NOTHING] = self.done.unfit.get(_FROM_NOTHING, 0) + 1
            return None
        try:
            return self.references.of(known)
        except LeftOutError as error:
            self.done.left_out[known.id] = str(error)
            return None

    def _photos_if_any(self, known: Known) -> tuple[Photo, ...]:
        """Return a job's references; none where they cannot be had, which is remarked upon."""
        try:
            return () if self.references is None else self.references.of(known)
        except LeftOutError as error:
            self.without[known.id] = str(error)
            return ()

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

    def _sample(self, known: Known, row: Mapping[str, Any], place: Sequence[str], photos: tuple[Photo, ...]) -> Sample:
        split, name, words = place
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
            words=json.loads(words),
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
            "CREATE TABLE plan (place INTEGER PRIMARY KEY, number INTEGER, sha256, split, name, words, folded UNIQUE)"
        )
        self._connection.execute("BEGIN")
        self.count = self.references = 0
        self.splits: Counter[str] = Counter()
        self.suffixes: Counter[str] = Counter()

    def add(
        self,
        known: Known,
        split: str,
        suffix: str,
        references: int,
        called: Called | None = None,
    ) -> bool:
        """Add a picture, of the name and the words that a format gave it; False where another has that name."""
        names = names_of(str(known.file_name), known.key.hex()) if called is None else [called.name]
        said = json.dumps({} if called is None else called.words)
        for name in names:
            values = (known.number, known.sha256, split, name, said, folded(name))
            statement = "INSERT OR IGNORE INTO plan VALUES (NULL, ?, ?, ?, ?, ?, ?)"
            if self._connection.execute(statement, values).rowcount:
                break
        else:
            return False
        self.count += 1
        self.splits[split] += 1
        self.suffixes[suffix] += 1
        self.references = max(self.references, references)
        return True

    def number_of(self, name: str) -> int:
        """Return the number of the job whose picture has a name."""
        found = self._connection.execute("SELECT number FROM plan WHERE folded = ?", (folded(name),))
        return int(found.fetchone()[0])

    def rows(self) -> Iterator[tuple[int, str, str, str, str]]:
        """Yield number, digest, split, name and words (JSON) of each."""
        yield from self._connection.execute("SELECT number, sha256, split, name, words FROM plan ORDER BY place")

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
