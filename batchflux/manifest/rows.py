"""What the templates of an entry see of a row: its cells, blank ones as undefined, and columns by a name of letters.

A column such as `Image Src` is `row["Image Src"]`, and `image_src` where nothing else has that name. `where` keeps a
row by what it comes to: nothing, 0, false, no and off leave it out, as a blank cell does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from jinja2.exceptions import SecurityError

from batchflux.errors import quoted
from batchflux.manifest.reading.objects import REMOTE
from batchflux.manifest.templates import Blank, BlankError, shown
from batchflux.tables.cells import MISSING, is_blank, trimmed

Row = Mapping[str, Any]
_LEAVES_OUT = re.compile(r"'?0([.,]0+)?|false|no?|off|\[\]|\{\}", re.IGNORECASE)
_EXPRESSIONS = re.compile(r"\{\{[-+]?(.*?)[-+]?\}\}", re.DOTALL)
_OTHERS = re.compile(r"\$?\{[ \t]*([^{}%]+?)[ \t]*\}|%\(([^()]+)\)s")  # how other programs name a variable
_NOT_WORD = re.compile(r"\W+")
_TEXT_MARK = "'"  # in front of a number that a spreadsheet is to keep as text
_WHOLE = re.compile(r"(?![-+]?[0-9]{1,3}\.000$)([-+]?[0-9]+)\.0+")  # but 1.000, which is a thousand to many
_TIME = re.compile(r"0?([1-9][0-9]?):0?([1-9][0-9]?)(?::00)?")  # what a spreadsheet makes of 16:9
_PARTS = re.compile(rf"\s*[|\n]\s*|\s*[,;]\s+|\s*[,;](?={REMOTE})|\s+(?={REMOTE})", re.IGNORECASE)
_LOCAL_PARTS = re.compile(r"\s*[,;]\s*")
_AS_TEXT = frozenset({"id", "model"})  # fields in which a leading ' may be meant
_WHOLE_FIELDS = frozenset({"seed", "safety_tolerance", "variant"})


@lru_cache(maxsize=65_536)
def alias(column: str) -> str | None:
    """Return the name by which a template may read a column that is no variable's name; None for one that is."""
    if column.isidentifier() or not column.isprintable():
        return None
    name = _NOT_WORD.sub("_", column.casefold()).strip("_")
    name = re.sub(r"__+", "_", name)
    return (name if name.isidentifier() else f"_{name}") if name else None


def aliases(columns: Iterable[str]) -> dict[str, str]:
    """Return the columns that have a name of their own for templates, by it; not where two would share one."""
    taken = set(columns)
    made: dict[str, str] = {}
    for column in taken:
        name = alias(column)
        if name is not None and name not in taken:
            made[name] = "" if name in made else column
    return {name: column for name, column in made.items() if column}


def written(column: str) -> str:
    """Return how a template reads a column."""
    return column if column.isidentifier() else f"row[{json.dumps(column, ensure_ascii=False)}]"


def hint(template: str, columns: Iterable[str]) -> str | None:
    """Return how the columns are read that a template names as they stand in the header; None when it names none."""
    by_name = {column.casefold(): column for column in columns if not column.isidentifier()}
    for inner in _EXPRESSIONS.findall(template):
        column = by_name.get(trimmed(inner).casefold()) or by_name.get(trimmed(inner.split("|")[0]).casefold())
        if column is not None:
            short = alias(column)
            read = f"{{{{ {written(column)} }}}}" + (f" or {{{{ {short} }}}}" if short else "")
            return f"the template {quoted(template)} names the column {quoted(column)}, which is read as {read}"
    return None


def foreign(text: str, names: Iterable[str]) -> str | None:
    """Return what to write for a variable that a text has as other programs do, as {title}; None for none."""
    found = list(_OTHERS.finditer(_EXPRESSIONS.sub("", text)))
    by_name = {name.casefold(): name for name in names} if found else {}
    for match in found:
        name = by_name.get((match[1] or match[2]).casefold())
        if name is not None:
            itself = f"{{{{ {json.dumps(match[0], ensure_ascii=False)} }}}}"
            return (
                f"{match[0]} would be sent as it stands; write {{{{ {written(name)} }}}}, or {itself} for these marks"
            )
    return None


