"""Which pictures are exported, into which split, and with what caption: what a user says, checked before any is read.

A condition is `COLUMN OPERATOR VALUE`. Numbers are compared as numbers where the column holds numbers, all else as
text, letter by letter; so `00123` is another sku than `123`. A column that is empty equals the empty text and no other.
"""

from __future__ import annotations

import hashlib
import operator
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchflux.errors import UsageError, quoted
from batchflux.exports.dataset import COLUMNS, tag_column
from batchflux.ledger.sample import is_meant
from batchflux.manifest.rows import written
from batchflux.manifest.templates import UndefinedError, compile_template

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MORE = {"file_name": "string", "review": "string", "note": "string", "reviewer": "string"}
"""What conditions and captions can name beside the columns of an export."""
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    "==": operator.eq,
    "=": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
    "~": lambda value, part: str(part) in str(value),
    "!~": lambda value, part: str(part) not in str(value),
}
_CONDITION = re.compile(r"\s*([\w.\- ]+?)\s*(>=|<=|!=|==|!~|=|>|<|~)\s*(.*?)\s*", re.DOTALL)
_SHARE = re.compile(r"\s*([A-Za-z][A-Za-z0-9_]*)\s*=\s*([0-9.]+)(%?)\s*")
_WHOLE, _CLOSE = 1 << 64, 1e-9


class Vocabulary:
    """The columns of an export by name, with their types, and what of a row stands in each."""

    def __init__(self, tags: Sequence[str]) -> None:
        self.tags = tuple(tags)
        self.columns = {**COLUMNS, **{tag_column(name): "string" for name in tags}}
        self.types = {**self.columns, **{f"tags.{name}": "string" for name in tags}, **MORE}

    def type_of(self, column: str, option: str) -> str:
        """Return a column's type; UsageError: there is none of this name."""
        if column not in self.types:
            raise UsageError(f"{option}: there is no column {quoted(column)}; there are {', '.join(self.types)}.")
        return self.types[column]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The shares of the splits, which come to 1, and the column whose value says in which a picture is."""

    shares: tuple[tuple[str, float], ...] = (("train", 1.0),)
    by: str = "prompt"

    @classmethod
    def of(cls, text: str | None, by: str) -> Split:
        """Read `train=0.9,test=0.1`; UsageError."""
        if text is None:
            return cls(by=by)
        shares: dict[str, float] = {}
        for part in text.split(","):
            found = _SHARE.fullmatch(part)
            if found is None or found[2].count(".") > 1 or found[2] == "." or found[1] in shares:
                raise UsageError(f"--split: found {quoted(text)}; allowed are names with shares: train=0.9,test=0.1")
            shares[found[1]] = float(found[2]) / (100 if found[3] else 1)
        if abs(sum(shares.values()) - 1) > _CLOSE or 0 in shares.values():
            raise UsageError(f"--split: the shares of {quoted(text)} come to {sum(shares.values()):g}, not to 1")
        return cls(shares=tuple(shares.items()), by=by)

    @property
    def names(self) -> tuple[str, ...]:
        """The splits in the order given."""
        return tuple(name for name, _ in self.shares)

    def of_value(self, value: Any) -> str:
        """Return the split of a value: always the same, whatever else is exported."""
        place = int.from_bytes(hashlib.sha256(str(value).encode(errors="surrogatepass")).digest()[:8]) / _WHOLE
        for name, share in self.shares:
            if place < share:
                return name
            place -= share
        return self.shares[-1][0]


class Selection:
    """Which rows are exported: of the ids that `only` means, accepted or all, and for which all conditions hold."""

    def __init__(
        self, words: Vocabulary, only: str | Sequence[str] | None, where: Sequence[str], *, accepted: bool
    ) -> None:
        """Check the conditions; UsageError says what cannot be."""
        self._only, self._accepted = only, accepted
        self._conditions = [_condition(text, words) for text in where]

    def takes(self, row: Mapping[str, Any]) -> bool:
        """Whether a row is exported; it has all of Vocabulary.types."""
        if not is_meant(row["id"], self._only):
            return False
        if self._accepted and row["review"] != "accept":
            return False
        return all(holds(row) for holds in self._conditions)


def _condition(text: str, words: Vocabulary) -> Callable[[Mapping[str, Any]], bool]:
    found = _CONDITION.fullmatch(text)
    if found is None:
        example = "width>=1024, tags.sku=M-1, prompt~cup"
        raise UsageError(
            f"--where: found {quoted(text)}; allowed is COLUMN, one of {' '.join(_OPERATORS)}, VALUE: {example}"
        )
    column, sign, value = found.groups()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1]
    compare, kind = _OPERATORS[sign], words.type_of(column, "--where")
    if kind == "string" or "~" in sign or value == "":
        return lambda row: compare("" if row[column] is None else str(row[column]), value)
    try:
        number = float(value)
    except ValueError:
        raise UsageError(f"--where: {column} holds numbers; found {quoted(value)} in {quoted(text)}") from None
    if sign == "!=":
        return lambda row: row[column] != number
    return lambda row: row[column] is not None and compare(row[column], number)


class Caption:
    """What is said of a picture: a template over the columns, and `more`; `tags` are a mapping there."""

    def __init__(self, template: str, words: Vocabulary, option: str = "--caption", more: Sequence[str] = ()) -> None:
        """Compile it; UsageError: it is no template, or names what no row has."""
        self._option = option
        try:
            self._compiled = compile_template(template)
        except ValueError as error:
            raise UsageError(f"{option}: {error}") from None
        known = {name for name in words.types if name.isidentifier()} | {"tags", "row", *more}
        if unknown := sorted(self._compiled.names - known):
            names = ", ".join(sorted(known - {"row"}))
            raise UsageError(f"{option}: there is no {quoted(unknown[0])}; there are {names}.")
        self._tags = words.tags

    def of(self, row: Mapping[str, Any], **more: Any) -> str:
        """Return the caption of a row; UsageError where it comes to none."""
        known = {name: row[f"tags.{name}"] for name in self._tags}
        try:
            return self._compiled.render({**row, **more, "tags": known, "row": row})
        except UndefinedError as error:
            names = ", ".join(written(name) for name in self._tags) or "none"
            raise UsageError(f"{self._option}: {error} for the job {row['id']}; the tags are {names}.") from None
        except ValueError as error:
            raise UsageError(f"{self._option}: {error} for the job {row['id']}") from None
