"""The ports of exporters, and what stands in a row of results.csv: columns in their order, no spreadsheet formulas."""

from __future__ import annotations

import json
import re
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from batchflux.ledger.tables import Known, currency
from batchflux.output.folder import iso
from batchflux.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from batchflux.exports.places import Place

COLUMNS = {
    "id": "the job's name",
    "status": "done, failed or unknown",
    "file_name": "the picture, relative to the output folder",
    "prompt": "as it was sent",
    "images": "references, parted by blanks; URLs without their signatures",
    "seed": "as asked for",
    "aspect_ratio": "as asked for",
    "output_format": "as asked for",
    "model": "that was asked",
    "provider": "by its name in the manifest",
    "style": "the call style",
    "width": "of the picture, in pixels",
    "height": "of the picture, in pixels",
    "bytes": "size of the file",
    "sha256": "of the file",
    "attempts": "requests that could cost money",
    "possibly_billed": "attempts without a picture that may have been billed",
    "cost": "of the picture, in the provider's currency; as the answer told, else the price",
    "error_code": "why it failed (see errors)",
    "error": "the same in a sentence",
    "started_at": "when the first request left, UTC",
    "finished_at": "when it ended, UTC",
    "api_seconds": "of the call, or of the task from submit to end",
    "download_seconds": "of the picture",
    "result_url": "the picture's link, without its signature",
    "key": "the job's content hash: the same key is the same job",
    "remarks": "how the picture differs from the order, what was not sent",
    "seed_used": "the seed that the answer told",
    "revised_prompt": "the prompt that the answer told",
}
HEADER = tuple(COLUMNS)
# Blanks and quotes may come before the sign, which may be a full-width or small one. Behind a `;` a cell begins in a
# locale that has it between cells: Excel splits the line there, since our quotes are not where its own cells begin.
_BLANKS = r'[\s"\u200b\u2060\ufeff]*'
_SIGN = r"[-=+@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212]"
_BEGINS = re.compile(rf"[\t\r\n]|{_BLANKS}{_SIGN}")
_BEGINS_INSIDE = re.compile(rf";(?={_BLANKS}{_SIGN})")


class Exporter(Protocol):
    """Writes the jobs that ended in one format. An exporter may be closed more than once."""

    def write(self, row: Known, image: Callable[[], bytes | None]) -> None:
        """Add an ended job, whose picture's bytes `image` reads; StorageError: what was written before stands."""

    def close(self) -> None:
        """Finish the export: all that was written is there for any reader when this returns, or StorageError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """A reference of a picture: its suffix (`.jpg`), its size in bytes, and what reads them (StorageError)."""

    source: str
    mark: str  # changes with the bytes of a local photo, with the address of a remote one
    suffix: str
    size: int
    read: Callable[[], bytes] = field(repr=False, compare=False)


class Noted(NamedTuple):
    """A picture's bytes with the marks that it got, and what a user is told of that; '' where there is nothing."""

    data: bytes
    remark: str = ""


def _unmarked(drawn: bytes, _received: bytes) -> Noted:
    return Noted(drawn)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A picture to be exported, and what goes with it.

    `name` is a file name without suffix and without folders, unique in the export, whatever the case; `split` is
    `train`, say. `size` (bytes) and `sha256` are the picture's, `made_at` (epoch seconds) is when it was made.
    `columns` has a value, or None, for each of `Export.columns`, in their order. `words` is what the format's own
    naming says of the picture. Where its format draws pictures anew, `mark` puts marks into what it drew of
    the bytes that were received, and keeps those that these had; `marks` changes with them.
    """

    id: str
    split: str
    name: str
    suffix: str
    size: int
    sha256: str
    made_at: float
    caption: str
    columns: Mapping[str, Any]
    references: tuple[Photo, ...] = ()
    words: Mapping[str, Any] = field(default_factory=dict)
    mark: Callable[[bytes, bytes], Noted] = field(default=_unmarked, repr=False, compare=False)
    marks: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What a format is to know of an export before its first picture.

    `columns` are the columns of each sample with their types: string, int64 or float64. `suffix` is that of most
    pictures, `references` the most that one has. `splits` are the names of all that have a picture, in their order.
    `layout` is what the user named behind the format, '' when nothing. What an exporter keeps open while it is written
    to it enters into `held`, which is left with the error where the export fails. `options` are what `Format.told`
    made of the user's. In `remarks` an exporter counts what a user should know of pictures that are in it all the same.
    """

    place: Place
    name: str
    columns: Mapping[str, str]
    splits: tuple[str, ...]
    suffix: str
    references: int = 0
    layout: str = ""
    held: ExitStack = field(default_factory=ExitStack)
    options: Any = None
    remarks: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """What the dataset card says of how an export is read.

    `use` is Markdown; `files` by split are for `datasets`, none where it cannot read them, and `config` further lines.
    `builder` is how `datasets` calls such files.
    """

    use: str
    builder: str = ""
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)
    config: tuple[str, ...] = ()


