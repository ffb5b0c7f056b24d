"""The page's style and script, each as one text, and the policy that lets nothing else run.

The script is written as ES modules, in assets/. A page opened from disk cannot import files, so the modules are joined
into one function, each after those it imports, without their `import` lines and the word `export`. That is right for
modules of a plain form, which is checked: `import { name } from "./module.js"` without other names; nothing is a
default; no two modules declare the same name, and none imports itself by way of others.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ENTRY = "main.js"
STYLES = ("tokens.css", "base.css", "header.css", "controls.css", "grid.css", "sheet.css", "large.css", "charts.css")
_IMPORT = re.compile(r'^import \{(?:\s*\w+,)*\s*(?:\w+\s+)?\} from "\./(\w+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async function|function|class|const|let) \w)", re.MULTILINE)
_DECLARED = re.compile(r"^(?:async function|function|class|const|let) (\w+)", re.MULTILINE)
_OTHER_FORM = re.compile(r"^(?:import|export|var|const [{\[]|let [{\[]).*", re.MULTILINE)


@cache
def style() -> str:
    """Return the page's style sheet."""
    return "".join(map(_asset, STYLES))


@cache
def script() -> str:
    """Return the page's script: its modules share one scope that nothing outside can reach."""
    return join_modules(ENTRY, _asset)


def content_security_policy(*, live: bool) -> str:
    """Return the page's policy: of the served page (a response header) or of the file (a meta element).

    Script and style are named by their digests. `frame-ancestors` is for headers only. A page from disk has no origin
    that 'self' could mean, hence `file:`.
    """
    pictures = "'self' data:" if live else "'self' file: data:"
    more = "; connect-src 'self'; frame-ancestors 'none'" if live else ""
    return (
        f"default-src 'none'; script-src '{_digest(script())}'; style-src '{_digest(style())}'; base-uri 'none'; "
        f"form-action 'none'; img-src {pictures}{more}"
    )


def join_modules(entry: str, read: Callable[[str], str]) -> str:
    """Return the module `entry` and all that it imports as one script; `read` gives a module's text by its name.

    Raises:
        ValueError: modules import each other in a circle, declare the same name, or use a form that cannot be joined.
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
        other = _OTHER_FORM.search(text)
        if other is not None:
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
