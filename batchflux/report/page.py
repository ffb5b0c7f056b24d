"""Builds the page: one HTML file with its style, its script and its rows in it; it asks for nothing but pictures.

Untrusted text reaches it as data only: in JSON that no text can break out of, or through Jinja2's autoescape; and only
the page's own script may run. A page opened from disk cannot import modules, so those of assets/ are joined into one
function, each after those it imports, without `import` lines and `export`.

The rows lie in blocks of columns, written as they come. What grid, filters and charts need (INDEX) is apart from the
rest, which is unpacked when a picture is opened. The first index is small, plain JSON, so that pictures are on the
screen before the page has been read to its end; all else is gzip in base64.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from functools import cache
from importlib import resources
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

INDEX = (  # noqa: SIM905  reads like a row
    "id status error_code style provider model seed aspect_ratio variant prompt tags references thumb width height "
    "spent attempts api_seconds started_at finished_at review note reviewer position key"
).split()
FIRST = 120  # rows of the first block: more than a large screen shows
SIZE = 2000
ENTRY = "main.js"
STYLES = (  # noqa: SIM905  reads like a row
    "tokens.css base.css header.css controls.css grid.css sheet.css large.css compare.css charts.css night.css"
).split()
_IMPORT = re.compile(r'^import \{(?:\s*\w+,)*\s*(?:\w+\s+)?\} from "\./(\w+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async function|function|class|const|let) \w)", re.MULTILINE)
_DECLARED = re.compile(r"^(?:async function|function|class|const|let) (\w+)", re.MULTILINE)
_OTHER_FORM = re.compile(r"^(?:import|export|var|const [{\[]|let [{\[]).*", re.MULTILINE)


class Block(NamedTuple):
    """One block of the page: its index (`head`: JSON when `plain`, otherwise base64) and the rest (base64)."""

    head: Markup
    rest: Markup
    plain: bool


def build_page(
    rows: Iterable[dict[str, Any]],
    header: dict[str, Any],
    *,
    token: str | None = None,
    sequence: int = 0,
    elsewhere: str = "",
    nights: Sequence[dict[str, Any]] = (),
) -> Iterator[bytes]:
    """Yield the page in pieces, UTF-8, as the rows of `page_row` come; `nights` are those of `page_nights`.

    A `token` makes it a live one: it sends the token with every verdict, and follows the events from `sequence` on.
    `elsewhere` is the one origin beside the folder that it may load pictures from.
    """
    stream = iter(rows)
    first = list(islice(stream, FIRST))
    setup = {
        "columns": INDEX,
        "header": header,
        "nights": nights,
        "live": None if token is None else {"sequence": sequence},
    }
    pages = Environment(loader=PackageLoader("batchflux.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    pieces = pages.get_template("page.html.j2").generate(
        name=header["name"],
        policy=content_security_policy(live=False, elsewhere=elsewhere),
        token=token,
        style=_as_it_is(style()),
        script=_as_it_is(script()),
        setup=script_json(setup),
        first=first,
        blocks=blocks(chain(first, stream)),
    )
    for piece in pieces:
        yield piece.encode(errors="replace")


def blocks(rows: Iterable[dict[str, Any]]) -> Iterator[Block]:
    """Yield the rows as blocks."""
    stream, size = iter(rows), FIRST
    while batch := list(islice(stream, size)):
        index = _columns(batch, INDEX)
        rest = _columns(batch, [name for name in batch[0] if name not in INDEX])
        plain = size == FIRST
        yield Block(head=script_json(index) if plain else _packed(index), rest=_packed(rest), plain=plain)
        size = SIZE


def script_json(value: Any) -> Markup:
    """Return JSON that may stand inside a script element: nothing in it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _as_it_is(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _columns(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    return {"count": len(rows), "columns": {name: _column([row[name] for row in rows]) for name in names}}


def _column(values: list[Any]) -> dict[str, Any]:
    """Return a column as its distinct values `of` and where they stand (`at`), or `all` of it when most differ."""
    marks = [json.dumps(value) if isinstance(value, (dict, list)) else value for value in values]
    distinct = dict(zip(marks, values, strict=True))
    of = [*distinct.values()]
    if len(of) == 1:
        return {"of": of}
    places = {mark: place for place, mark in enumerate(distinct)}
    return {"all": values} if len(of) > len(values) // 2 else {"of": of, "at": [places[mark] for mark in marks]}


def _packed(value: Any) -> Markup:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    packed = gzip.compress(text.encode(errors="replace"), compresslevel=6, mtime=0)
    return _as_it_is(base64.b64encode(packed).decode())


def _as_it_is(text: str) -> Markup:
    return Markup(text)  # noqa: S704  the package's own files, base64, and what script_json escaped


@cache
def style() -> str:
    """Return the page's style sheet."""
    return "".join(map(_asset, STYLES))


@cache
def script() -> str:
    """Return the page's script: its modules share one scope that nothing outside can reach."""
    return join_modules(ENTRY, _asset)


def content_security_policy(*, live: bool, elsewhere: str = "") -> str:
    """Return the policy of the served page (a response header) or of the file (a meta element: no `frame-ancestors`).

    A page from disk has no origin that 'self' could mean, hence `file:`.
    """
    pictures = "'self' data:" if live else f"'self' file: data: {elsewhere}".rstrip()
    more = "; connect-src 'self'; frame-ancestors 'none'" if live else ""
    return (
        f"default-src 'none'; script-src '{_digest(script())}'; style-src '{_digest(style())}'; base-uri 'none'; "
        f"form-action 'none'; img-src {pictures}{more}"
    )


def join_modules(entry: str, read: Callable[[str], str]) -> str:
    """Return the module `entry` and all that it imports as one script; `read` gives a module's text by its name.

    Raises ValueError: modules import each other in a circle, declare the same name, or cannot be joined as written.
    """
    owners: dict[str, str] = {}
    joined: dict[str, str] = {}

    def take(name: str, importers: tuple[str, ...]) -> None:
        if name in importers:
            raise ValueError(f"{name} imports itself: {' -> '.join((*importers, name))}.")
        if name in joined:
            return
        text = read(name)
        for imported in _IMPORT.findall(text):
            take(imported, (*importers, name))
        text = _EXPORT.sub("", _IMPORT.sub("", text))
        if (other := _OTHER_FORM.search(text)) is not None:
            raise ValueError(f"{name} cannot be joined with other modules: {other.group()!r}.")
        for declared in _DECLARED.findall(text):
            if owners.setdefault(declared, name) != name:
                raise ValueError(f"{name} and {owners[declared]} both declare {declared}.")
        joined[name] = text

    take(entry, ())
    return f'(() => {{\n"use strict";\n{"".join(joined.values())}}})();\n'


def _asset(name: str) -> str:
    return (resources.files("batchflux.report") / "assets" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
