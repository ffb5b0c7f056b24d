"""Templates: compiled once with the names they read, run where none costs more than its length and its data.

None renders as nothing, true as `true`; an unknown variable is an error. What a template may be made of is an
allow-list: kinds of nodes, filters, tests, methods. No result of a filter, call or operator may pass MAX_OUTPUT. What
is only text and plain `{{ name }}` is put together without Jinja, for it is what a million rows are made of.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, ItemsView, Iterator, Mapping, ValuesView
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from jinja2 import StrictUndefined, TemplateSyntaxError, Undefined, meta, nodes
from jinja2 import UndefinedError as JinjaUndefinedError
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.filters import FILTERS
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS

from batchflux.errors import quoted

Variables = Mapping[str, Any]
Renderer = Callable[[Variables], str]

MAX_OUTPUT = 1 << 20
MAX_JOINED = 64  # texts that ~ puts together in one template
MAX_BASE, MAX_EXPONENT, MAX_FACTOR = 1 << 32, 64, 1 << 64


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NODES = _words(
    "Template Output TemplateData Const Name Getattr Getitem Slice Filter Test Call Keyword CondExpr Compare Operand "
    "And Or Not Neg Pos Add Sub Mul Div FloorDiv Mod Pow Concat List Tuple Dict Pair If For"
)
_FILTERS = _words(
    "abs capitalize count d default first float int last length list lower max min reject reverse round select sort "
    "string striptags sum title trim truncate unique upper urlencode wordcount"
)  # and what is made below
_TESTS = _words(
    "boolean defined divisibleby eq equalto even false float ge greaterthan gt in integer iterable le lessthan lower "
    "lt mapping ne none number odd sameas sequence string true undefined upper == != < <= > >="
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
_PLAIN = re.compile(r"\{\{[ \t]*([A-Za-z_][A-Za-z0-9_]*)[ \t]*\}\}")
_EXPRESSION = re.compile(r"\s*\{\{.*\}\}\s*", re.DOTALL)
_KEYWORDS = _words("true false none True False None and or not in is if else self loop caller varargs kwargs _")
_UNDEFINED = re.compile(r"'(\w+)' is undefined")
_IMAGE_PARTS = _words("path name stem")
_WIDTH = re.compile(r"[0-9]{4,}|\*")
_SLUG, _SLUG_READS = 48, 400  # characters of a slug, and of the text that it is made of
_NO_TEXT: tuple[tuple[type | tuple[type, ...], str], ...] = (  # what would print as Python writes it, and what to do
    (Mapping, "name one of its parts, as {{ row.title }}, or add | string"),
    ((list, tuple, ItemsView, ValuesView), 'put its parts together, as {{ tags | join(", ") }}, or add | string'),
    (Iterator, 'put its parts together with | join(", ")'),
    (bytes, "leave that column out"),
)
_TOO_WIDE = "a width in a format has at most 3 digits"


class BlankError(ValueError):
    """A template has nothing to print, for a cell is blank; the message says which, `read` how it is read."""

    def __init__(self, message: str, read: str) -> None:
        super().__init__(message)
        self.read = read


class _BlankCellError(JinjaUndefinedError):
    """A template prints a blank cell, or works on it; the message says which, and behind a line end how it is read."""

    def parted(self) -> BlankError:
        message, _, read = str(self.message).rpartition("\n")
        return BlankError(message, read)


class Blank(Undefined):
    """A cell that is empty, or says so: undefined to `default`, false, as empty text to a comparison; never printed."""

    __slots__ = ("cell",)

    def __init__(self, column: str, cell: Any) -> None:
        read = column if column.isidentifier() else f"row[{json.dumps(column, ensure_ascii=False)}]"
        says = "is empty" if cell is None or not str(cell).strip() else f"says {quoted(str(cell))}"
        super().__init__(hint=f"the column {quoted(column)} {says} here\n{read}", name=read, exc=_BlankCellError)
        self.cell = cell

    def __str__(self) -> str:
        return str(self._fail_with_undefined_error())

    def __contains__(self, item: object) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, Blank) or other in ("", self.cell)

    def __hash__(self) -> int:
        return hash("")


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


class _Method(partial[Any]):
    """A method that a template reads: there to be called, never printed, which would show where it lies in memory."""

    def __str__(self) -> str:
        name = self.func.__name__
        raise TypeError(f".{name} is no column here; what is done to a text is called, as .{name}()")


class Parts:
    """The parts of a value of an axis, each by its name; the text of one of them."""

    __slots__ = ("_parts", "_text")

    def __init__(self, text: str, parts: Mapping[str, Any]) -> None:
        self._text, self._parts = text, parts

    def __getitem__(self, name: str) -> Any:
        return self._parts[name]

    def __str__(self) -> str:
        return self._text


def shown(value: Any) -> Any:
    """Return a value as a template prints it."""
    if type(value) is str:  # as nearly all are
        return value
    if isinstance(value, Blank):
        str(value)  # which it refuses
    for kinds, remedy in _NO_TEXT:
        if isinstance(value, kinds):
            raise SecurityError(f"a {type(value).__name__} is no text: {quoted(str(value))}; {remedy}")
    return "" if value is None else str(value).lower() if isinstance(value, bool) else value


def _shown_in_name(value: Any) -> Any:
    text = shown(value)
    if "/" in str(text) or "\\" in str(text):
        raise SecurityError(f"found {quoted(str(text))}; a value in a file name has no slash, only the template has")
    return text


def _refuse(tree: nodes.Template) -> None:
    joined = 0
    for node in tree.find_all(nodes.Node):
        kind = type(node).__name__
        if kind not in _NODES:
            raise TemplateSyntaxError(f"{kind.lower()} is not allowed in a manifest", node.lineno)
        if isinstance(node, nodes.For) and (node.recursive or any(node.find_all(nodes.For))):
            raise TemplateSyntaxError("a loop in a loop is not allowed in a manifest", node.lineno)
        if isinstance(node, nodes.Name) and node.name == "self":
            raise TemplateSyntaxError('self means the template; a column of that name is row["self"]', node.lineno)
        joined += len(node.nodes) if isinstance(node, nodes.Concat) else 0
        if joined > MAX_JOINED:
            raise TemplateSyntaxError(f"more than {MAX_JOINED} texts are joined with ~", node.lineno)


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Allow what is listed for text, mappings and lists, and nothing private of anything."""
        if isinstance(obj, ImagePath) and attr in _IMAGE_PARTS:
            return True
        for kind, allowed in _METHODS.items():
            if isinstance(obj, kind):
                return attr in allowed
        return super().is_safe_attribute(obj, attr, value)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return a column in front of a method of its name, and a method only to be called."""
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        found = super().getattr(obj, attribute)
        return _Method(found) if callable(found) and not isinstance(found, Undefined) else found

    def wrap_str_format(self, value: Any) -> Any:
        """Give no way to `str.format`, whose widths know no bound; the filter `format` has one."""
        return None

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute, but for what could grow beyond bounds."""
        if operator == "%" and isinstance(left, str) and _WIDTH.search(left):
            raise SecurityError(_TOO_WIDE)
        if operator == "**" and not (_small(left, MAX_BASE) and _small(right, MAX_EXPONENT)):
            raise SecurityError("the numbers of ** are too large")
        if operator == "*" and not (_small(left, MAX_FACTOR) and _small(right, MAX_FACTOR)):
            raise SecurityError("* is allowed between numbers only")
        return _bounded(super().call_binop(context, operator, left, right))

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a method that is allowed."""
        return _bounded(super().call(context, obj, *args, **kwargs))


def _small(value: Any, bound: int) -> bool:
    return isinstance(value, (int, float)) and abs(value) <= bound


def _bounded(value: Any) -> Any:
    if isinstance(value, (str, list, tuple)):
        _check_size(len(value))
    return value


def _check_size(size: int, what: str = "a value") -> None:
    if size > MAX_OUTPUT:
        raise SecurityError(f"{what} has more than {MAX_OUTPUT} characters")


def _filter(name: str) -> Callable[..., Any]:
    inner: Callable[..., Any] = FILTERS[name]

    def bounded(*args: Any, **kwargs: Any) -> Any:
        return _bounded(inner(*args, **kwargs))

    # Jinja tells by attributes of the function what to pass in front of the value.
    bounded.__dict__.update(getattr(inner, "__dict__", {}))
    return bounded


def _format(value: Any, *args: Any, **kwargs: Any) -> Any:
    if _WIDTH.search(str(value)):
        raise SecurityError(_TOO_WIDE)
    return _bounded(str(value) % (kwargs or args))


def _replace(value: Any, old: str, new: str, count: int = -1) -> str:
    text, old, new = str(shown(value)), str(old), str(new)
    times = text.count(old) if count < 0 else min(count, text.count(old))
    _check_size(len(text) + times * len(new))
    return text.replace(old, new, count)


def _join(value: Any, separator: str = "") -> str:
    parts = [str(shown(item)) for item in (str(value) if isinstance(value, Blank) else value)]
    _check_size(sum(map(len, parts)) + len(parts) * len(str(separator)))
    return str(separator).join(parts)


def slug(text: Any) -> str:
    """Return a text's first words in lower case joined by -, at most 48 characters; letters of any script stay."""
    start = unicodedata.normalize("NFKC", str(shown(text))[:_SLUG_READS]).casefold()
    joined = "-".join("".join(map(_letter, start)).split())
    end = joined.rfind("-", 0, _SLUG + 1) if len(joined) > _SLUG else len(joined)
    return joined[: _SLUG if end < 0 else end]


