"""Templates: Jinja2 in a sandbox, with unknown variables as errors and every step's output bounded.

The rule: a template sees the row's columns, the axes and `row`, and can only compute text from them. There is no
range, no macro, no assignment, no include and no loop within a loop, so its work is bounded by its own length and
its data; filters and methods are an allow-list, and none of their results may pass MAX_OUTPUT. What is only text
and plain `{{ name }}` is joined without Jinja, to the same result. None renders as nothing, true as `true`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, meta, nodes
from jinja2 import UndefinedError as JinjaUndefined
from jinja2.defaults import DEFAULT_FILTERS
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from batchflux.manifest.tree import quoted

MAX_OUTPUT = 1 << 20
Variables = Mapping[str, Any]
Renderer = Callable[[Variables], str]

_FILTERS = [
    "abs",
    "capitalize",
    "count",
    "d",
    "default",
    "first",
    "float",
    "format",
    "int",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "max",
    "min",
    "reject",
    "replace",
    "reverse",
    "round",
    "select",
    "sort",
    "string",
    "sum",
    "title",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "wordcount",
]
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        [
            "capitalize",
            "casefold",
            "count",
            "endswith",
            "find",
            "isalnum",
            "isalpha",
            "isascii",
            "isdigit",
            "islower",
            "isnumeric",
            "isspace",
            "istitle",
            "isupper",
            "lower",
            "lstrip",
            "partition",
            "removeprefix",
            "removesuffix",
            "rpartition",
            "rsplit",
            "rstrip",
            "split",
            "splitlines",
            "startswith",
            "strip",
            "swapcase",
            "title",
            "upper",
        ]
    ),
    dict: frozenset({"get", "items", "keys", "values"}),
    list: frozenset({"count", "index"}),
    tuple: frozenset({"count", "index"}),
}
_REFUSED: tuple[type[nodes.Node], ...] = (
    nodes.Assign, nodes.AssignBlock, nodes.Block, nodes.CallBlock, nodes.Extends, nodes.FilterBlock,
    nodes.FromImport, nodes.Import, nodes.Include, nodes.Macro, nodes.With,
)  # fmt: skip
_IMAGE_PARTS = frozenset({"path", "name", "stem"})
_PLAIN = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")
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
    ]
)
_UNDEFINED = re.compile(r"'(\w+)' is undefined")
_WIDTH = re.compile(r"[0-9]{4,}|\*")


class ImagePath(str):
    """A picture's path in a template: itself, and its parts as `path`, `name` and `stem`."""

    __slots__ = ()

    @property
    def path(self) -> str:
        """The path as text."""
        return str(self)

    @property
    def name(self) -> str:
        """The file's name."""
        return PurePosixPath(self).name

    @property
    def stem(self) -> str:
        """The file's name without its last suffix."""
        return PurePosixPath(self).stem


class Undefined(ValueError):  # noqa: N818  it is what the template met
    """A variable that does not exist; `name` is None when only the message is known."""

    def __init__(self, name: str | None, message: str) -> None:
        super().__init__(message)
        self.name = name


def shown(value: Any) -> Any:
    """How a value stands in rendered text."""
    if value is None:
        return ""
    if value is True or value is False:
        return "true" if value else "false"
    return value


def _no_folder(value: Any) -> Any:
    text = shown(value)
    if "/" in str(text) or "\\" in str(text):
        raise SecurityError(f"found {quoted(str(text))}; a value in a file name has no slash: only the template has")
    return text


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%", "//", "/", "-"})

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, ImagePath) and attr in _IMAGE_PARTS:
            return True
        for kind, allowed in _METHODS.items():
            if isinstance(obj, kind):
                return attr in allowed
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            _check_format(left)
        if operator == "**" and not (_small(left, 1 << 32) and _small(right, 64)):
            raise SecurityError("the numbers of ** are too large")
        if operator == "*" and not (_small(left, 1 << 64) and _small(right, 1 << 64)):
            raise SecurityError("* is allowed between numbers only")
        return _bounded(super().call_binop(context, operator, left, right))

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        return _bounded(super().call(context, obj, *args, **kwargs))


def _small(value: Any, bound: int) -> bool:
    return isinstance(value, (int, float)) and abs(value) <= bound


def _check_format(text: str) -> None:
    if _WIDTH.search(text):
        raise SecurityError("a width in a format has at most 3 digits")


def _bounded(value: Any) -> Any:
    if isinstance(value, (str, list, tuple)) and len(value) > MAX_OUTPUT:
        raise SecurityError(f"a value has more than {MAX_OUTPUT} characters")
    return value


def _filter(name: str) -> Callable[..., Any]:
    inner: Callable[..., Any] = DEFAULT_FILTERS[name]

    def bounded(*args: Any, **kwargs: Any) -> Any:
        return _bounded(inner(*args, **kwargs))

    # Jinja tells by attributes of the function what to pass in front of the value.
    bounded.__dict__.update(getattr(inner, "__dict__", {}))
    return bounded


