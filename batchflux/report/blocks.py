"""How the rows lie in the page: blocks of columns, each with its own dictionaries.

What the grid, the filters and the charts need (INDEX) is in one block, all else that a row says (the rest) in
another, which the page unpacks when a picture of it is opened. The first block is plain JSON and small, so that the
first pictures are on the screen before the page has been read to its end; all others are gzip in base64. Blocks are
written as rows come: nothing of a finished one stays in memory.
"""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

INDEX = (  # noqa: SIM905  reads like the contract
    "id status error_code style model seed aspect_ratio variant prompt tags references thumb width height spent "
    "attempts api_seconds started_at finished_at review note position key"
).split()
FIRST = 120  # rows of the first block: more than a large screen shows
SIZE = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block of the page: the text of its index (JSON when `plain`, otherwise base64) and of the rest (base64)."""

    index: str
    rest: str
    plain: bool


def blocks(rows: Iterable[dict[str, Any]]) -> Iterator[Block]:
    """Yield the rows as blocks."""
    stream = iter(rows)
    size = FIRST
    while batch := list(islice(stream, size)):
        index = _columns(batch, INDEX)
        rest = _columns(batch, [name for name in batch[0] if name not in INDEX])
        plain = size == FIRST
        yield Block(index=script_json(index) if plain else _packed(index), rest=_packed(rest), plain=plain)
        size = SIZE


def script_json(value: Any) -> str:
    """Return JSON that may stand inside a script element: nothing in it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _columns(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    return {"count": len(rows), "columns": {name: _column([row[name] for row in rows]) for name in names}}


def _column(values: list[Any]) -> dict[str, Any]:
    """Return a column as its distinct values `of` and where they stand (`at`), or `all` of it when most differ."""
    distinct: dict[Any, int] = {}
    of: list[Any] = []
    at: list[int] = []
    for value in values:
        mark = json.dumps(value) if isinstance(value, (dict, list)) else value
        code = distinct.get(mark)
        if code is None:
            code = distinct[mark] = len(of)
            of.append(value)
        at.append(code)
    if len(of) == 1:
        return {"of": of}
    return {"of": of, "at": at} if len(of) <= len(values) // 2 else {"all": values}


def _packed(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(errors="replace"), compresslevel=6, mtime=0)).decode()
