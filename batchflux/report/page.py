"""Builds the page: one HTML file with its style, its script and its rows in it; it asks for nothing but pictures.

Untrusted text (prompts, tags, errors, names) reaches it as data only: in JSON that no text can break out of, or
through Jinja2's autoescape. Nothing but the page's own script would run even if something slipped through (bundle.py).

The rows lie in it in blocks of columns. What the grid, the filters and the charts need (INDEX) is apart from the rest,
which the page unpacks when a picture is opened. The first index is small, plain JSON, so that pictures are on the
screen before the page has been read to its end; all else is gzip in base64. Blocks are written as rows come.
"""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import dataclass
from functools import cache
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from batchflux.report.bundle import content_security_policy, script, style

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

INDEX = (  # noqa: SIM905  reads like a row
    "id status error_code style model seed aspect_ratio variant prompt tags references thumb width height spent "
    "attempts api_seconds started_at finished_at review note position key"
).split()
FIRST = 120  # rows of the first block: more than a large screen shows
SIZE = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """Makes the page a live one: it can judge, and follows the events of the server that gave it.

    `token` is sent with every verdict; `sequence` is where the stream of events goes on from.
    """

    token: str
    sequence: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block of the page: the text of its index (JSON when `plain`, otherwise base64) and of the rest (base64)."""

    index: str
    rest: str
    plain: bool


def build_page(rows: Iterable[dict[str, Any]], header: dict[str, Any], *, live: Live | None = None) -> Iterator[bytes]:
    """Yield the page in pieces, UTF-8, as the rows come (page_row's objects; the header of `page_header`)."""
    template = _environment().get_template("page.html.j2")
    stream = iter(rows)
    first = list(islice(stream, FIRST))
    setup = {"columns": INDEX, "header": header, "live": None if live is None else {"sequence": live.sequence}}
    pieces = template.generate(
        name=header["name"],
        policy=content_security_policy(live=False),
        token=None if live is None else live.token,
        style=_as_it_is(style()),
        script=_as_it_is(script()),
        setup=_as_it_is(script_json(setup)),
        first=first,
        blocks=((_as_it_is(one.index), _as_it_is(one.rest), one.plain) for one in blocks(chain(first, stream))),
    )
    for piece in pieces:
        yield piece.encode(errors="replace")


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


def _as_it_is(text: str) -> Markup:
    """Return text for the template to take as it is: the package's own files, base64, and what script_json escaped."""
    return Markup(text)  # noqa: S704  see above


@cache
def _environment() -> Environment:
    return Environment(loader=PackageLoader("batchflux.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