def _format(value: Any, *args: Any, **kwargs: Any) -> Any:
    _check_format(str(value))
    return _bounded(str(value) % (kwargs or args))


def _replace(value: Any, old: str, new: str, count: int = -1) -> str:
    text, old, new = str(value), str(old), str(new)
    times = text.count(old) if count < 0 else min(count, text.count(old))
    if len(text) + times * len(new) > MAX_OUTPUT:
        raise SecurityError(f"a value has more than {MAX_OUTPUT} characters")
    return text.replace(old, new, count)


def _join(value: Any, separator: str = "") -> str:
    parts = [str(shown(item)) for item in value]
    if sum(map(len, parts)) + len(parts) * len(str(separator)) > MAX_OUTPUT:
        raise SecurityError(f"a value has more than {MAX_OUTPUT} characters")
    return str(separator).join(parts)


def _environment(finalize: Callable[[Any], Any]) -> _Sandbox:
    made = _Sandbox(undefined=StrictUndefined, autoescape=False, finalize=finalize, keep_trailing_newline=True)
    made.globals.clear()
    made.filters = {name: _filter(name) for name in _FILTERS}
    made.filters.update(format=_format, replace=_replace, join=_join)
    return made


_TEXT = _environment(shown)
_NAME = _environment(_no_folder)


class Compiled:
    """A template ready to render. `names` are the variables it reads, `parts` its text and names when it is plain."""

    __slots__ = ("names", "parts", "render")

    def __init__(self, names: frozenset[str], parts: tuple[tuple[bool, str], ...] | None, render: Renderer) -> None:
        self.names = names
        self.parts = parts
        self.render = render


@lru_cache(maxsize=4096)
def compile_template(text: str, *, file_name: bool = False, plain: bool = True) -> Compiled:
    """Compile a template.

    Args:
        text: the template.
        file_name: refuse values with a slash in them.
        plain: False always uses Jinja, for tests that compare.

    Raises:
        ValueError: it is not a template, or says what is refused; the message names the line when there are several.
    """
    environment = _NAME if file_name else _TEXT
    try:
        tree = environment.parse(text)
        _refuse(tree)
        names = frozenset(meta.find_undeclared_variables(tree))
        parts = _parts(text) if plain else None
        if parts is not None:
            return Compiled(names, parts, _joined(parts, _no_folder if file_name else shown))
        return Compiled(names, None, _rendered(environment, text))
    except TemplateSyntaxError as error:
        at = f" (line {error.lineno} of the template)" if "\n" in text else ""
        raise ValueError(f"the template {quoted(text)} is not valid: {error.message}{at}") from None
    except RecursionError:
        raise ValueError(f"the template {quoted(text)} is nested too deeply") from None


def _refuse(tree: nodes.Template) -> None:
    for node in tree.find_all(_REFUSED):
        raise TemplateSyntaxError(f"{type(node).__name__.lower()} is not allowed in a manifest", node.lineno)
    for loop in tree.find_all(nodes.For):
        if loop.recursive or any(inner is not loop for inner in loop.find_all(nodes.For)):
            raise TemplateSyntaxError("a loop in a loop is not allowed in a manifest", loop.lineno)


def _parts(text: str) -> tuple[tuple[bool, str], ...] | None:
    """Text and names in turn, or None when there is more in the template than that."""
    made: list[tuple[bool, str]] = []
    at = 0
    for match in _PLAIN.finditer(text):
        made.append((False, text[at : match.start()]))
        made.append((True, match[1]))
        at = match.end()
    made.append((False, text[at:]))
    literal = "".join(part for is_name, part in made if not is_name)
    if "{{" in literal or "{%" in literal or "{#" in literal or "\r" in literal:
        return None
    if any(is_name and part in _KEYWORDS for is_name, part in made):
        return None
    return tuple(part for part in made if part[0] or part[1])


def _joined(parts: tuple[tuple[bool, str], ...], finalize: Callable[[Any], Any]) -> Renderer:
    def render(variables: Variables) -> str:
        made = []
        for is_name, part in parts:
            if not is_name:
                made.append(part)
                continue
            try:
                value = variables[part]
            except KeyError:
                raise Undefined(part, f"{quoted(part)} is undefined") from None
            made.append(str(finalize(value)))
        return "".join(made)

    return render


def _undefined(message: str) -> Undefined:
    match = _UNDEFINED.fullmatch(message)
    return Undefined(match[1] if match else None, message)


def _rendered(environment: _Sandbox, text: str) -> Renderer:
    template = environment.from_string(text)

    def render(variables: Variables) -> str:
        made, size = [], 0
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
        return "".join(made)

    return render
