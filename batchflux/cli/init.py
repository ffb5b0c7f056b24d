"""Begin a manifest: `batchflux init`, from nothing, from a table or from a folder of photos; and `batchflux schema`."""

from __future__ import annotations

import json
import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchflux.cli.terminal import count
from batchflux.errors import ManifestError, ReadError, UsageError
from batchflux.ledger.reconcile import Selection
from batchflux.manifest import schema as manifest_schema
from batchflux.manifest import starter
from batchflux.manifest.rows import written
from batchflux.planner import load_manifest
from batchflux.planner import plan as make_plan
from batchflux.providers import capabilities
from batchflux.tables import Given, opened
from batchflux.tables.cells import is_blank, trimmed
from batchflux.tables.encodings import named

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from batchflux.planner import Plan

SCHEMA_FILE = "batchflux.schema.json"
EDITORS = f"# yaml-language-server: $schema={SCHEMA_FILE}\n"
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif", ".tif", ".tiff", ".bmp", ".gif", ".avif")
ROWS, FILES = 10_000, 100_000  # that are looked at
_IDS = tuple(  # names of columns that name a product, the best first
    re.compile(words, re.IGNORECASE)
    for words in ("sku|货号", "handle|article|编号|编码", "^(item|product|商品).?(no|number|id|code)", "^id$")
)
_TITLES = re.compile(
    "prompt|title|^name$|product.?name|subject|caption|descri|标题|名称|品名|描述|提示词", re.IGNORECASE
)
_SAYS_ALL = re.compile("prompt|提示词", re.IGNORECASE)
_FIELDS = ("seed", "aspect_ratio")  # that are taken from a column of that name
_PARTS = re.compile(r"\s*[|\n]\s*|\s*[,;]\s+|\s*[,;](?=https?://)")
_SAFE = re.compile(r"[\w.-]+")
_LETTER = re.compile(r"[^\W\d_]")
_LONGEST_ID = 60


@dataclass(kw_only=True)
class Column:
    """What the first rows of a table have in one column: texts that are not blank, and how many are."""

    name: str
    texts: list[str] = field(default_factory=list)
    blank: int = 0

    @cached_property
    def pictures(self) -> list[str]:
        """The paths and URLs of pictures in it."""
        parts = (part for text in self.texts for part in _PARTS.split(text))
        return [part for part in parts if part.split("?")[0].lower().endswith(PICTURES)]

    @property
    def local(self) -> list[str]:
        """The paths of pictures in it."""
        return [one for one in self.pictures if "://" not in one and not one.startswith(("//", "www."))]

    @property
    def several(self) -> bool:
        """Whether a cell may hold several references."""
        return any(len(_PARTS.split(text)) > 1 for text in self.texts)

    @property
    def names_rows(self) -> bool:
        """Whether each row has its own short text here, one that a file may be named by."""
        short = all(_SAFE.fullmatch(text) and len(text) <= _LONGEST_ID for text in self.texts)
        return bool(self.texts) and not self.blank and short and len({*self.texts}) == len(self.texts)

    @property
    def width(self) -> float:
        """How long its texts are, on the average."""
        return sum(map(len, self.texts)) / max(len(self.texts), 1)

    def read(self, *filters: str) -> str:
        """Return the template that reads it."""
        return "{{ " + " | ".join((written(self.name), *filters)) + " }}"


