"""A page of the manual as a terminal shows it: no wider than that, and links by their words."""

from __future__ import annotations

import re
from textwrap import TextWrapper
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:)(?:[^)#]*/)?(\w*)[^)]*\)")  # to a page, with the topic's name
_ITEM = re.compile(r" *(?:- |\d\. )")
_CELL = re.compile(r"(?<!\\)\|")
_FENCE, _CODE, _BAR = "```", "    ", "|"
_SHORT = 22  # columns of a first cell that has the others beside it


def fitted(page: str, width: int) -> str:
    """Return a page in lines of at most `width` columns; code stays as it is, and so does a word that is longer."""
    lines = _LINK.sub(_named, page).splitlines()
    return "\n".join(line for part in _parts(lines) for line in _laid(part, width)) + "\n"


def _named(link: re.Match[str]) -> str:
    """Return a link's words, and the topic that it leads to where they do not say it."""
    words, topic = link[1], link[2]
    return words if not topic or topic in words.lower() else f"{words} (docs {topic})"


def _parts(lines: Iterable[str]) -> Iterator[list[str]]:
    """Yield what is laid out together: a paragraph, an item, a table, a block of code, or an empty line."""
    fenced, part = False, list[str]()
    for line in lines:
        fence = line.lstrip().startswith(_FENCE)
        goes_on = fenced or (bool(part) and _kind(part[0]) == _kind(line) and not _ITEM.match(line) and not fence)
        if part and not goes_on:
            yield part
            part = []
        part.append(line)
        fenced ^= fence
    yield part


def _kind(line: str) -> str:
    """Return what a line is: one of a table, code, a heading, empty, or text."""
    if line.startswith((_BAR, _CODE, "#")):
        return line[0]
    return "text" if line.strip() else ""


def _laid(part: Sequence[str], width: int) -> Iterable[str]:
    if part[0].startswith(_BAR):
        return _table([[cell.strip().replace(r"\|", _BAR) for cell in _CELL.split(row)[1:-1]] for row in part], width)
    if not part[0].strip() or part[0].startswith(("#", _CODE)) or part[0].lstrip().startswith(_FENCE):
        return part
    item = _ITEM.match(part[0])
    begins = "" if item is None else item[0]
    return _filled(" ".join(part).removeprefix(begins), width, begins)


def _table(rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """Yield the rows of a table: its columns side by side where they fit, else what a row has below each other."""
    heads, _, *others = rows
    wide = [max(map(len, column)) for column in zip(heads, *others, strict=True)]
    if sum(wide) + 2 * len(wide) <= width:
        for row in (heads, *others):
            yield "  ".join(f"{cell:<{most}}" for cell, most in zip(row, wide, strict=True)).rstrip()
        return
    usual = sorted(len(first) for first, *_ in others)[len(others) // 2]
    beside = min(wide[0], _SHORT) + 2 if usual <= _SHORT else len(_CODE)
    for first, *cells in others:
        short = len(first) + 2 <= beside
        if not short:
            yield from _filled(first, width, "")
        begins = f"{first if short else '':<{beside}}"
        for head, cell in zip(heads[1:], cells, strict=True):
            if cell:
                yield from _filled(f"{head}: {cell}" if head and len(cells) > 1 else cell, width, begins)
                begins = " " * beside
        if short and begins.strip():  # nothing stood beside it
            yield first


def _filled(text: str, width: int, begins: str) -> list[str]:
    """Return a text in lines, the first behind `begins`, the others below what follows that."""
    words = " ".join(text.split())
    hangs = TextWrapper(width, begins, " " * len(begins), break_long_words=False, break_on_hyphens=False)
    return hangs.wrap(words)