@lru_cache(maxsize=4096)
def _letter(char: str) -> str:
    """Return a letter, a Latin one without its accents, a digit or a mark of a script; a blank for all else."""
    if not char.isalnum():
        return char if unicodedata.category(char) in {"Mn", "Mc"} else " "
    bare = unicodedata.normalize("NFKD", char)[0]
    return bare if bare.isascii() and bare.isalnum() else char


def _split(value: Any, separator: str | None = None) -> list[str]:
    parts = str(shown(value)).split(separator)
    _check_size(len(parts))
    return [part.strip() for part in parts if part.strip()]


def _path(part: Callable[[PurePosixPath], str]) -> Callable[[Any], str]:
    return lambda value: part(PurePosixPath(re.split(r"[?#]", str(shown(value)), maxsplit=1)[0].replace("\\", "/")))


def _environment(finalize: Callable[[Any], Any]) -> _Sandbox:
    made = _Sandbox(undefined=StrictUndefined, autoescape=False, finalize=finalize, keep_trailing_newline=True)
    made.globals.clear()
    made.filters = {name: _filter(name) for name in _FILTERS}
    own = {"format": _format, "replace": _replace, "join": _join, "split": _split, "slugify": slug}
    made.filters.update(own, basename=_path(lambda path: path.name), stem=_path(lambda path: path.stem))
    made.tests = {name: TESTS[name] for name in _TESTS}
    made.tests["none"] = lambda value: value is None or isinstance(value, Blank)
    return made