class DatasetExporter(Protocol):
    """Writes pictures with what goes with them, in one format, into a place that may hold part of it already.

    It writes files whole, through `Export.place`; what is there and would come out the same is left as it is, and is
    not read through. What it wrote depends on the samples alone: neither on the clock nor on what was there before.
    Made anew over what a killed one left, and given the same samples, it comes to the same bytes. Files of its own
    that an earlier export of the same format left, and this one has not, are removed by `close`.
    """

    loading: Loading
    """How it is read, once it is closed."""

    def write(self, sample: Sample, image: Callable[[], bytes]) -> None:
        """Add a picture, whose bytes `image` reads, in any thread and maybe later; StorageError."""

    def close(self) -> None:
        """Finish the export: all that was written is there for any reader when this returns, or StorageError."""


class Called(NamedTuple):
    """What a format calls a picture, without its suffix, and `Sample.words`, as JSON has them."""

    name: str
    words: Mapping[str, Any]


class Naming(Protocol):
    """Calls pictures by names of a format's own. It is asked for each once, in their order."""

    def of(self, row: Mapping[str, Any]) -> Called:
        """Return what a picture is called; UsageError."""


class Options(Protocol):
    """What a format is told beside what all are; with `references` pictures have those that there are."""

    @property
    def references(self) -> bool:
        """Whether it wants them."""

    def naming(self, tags: Sequence[str]) -> Naming:
        """Return what calls pictures, whose tags have these names; UsageError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format of exports: what makes its exporter (UsageError where it cannot be), and what it wants of the driver.

    `layouts` are what may stand behind its name, the first by default; with `references` each picture has some, with
    `accepted` only those are exported that a review accepted. `options` are the names of options of its own, which
    `told` checks (UsageError); a format that has some is for people: it has no splits, and no dataset card.
    `marks` are those that pictures get where the user says nothing; a format that `draws` them anew puts them in itself
    (`Sample.mark`).
    """

    make: Callable[[Export], DatasetExporter]
    layouts: tuple[str, ...] = ("",)
    references: bool = False
    accepted: bool = False
    options: frozenset[str] = frozenset()
    told: Callable[[Mapping[str, Any]], Options] | None = None
    marks: tuple[str, ...] = ()
    draws: bool = False


def neutralised(text: str) -> str:
    """Return a cell of which no spreadsheet runs any part as a formula (OWASP, "CSV Injection": a quote in front)."""
    marked = _BEGINS_INSIDE.sub(";'", text) if ";" in text else text
    return f"'{marked}" if _BEGINS.match(text) else marked


def cells(known: Known, tag_names: Sequence[str]) -> list[Any]:
    """Return the row of one ended job, in the order of HEADER, then its tags in the order of `tag_names`."""
    spec = json.loads(known.spec)
    tags = json.loads(known.tags) if known.tags else {}
    says = {
        **spec,
        **known._asdict(),
        "images": " ".join(spec["images"]),
        "cost": format(currency(known.cost), "f"),
        "error": known.error,
        "remarks": remarks_of(known, spec),
        "started_at": iso(known.started_at),
        "finished_at": iso(known.finished_at),
        "api_seconds": _seconds(known.api_seconds),
        "download_seconds": _seconds(known.download_seconds),
        "result_url": redacted(known.link) if known.link else "",
        "key": known.key.hex(),
    }
    row = [*map(says.get, HEADER), *(tags.get(name, "") for name in tag_names)]
    return [neutralised(cell) if isinstance(cell, str) else cell for cell in row]


def remarks_of(known: Known, spec: dict[str, Any]) -> str:
    """Return how the picture differs, and what `params: drop` left out of the request (`spec`: the row's, parsed)."""
    told = [known.remarks] if known.remarks else []
    if "dropped" in spec:
        told.append(f"not sent, style {spec['style']} cannot carry it: {', '.join(spec['dropped'])}")
    return "; ".join(told)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
