"""Templates made ready: compiled once, with the names they read.

The rule: a template sees the row's columns, the axes and `row`; an unknown variable is an error. What is only text
and plain `{{ name }}` is put together without Jinja, to the same result, for it is what a million rows are made of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateSyntaxError, meta
from jinja2 import UndefinedError as JinjaUndefined
from jinja2.exceptions import SecurityError, TemplateError

from batchflux.manifest.templates import MAX_OUTPUT, Sandbox, environment, refuse, shown, shown_in_name
from batchflux.manifest.yaml_nodes import quoted

if TYPE_CHECKING:
    from jinja2 import Template as JinjaTemplate

Variables = Mapping[str, Any]
Renderer = Callable[[Variables], str]

_PLAIN = re.compile(r"\{\{[ \t]*([A-Za-z_][A-Za-z0-9_]*)[ \t]*\}\}")
_KEYWORDS = frozenset(
    [
        "true",
        "false",
        "none",
        "True",
        "False",
        "None",
        "and",
        "or",
        "not",
        "in",
        "is",
        "if",
        "else",
        "self",
        "loop",
        "caller",
        "varargs",
        "kwargs",
        "_",
    ]
)
_UNDEFINED = re.compile(r"'(\w+)' is undefined")
_TEXT = environment(shown)
_NAME = environment(shown_in_name)


class Undefined(ValueError):  # noqa: N818  it is what the template met
    """A variable that does not exist; `name` is None when only the message is known."""

    def __init__(self, name: str | None, message: str) -> None:
        super().__init__(message)
        self.name = name


class Compiled:
    """A template ready to render. `names` are the variables it reads; `plain` when it does without Jinja."""

    __slots__ = ("names", "plain", "render")

    def __init__(self, names: frozenset[str], render: Renderer, *, plain: bool) -> None:
        self.names = names
        self.render = render
        self.plain = plain


@lru_cache(maxsize=4096)
def compile_template(text: str, *, file_name: bool = False, plain: bool = True) -> Compiled:
    """Compile a template.

    Args:
        text: the template.
        file_name: refuse values with a slash in them.
        plain: False always uses Jinja, for tests that compare.

    Raises:
        ValueError: it is not a template, or uses what is refused; names the line when there are several.
    """
    sandbox = _NAME if file_name else _TEXT
    try:
        tree = sandbox.parse(text)
        refuse(tree)
        names = frozenset(meta.find_undeclared_variables(tree))
        parts = parts_of(text) if plain else None
        if parts is not None:
            return Compiled(names, _joined(*parts, shown_in_name if file_name else shown), plain=True)
        return Compiled(names, _rendered(sandbox, text), plain=False)
    except TemplateSyntaxError as error:
        at = f" (line {error.lineno} of the template)" if "\n" in text else ""
        raise ValueError(f"the template {quoted(text)} is not valid: {error.message}{at}") from None
    except TemplateError as error:
        raise ValueError(f"the template {quoted(text)} is not valid: {error}") from None
    except (RecursionError, MemoryError, SyntaxError):  # SyntaxError: Python's own bound on nested brackets
        raise ValueError(f"the template {quoted(text)} is nested too deeply") from None


def parts_of(text: str) -> tuple[str, tuple[str, ...]] | None:
    """Return a %-format and the names that go into it, or None when there is more in the template than that."""
    literals: list[str] = []
    names: list[str] = []
    at = 0
    for match in _PLAIN.finditer(text):
        literals.append(text[at : match.start()])
        names.append(match[1])
        at = match.end()
    literals.append(text[at:])
    # A brace before a name, or any other mark of Jinja's, is for Jinja to understand; so is how it reads line ends.
    odd = any(mark in part for part in literals for mark in ("{{", "{%", "{#", "\r"))
    if odd or any(part.endswith("{") for part in literals[:-1]) or not _KEYWORDS.isdisjoint(names):
        return None
    return "%s".join(part.replace("%", "%%") for part in literals), tuple(names)


def _joined(form: str, names: tuple[str, ...], finalize: Callable[[Any], Any]) -> Renderer:
    checks_text = finalize is not shown

    def render(variables: Variables) -> str:
        try:
            values = [variables[name] for name in names]
        except KeyError as error:
            name = str(error.args[0])
            raise Undefined(name, f"{quoted(name)} is undefined") from None
        for index, value in enumerate(values):
            if checks_text or type(value) is not str:
                values[index] = _finalized(value, finalize)
        text = form % tuple(values)
        if len(text) > MAX_OUTPUT:
            raise ValueError(f"the text has more than {MAX_OUTPUT} characters")
        return text

    return render


def _finalized(value: Any, finalize: Callable[[Any], Any]) -> str:
    try:
        return str(finalize(value))
    except SecurityError as error:
        raise ValueError(str(error)) from None


def _undefined(message: str) -> Undefined:
    match = _UNDEFINED.fullmatch(message)
    return Undefined(match[1] if match else None, message)


def _rendered(sandbox: Sandbox, text: str) -> Renderer:
    template: JinjaTemplate = sandbox.from_string(text)

    def render(variables: Variables) -> str:
        made: list[str] = []
        size = 0
        try:
            for piece in template.generate(variables):
                size += len(piece)
                if size > MAX_OUTPUT:
                    raise SecurityError(f"the text has more than {MAX_OUTPUT} characters")
                made.append(piece)
        except JinjaUndefined as error:
            raise _undefined(str(error.message)) from None
        except (TemplateError, ArithmeticError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise ValueError(f"the template {quoted(text)} cannot be rendered: {error}") from None
        except (RecursionError, MemoryError):
            raise ValueError(f"the template {quoted(text)} cannot be rendered: it is too large") from None
        return "".join(made)

    return render