_TEXT = _environment(shown)
_NAME = _environment(_shown_in_name)
FILTER_NAMES = tuple(_TEXT.filters)


class UndefinedError(ValueError):
    """A variable that does not exist; `name` is None when only the message is known."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        match = _UNDEFINED.fullmatch(message)
        self.name = match[1] if match else None


class Compiled(NamedTuple):
    """A template ready to render, and the variables it reads.

    `value` is what a lone expression comes to, a list too; of any other template its text. `lone` says that it is one,
    `defaults` that it says itself what stands in place of nothing.
    """

    names: frozenset[str]
    render: Renderer
    value: Callable[[Variables], Any]
    lone: bool
    defaults: bool


@lru_cache(maxsize=4096)
def compile_template(text: str, *, file_name: bool = False) -> Compiled:
    """Compile a template; `file_name` refuses values with a slash in them.

    Raises ValueError: it is not a template, or uses what is refused; names the line when there are several.
    """
    sandbox, show = (_NAME, _shown_in_name) if file_name else (_TEXT, shown)
    try:
        tree = sandbox.parse(text)
        _refuse(tree)
        names = frozenset(meta.find_undeclared_variables(tree))
        render = _joined(text, show) or _rendered(sandbox, text)
        lone = _EXPRESSION.fullmatch(text) is not None and _is_lone(tree)
        value = _evaluated(sandbox, text) if lone and not file_name else render
        defaults = any(node.name in {"default", "d"} for node in tree.find_all(nodes.Filter))
        return Compiled(names, render, value, lone, defaults)
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        at = f" (line {line} of the template)" if line is not None and "\n" in text else ""
        raise ValueError(f"the template {quoted(text)} is not valid: {error.message}{at}") from None
    except (RecursionError, MemoryError, SyntaxError):  # SyntaxError: Python's own bound on nested brackets
        raise ValueError(f"the template {quoted(text)} is nested too deeply") from None


def _is_lone(tree: nodes.Template) -> bool:
    """Whether a template is one expression and nothing else."""
    parts = [part for node in tree.body for part in (node.nodes if isinstance(node, nodes.Output) else [node])]
    parts = [part for part in parts if not (isinstance(part, nodes.TemplateData) and part.data.isspace())]
    return len(parts) == 1 and isinstance(parts[0], nodes.Expr) and not isinstance(parts[0], nodes.TemplateData)


def _evaluated(sandbox: _Sandbox, text: str) -> Callable[[Variables], Any]:
    """Return what gives the value of a template that is one expression."""
    plain = _PLAIN.fullmatch(text.strip())
    name = plain[1] if plain is not None and plain[1] not in _KEYWORDS else None
    inner = text.strip().removeprefix("{{").removesuffix("}}").strip("-+")
    compiled = sandbox.compile_expression(inner, undefined_to_none=False)

    def value(variables: Variables) -> Any:
        if name is not None and type(variables.get(name)) is str:  # as nearly all are
            return variables[name]
        with _failing(text):
            missing = StrictUndefined(name=name)
            found = variables.get(name, missing) if name is not None else compiled(variables)
            if isinstance(found, Undefined):
                str(found)  # which it refuses
            return found

    return value


def _joined(text: str, show: Callable[[Any], Any]) -> Renderer | None:
    """Return what renders text and plain names only, or None when there is more in the template than that."""
    parts = _PLAIN.split(text)
    literals, names = parts[::2], parts[1::2]
    # A brace before a name, or any other mark of Jinja's, is for Jinja to understand; so is how it reads line ends.
    odd = any(mark in part for part in literals for mark in ("{{", "{%", "{#", "\r"))
    if odd or any(part.endswith("{") for part in literals[:-1]) or not _KEYWORDS.isdisjoint(names):
        return None
    form = "%s".join(part.replace("%", "%%") for part in literals)

    def render(variables: Variables) -> str:
        try:
            made = form % tuple([show(variables[name]) for name in names])
            _check_size(len(made), "the text")
        except _BlankCellError as error:
            raise error.parted() from None
        except KeyError as error:
            raise UndefinedError(f"'{error.args[0]}' is undefined") from None
        except SecurityError as error:
            raise ValueError(str(error)) from None
        return made

    return render


def _rendered(sandbox: _Sandbox, text: str) -> Renderer:
    template = sandbox.from_string(text)

    def render(variables: Variables) -> str:
        made: list[str] = []
        size = 0
        with _failing(text):
            for piece in template.generate(variables):
                size += len(piece)
                _check_size(size, "the text")
                made.append(piece)
        return "".join(made)

    return render


@contextmanager
def _failing(text: str) -> Iterator[None]:
    """Turn what a template may fail with into a ValueError that says so."""
    try:
        yield
    except _BlankCellError as error:
        raise error.parted() from None
    except JinjaUndefinedError as error:
        raise UndefinedError(str(error.message)) from None
    except (TemplateError, ArithmeticError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise ValueError(f"the template {quoted(text)} cannot be rendered: {error}") from None
    except (RecursionError, MemoryError):
        raise ValueError(f"the template {quoted(text)} cannot be rendered: it is too large") from None