class View:
    """The rows of one entry as its templates see them; `read` are the variables that those read."""

    def __init__(self, read: Iterable[str], columns: Iterable[str] | None, where: Callable[[Row], str] | None) -> None:
        self.where = where
        self._whole = "row" in read
        self._read = frozenset(read) - {"row"}
        known = None if columns is None else frozenset(columns)
        self._aliases = (
            None if known is None else {name: column for name, column in aliases(known).items() if name in self._read}
        )
        self._watched = self._read if known is None else tuple(known & self._read)

    def of(self, row: Row) -> Row:
        """Return what templates see of a row: the row itself, where it needs nothing."""
        made = row
        watched = row if self._whole else self._watched
        blank: list[str] = []
        for name in watched:
            cell = row.get(name, True)
            # Nearly all cells are words, which neither begin nor end as what may be blank does.
            sure = type(cell) is str and cell[:1].isalnum() and cell[-1].isalnum() and cell not in MISSING
            if not sure and is_blank(cell):
                blank.append(name)
        if blank:
            made = {**row, **{name: Blank(name, row[name]) for name in blank}}
        extra = self._aliases
        if extra is None:
            missing = self._read.difference(row)
            extra = {name: column for name, column in aliases(row).items() if name in missing} if missing else {}
        if extra:
            cells = {name: (made[column], column) for name, column in extra.items()}
            made = {**made, **{n: Blank(c, cell) if is_blank(cell) else cell for n, (cell, c) in cells.items()}}
        return made

    def keeps(self, seen: Row) -> bool:
        """Whether `where` keeps a row."""
        if self.where is None:
            return True
        try:
            text = trimmed(self.where({**seen, "row": seen}))
        except BlankError:
            return False
        return not is_blank(text) and _LEAVES_OUT.fullmatch(text) is None


def without_blanks(variables: Row) -> Row:
    """Return the variables with empty text in place of blank cells."""
    made: dict[str, Any] = {name: "" if isinstance(value, Blank) else value for name, value in variables.items()}
    if isinstance(row := made.get("row"), Mapping):
        made["row"] = without_blanks(row)
    return made


def of_paths(variables: Row) -> Row:
    """Return the variables as parts of a path: without what spreadsheets leave around a cell."""
    made: dict[str, Any] = {
        name: tidy("images", value) if type(value) is str else value for name, value in variables.items()
    }
    if isinstance(row := made.get("row"), Mapping):
        made["row"] = of_paths(row)
    return made


def as_written(variables: Row) -> Row:
    """Return the variables with blank cells as they stand in the table."""
    made: dict[str, Any] = {
        name: value.cell or "" if isinstance(value, Blank) else value for name, value in variables.items()
    }
    if isinstance(row := made.get("row"), Mapping):
        made["row"] = as_written(row)
    return made


def tidy(name: str, text: str) -> str:
    """Return what a rendered field says, without what spreadsheets leave around it: blanks, a `'` in front, a `.0`."""
    text = trimmed(text)
    if name in _AS_TEXT:
        return text
    text = text.removeprefix(_TEXT_MARK) if text.count(_TEXT_MARK) == 1 else text
    if name == "aspect_ratio" and (time := _TIME.fullmatch(text)) is not None:
        return f"{time[1]}:{time[2]}"
    match = _WHOLE.fullmatch(text) if name in _WHOLE_FIELDS else None
    return match[1] if match is not None else text


def tidied(name: str, read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return the reader of a field for what a template gives."""
    return read if name == "prompt" else lambda text: read(tidy(name, text))


def references_in(value: Any, *, split: bool) -> list[str]:
    """Return the references that a value holds: those of a list, and of a text, split where it lists several."""
    if isinstance(value, (list, tuple)):
        return [text for item in value for text in references_in(item, split=False)]
    if isinstance(value, dict):  # as shops export a picture
        value = value.get("src") or value.get("url")
        if not value:
            raise ValueError("found a mapping without src or url; allowed are paths and URLs")
    try:
        text = tidy("images", str(shown(value)))
    except SecurityError as error:
        raise ValueError(f"{error}; allowed are paths and URLs") from None
    if not split or not text:
        return [] if is_blank(text) else [text]
    if text.startswith("["):
        try:
            found = json.loads(text if '"' in text else text.replace(_TEXT_MARK, '"'))
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, list):
            return references_in(found, split=False)
    made: list[str] = []
    for part in map(trimmed, _PARTS.split(text)):
        made += [part] if "://" in part else _LOCAL_PARTS.split(part)
    return [part for part in made if not is_blank(part)]
