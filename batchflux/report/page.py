"""Builds the page: one HTML file with its style, its script and its rows in it; it asks for nothing but pictures.

Untrusted text (prompts, tags, errors, names) reaches it as data only: in JSON that no text can break out of, or
through Jinja2's autoescape. The Content-Security-Policy names the page's own script and style by their digests, so that
nothing else would run even if something slipped through.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from batchflux.report.blocks import FIRST, INDEX, blocks, script_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STYLES = ("tokens.css", "base.css", "header.css", "controls.css", "grid.css", "sheet.css", "large.css", "charts.css")
SCRIPTS = (
    "dom.js",
    "words.js",
    "store.js",
    "state.js",
    "fields.js",
    "lines.js",
    "gallery.js",
    "sheet.js",
    "numbers.js",
    "svg.js",
    "charts.js",
    "facets.js",
    "controls.js",
    "header.js",
    "slider.js",
    "panel.js",
    "large.js",
    "notes.js",
    "judge.js",
    "live.js",
    "keys.js",
    "main.js",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """Makes the page a live one: it can judge, and follows the events of the server that gave it.

    `token` is sent with every verdict; `sequence` is where the stream of events goes on from.
    """

    token: str
    sequence: int = 0


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
        style=Markup(style()),  # noqa: S704  the package's own file
        script=Markup(script()),  # noqa: S704  the package's own file
        setup=Markup(script_json(setup)),  # noqa: S704  escaped for a script element
        first=first,
        blocks=((Markup(block.index), Markup(block.rest), block.plain) for block in blocks(chain(first, stream))),  # noqa: S704  base64, or escaped
    )
    for piece in pieces:
        yield piece.encode(errors="replace")


def content_security_policy(*, live: bool) -> str:
    """Return the page's policy: of the served page (a response header) or of the file (a meta element).

    `frame-ancestors` is for headers only. A page from disk has no origin that 'self' could mean, hence `file:`.
    """
    rules = [
        "default-src 'none'",
        f"script-src '{_digest(script())}'",
        f"style-src '{_digest(style())}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    if live:
        rules += ["img-src 'self' data:", "connect-src 'self'", "frame-ancestors 'none'"]
    else:
        rules += ["img-src 'self' file: data:"]
    return "; ".join(rules)


@cache
def style() -> str:
    """Return the page's style sheet."""
    return _joined(STYLES)


@cache
def script() -> str:
    """Return the page's script: its files share one scope that nothing outside can reach."""
    return f'(() => {{\n"use strict";\n{_joined(SCRIPTS)}}})();\n'


@cache
def _environment() -> Environment:
    return Environment(loader=PackageLoader("batchflux.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True)


def _joined(names: Iterable[str]) -> str:
    folder = resources.files("batchflux.report") / "assets"
    return "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