@click.command("init")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option(
    "--from", "source", metavar="PATH", type=click.Path(path_type=Path), help="A table or a folder of photos."
)
@click.option("--encoding", metavar="NAME", help="Of the table, where it is not certain.")
def init(file: Path | None, source: Path | None, encoding: str | None) -> None:
    """Write a starter manifest to FILE (batchflux.yaml). It runs at once, on the simulator.

    With --from it is a manifest for that table, or for the photos of that folder: one that plans without a fault; its
    FILE is named like them. Beside it goes batchflux.schema.json, by which editors complete and check what you write.
    """
    if file is not None and stat.S_ISDIR(_mode(file)):
        remedy = f"name a file, or write one for its photos with: batchflux init --from {file}"
        raise UsageError(f"{file} is a folder: {remedy}")
    name = "batchflux" if source is None else source.resolve().name.split(".")[0]
    file = file or Path(f"{name}.yaml")
    if source is None:
        write_new(file, EDITORS + starter())
    else:
        result = _fitted(file, list(_from(source, file.parent, encoding)))
        click.echo(f"{count(result.counts['total'], 'job')} from {source}.", err=True)
    with suppress(UsageError):  # one that is there may be of another manifest, and serves as well
        write_new(file.with_name(SCHEMA_FILE), _schema_text())
    click.echo(f"Wrote {file}. Next: batchflux plan {file}, then batchflux run {file}", err=True)


@click.command("schema")
def schema() -> None:
    """Print the manifest's JSON Schema; editors use it to complete and check what you write."""
    click.echo(_schema_text(), nl=False)


def _schema_text() -> str:
    return json.dumps(manifest_schema(capabilities()), indent=2, ensure_ascii=False) + "\n"


