"""Where templates run: Jinja2's sandbox, narrowed so that no template costs more than its length and its data.

The rule: there is no range, macro, assignment, include or loop within a loop; filters and methods are an allow-list;
no result of a filter, call or operator may pass MAX_OUTPUT. None renders as nothing, true as `true`.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from jinja2 import StrictUndefined, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.sandbox import ImmutableSandboxedEnvironment

from batchflux.manifest.yaml_nodes import quoted

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_OUTPUT = 1 << 20


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FILTERS = _words(
    "abs capitalize count d default first float int last length list lower max min reject reverse round select sort "
    "string sum title trim truncate unique upper urlencode wordcount"
)
_METHODS: dict[type, frozenset[str]] = {
    str: _words(
        "capitalize casefold count endswith find isalnum isalpha isascii isdigit islower isnumeric isspace istitle "
        "isupper lower lstrip partition removeprefix removesuffix rpartition rsplit rstrip split splitlines startswith "
        "strip swapcase title upper"
    ),
    dict: _words("get items keys values"),
    list: _words("count index"),
    tuple: _words("count index"),
}
_REFUSED: tuple[type[nodes.Node], ...] = (
    nodes.Assign, nodes.AssignBlock, nodes.Block, nodes.CallBlock, nodes.Extends, nodes.FilterBlock,
    nodes.FromImport, nodes.Import, nodes.Include, nodes.Macro, nodes.With,
)  # fmt: skip
_IMAGE_PARTS = _words("path name stem")
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


def shown(value: Any) -> Any:
    """How a value stands in rendered text."""
    if value is None:
        return ""
    if value is True or value is False:
        return "true" if value else "false"
    return value


def shown_in_name(value: Any) -> Any:
    """How a value stands in a file name, where it must not make folders.

    Raises:
        SecurityError: it has a slash.
    """
    text = shown(value)
    if "/" in str(text) or "\\" in str(text):
        raise SecurityError(f"found {quoted(str(text))}; a value in a file name has no slash, only the template has")
    return text


def refuse(tree: nodes.Template) -> None:
    """Refuse what a template in a manifest has no need for.

    Raises:
        TemplateSyntaxError: names it and its line.
    """
    for node in tree.find_all(_REFUSED):
        raise TemplateSyntaxError(f"{type(node).__name__.lower()} is not allowed in a manifest", node.lineno)
    for loop in tree.find_all(nodes.For):
        if loop.recursive or any(inner is not loop for inner in loop.find_all(nodes.For)):
            raise TemplateSyntaxError("a loop in a loop is not allowed in a manifest", loop.lineno)


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of all templates."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Allow what is listed for text, mappings and lists, and nothing private of anything."""
        if isinstance(obj, ImagePath) and attr in _IMAGE_PARTS:
            return True
        for kind, allowed in _METHODS.items():
            if isinstance(obj, kind):
                return attr in allowed
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Any:
        """Give no way to `str.format`, whose widths know no bound; the filter `format` has one."""
        return None

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute, but for what could grow beyond bounds."""
        if operator == "%" and isinstance(left, str):
            _check_format(left)
        if operator == "**" and not (_small(left, 1 << 32) and _small(right, 64)):
            raise SecurityError("the numbers of ** are too large")
        if operator == "*" and not (_small(left, 1 << 64) and _small(right, 1 << 64)):
            raise SecurityError("* is allowed between numbers only")
        return _bounded(super().call_binop(context, operator, left, right))

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a method that is allowed."""
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
    inner: Callable[..., Any] = FILTERS[name]

    def bounded(*args: Any, **kwargs: Any) -> Any:
        return _bounded(inner(*args, **kwargs))

    # Jinja tells by attributes of the function what to pass in front of the value.
    bounded.__dict__.update(getattr(inner, "__dict__", {}))
    return bounded


def _format(value: Any, *args: Any, **kwargs: Any) -> Any:
    _check_format(str(value))
    return _bounded(str(value) % (kwargs or args))


def _replace(value: Any, old: str, new: str, count: int = -1) -> str:
    text, old, new = str(shown(value)), str(old), str(new)
    times = text.count(old) if count < 0 else min(count, text.count(old))
    if len(text) + times * len(new) > MAX_OUTPUT:
        raise SecurityError(f"a value has more than {MAX_OUTPUT} characters")
    return text.replace(old, new, count)


def _join(value: Any, separator: str = "") -> str:
    parts = [str(shown(item)) for item in value]
    if sum(map(len, parts)) + len(parts) * len(str(separator)) > MAX_OUTPUT:
        raise SecurityError(f"a value has more than {MAX_OUTPUT} characters")
    return str(separator).join(parts)


def environment(finalize: Callable[[Any], Any]) -> Sandbox:
    """A sandbox whose values pass through `finalize` as they are rendered."""
    made = Sandbox(undefined=StrictUndefined, autoescape=False, finalize=finalize, keep_trailing_newline=True)
    made.globals.clear()
    made.filters = {name: _filter(name) for name in _FILTERS}
    made.filters.update(format=_format, replace=_replace, join=_join)
    return made