def _mode(path: Path) -> int:
    """Return what a path is, as stat(2) does; 0: nothing, or nothing that can be looked at, as too long a name."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def write_new(file: Path, text: str) -> None:
    """Write a file that is not there yet; UsageError: it is, or it cannot be written."""
    try:
        with file.open("x", encoding="utf-8") as handle:
            handle.write(text)
    except FileExistsError:
        raise UsageError(f"{file} is there already: name another file, or remove it first.") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be written ({error.strerror}): name another place.") from None


def _from(source: Path, base: Path, encoding: str | None) -> Iterator[dict[str, Any]]:
    """Yield what an entry for a table or folder may be, the richest first; UsageError: neither can be read."""
    there = os.path.relpath(source, base)
    if source.is_dir():
        if not any(path.suffix.lower() in PICTURES for path in source.iterdir()):
            raise UsageError(f"{source} holds no pictures ({', '.join(PICTURES)}): name the folder that does.")
        names = ",".join(suffix[1:] for suffix in PICTURES)
        entry: dict[str, Any] = {"prompt": "Remove the background"}
        entry["matrix"] = {"image": {"glob": f"{there}/*.{{{names}}}"}}
        yield {"id": "{{ image.stem }}", **entry}
        yield entry
        return
    if source.suffix.lower() in PICTURES:
        raise UsageError(f"{source} is a picture: name its folder ({source.parent}), or a table.")
    try:
        table = opened(source, Given(encoding and named(encoding)))
        columns, rows = _columns(table.source.rows(lambda _line, _message: None))
    except (ReadError, ValueError) as error:
        raise UsageError(
            f"{source}: {str(error).replace('add encoding: to the job, as encoding:', 'say --encoding')}."
        ) from None
    if not rows:
        raise UsageError(f"{source} has no rows: name a table with one row for each picture.")
    entry = {"from": there}
    entry |= {key: table.assumed[key] for key in ("encoding", "delimiter") if key in table.assumed}
    entry |= {"encoding": encoding} if encoding else {}
    yield from _entries(entry, columns, source.parent, base)


def _columns(rows: Iterable[tuple[int, Any]]) -> tuple[list[Column], int]:
    found: dict[str, Column] = {}
    number = 0
    for number, (_, row) in enumerate(islice(rows, ROWS), 1):
        for name, cell in row.items():
            column = found.setdefault(name, Column(name=name, blank=number - 1))
            if is_blank(cell):
                column.blank += 1
            else:
                text = "\n".join(map(str, cell)) if isinstance(cell, list) else trimmed(str(cell))
                column.texts.append(text)
        for name in found.keys() - row.keys():
            found[name].blank += 1
    return list(found.values()), number


def _entries(entry: dict[str, Any], columns: list[Column], beside: Path, base: Path) -> Iterator[dict[str, Any]]:
    """Yield the entry with an id and pictures; without an id; and without either."""
    photo = max(columns, key=lambda column: len(column.pictures), default=None)
    photo = photo if photo is not None and photo.pictures else None
    rest = [column for column in columns if column is not photo and column.texts]
    named = [column for pattern in _IDS for column in rest if pattern.search(column.name)]
    worded = [column for column in rest if any(map(_LETTER.search, column.texts))]
    title = next((column for column in worded if _TITLES.search(column.name)), None)
    title = title or max(worded, key=lambda column: column.width, default=next(iter(named), None))
    if title is None:
        raise UsageError("The table has nothing to make a prompt of: add a column of titles or prompts.")
    says = title.read('default("the product")') if title.blank else title.read()
    scene = "" if _SAYS_ALL.search(title.name) else " on a white table, product photograph, soft shadow"
    made = {**entry, "prompt": f"{says}{scene}"}
    tags = {} if not named else {"tags": {"sku": named[0].read('default("")') if named[0].blank else named[0].read()}}
    pictures: dict[str, Any] = {}
    if photo is not None:
        pictures = _pictures(photo, beside, base)
    if photo is None or not photo.local:
        pictures |= {name: column.read() for name in _FIELDS for column in rest if _is_field(column, name)}
    if (name := next((column for column in named if column.names_rows), None)) is not None:
        yield {"id": name.read(), **made, **pictures, **tags}
    yield {**made, **pictures, **tags}
    yield {**made, **tags}


def _is_field(column: Column, name: str) -> bool:
    return re.sub(r"\W+", "_", column.name.casefold()) == name


def _pictures(photo: Column, beside: Path, base: Path) -> dict[str, Any]:
    """Return the fields of an entry whose references stand in a column."""
    skip = {"skip_empty": True} if photo.blank else {}
    folder = _folder(photo.local, beside, base) if photo.local else ""
    if photo.several:
        return {"images": photo.read(), **skip}
    if not folder:
        return {"images": [photo.read()], **skip}
    return {"images": [f"{folder}/{photo.read('basename')}"], **skip}


def _folder(paths: list[str], beside: Path, base: Path) -> str:
    """Return the folder that holds photos which are not where the table says; empty: they are, or nobody knows."""
    if any(_mode(base / path) for path in paths):
        return ""
    names = {Path(path.replace("\\", "/")).name.casefold() for path in paths}
    hits: dict[Path, int] = {}
    for place, _, files in islice(os.walk(beside), FILES):
        hits[Path(place)] = sum(file.casefold() in names for file in files)
    best = max(hits, key=lambda place: hits[place], default=None)
    return os.path.relpath(best, base) if best is not None and hits[best] else ""


def _fitted(file: Path, entries: list[dict[str, Any]]) -> Plan:
    """Write the first of these entries that plans without a fault; UsageError: none does."""
    for last, entry in enumerate(entries, 1 - len(entries)):
        write_new(file, EDITORS + _manifest(entry))
        try:
            return make_plan(load_manifest(file), Selection())
        except ManifestError as error:
            file.unlink()
            if not last:
                raise UsageError(f"No manifest could be made that plans without a fault:\n{error}") from None
    raise AssertionError


def _manifest(entry: dict[str, Any]) -> str:
    """Return a manifest with one entry, as a person would write it."""
    lines = [
        "version: 1",
        "# for a real API: provider: {name: tuzi, keys: [TUZI_API_KEY], price: 0.14, currency: CNY}",
        "provider: {name: simulator}",
        "limits:",
        "  concurrency: 8                # requests in flight",
        "  # budget: 25.00               # never passed; it needs a price",
        "jobs:",
    ]
    for number, (key, value) in enumerate(entry.items()):
        lines.append(f"  {'- ' if number == 0 else '  '}{key}: {_yaml(value)}")
    if "matrix" not in entry:
        lines += ["    # matrix:                    # several of each", "    #   variant: {range: [1, 3]}"]
    return "\n".join(lines) + "\n"


def _yaml(value: Any) -> str:
    """Return a value in YAML's flow style."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return "'" + str(value).replace("'", "''") + "'"
