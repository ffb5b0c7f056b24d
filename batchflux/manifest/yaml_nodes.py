"""YAML text → nodes that know their line, and how their scalars are understood.

A scalar is the text the user wrote, and stays so until a field asks for something else. YAML 1.2's core is all that is
understood without being asked (`true`, `false`, `null`, whole numbers, decimals); a quoted scalar is always text. So
`16:9`, `no`, `010` and `2024-01-01` are never anything but themselves.

Reading never recurses, and an alias is one node in several places, so no text costs more than its length and what its
merge keys copy. Depth, bytes and what aliases stand for (merged ones too) are bounded before anyone walks the nodes;
tags and second documents are refused. A syntax error or a bomb ends the reading with one fault; duplicate keys and
merge keys that merge nothing are noted and the reading goes on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import yaml

from batchflux.errors import Fault, ManifestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KeyPath = tuple[str | int, ...]  # keys of mappings and positions of lists, from the root

OVERRIDE = 0  # the line of what came from the command line, not from the file

_NULLS = frozenset({"", "~", "null"})
_BOOLS = {"true": True, "false": False}
_INT = re.compile(r"0|-?[1-9][0-9]{0,17}")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]|[-+]?[0-9]+$")
_SHOWN = 60
MAX_BYTES = 64 << 20
MAX_DEPTH = 64
MAX_ALIASED = 100_000  # nodes that all aliases together may stand for

# The parser in C is 20 times faster; PyYAML lacks it where libyaml was missing when it was built.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STR_TAGS = frozenset({"!", "tag:yaml.org,2002:str"})
_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
MERGE = "<<"
_ALLOWED = "allowed after << is the alias of a mapping, as *name, or a list of them"


class Written(float):
    """A decimal that prints as it was written: `1.50` stays `1.50` in a prompt, and can still be reckoned with."""

    __slots__ = ("_text",)

    _text: str

    def __new__(cls, text: str) -> Self:
        """Make the number that `text` says."""
        made = super().__new__(cls, text)
        made._text = text
        return made

    def __str__(self) -> str:
        return self._text

    def __reduce__(self) -> tuple[type[Written], tuple[str]]:
        return (Written, (self._text,))


@dataclass(slots=True)
class Scalar:
    """One value. `plain` when it stood without quotes; `shown` is what a message may print in place of `text`."""

    text: str
    plain: bool
    line: int
    shown: str | None = None

    @property
    def is_null(self) -> bool:
        """Whether nothing was given: empty, `~` or `null`, without quotes."""
        return self.plain and self.text in _NULLS


@dataclass(slots=True)
class Items:
    """A sequence."""

    line: int
    items: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Table:
    """A mapping; `lines` holds where each key stands."""

    line: int
    pairs: dict[str, Node] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)


Node = Scalar | Items | Table


def value_of(scalar: Scalar) -> bool | int | float | str | None:
    """The value of a scalar where no field says what is meant: axis values, options."""
    text = scalar.text
    if not scalar.plain:
        return text
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and not _LEADING_ZERO.match(text):
        return Written(text)
    return text


def plain_data(node: Node) -> Any:
    """The node as JSON data, decimals as ordinary floats."""
    if isinstance(node, Table):
        return {key: plain_data(value) for key, value in node.pairs.items()}
    if isinstance(node, Items):
        return [plain_data(item) for item in node.items]
    value = value_of(node)
    return float(value) if isinstance(value, Written) else value


def loose(node: Node) -> Any:
    """Dicts and lists whose leaves are still Scalars: what the schema validates."""
    if isinstance(node, Table):
        return {key: loose(value) for key, value in node.pairs.items()}
    if isinstance(node, Items):
        return [loose(item) for item in node.items]
    return node


def quoted(text: str) -> str:
    """The text in quotes, cut to a readable length, on one line."""
    cut = text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
    visible = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in cut)
    return f'"{visible}"'


def found(value: object) -> str:
    """What was found, for a message: `"30:1"`, `a list`, `a mapping`, `nothing`."""
    if isinstance(value, Scalar):
        return "nothing" if value.is_null else quoted(value.shown if value.shown is not None else value.text)
    if isinstance(value, (Table, dict)):
        return "a mapping"
    if isinstance(value, (Items, list)):
        return "a list"
    return quoted(str(value))


def where(path: KeyPath) -> str:
    """`("jobs", 2, "seed")` as `jobs[2].seed`."""
    text = ""
    for part in path:
        name = part if isinstance(part, int) else quoted(part)[1:-1]  # a stranger's key may be long, or no text at all
        text += f"[{name}]" if isinstance(part, int) else f".{name}" if text else str(name)
    return text


def line_at(node: Node, path: KeyPath) -> int:
    """The line of the key at `path` under `node`, or of the last part of it that exists."""
    line = node.line
    for part in path:
        if isinstance(node, Table) and part in node.pairs:
            key = str(part)
            line, node = node.lines[key], node.pairs[key]
        elif isinstance(node, Items) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
            line = node.line
        else:
            break
    return line


def is_written(root: Node, *path: str) -> bool:
    """Whether something stands at a path of keys, and not null; a variable that is not set counts as something."""
    node: Node | None = root
    for key in path:
        node = node.pairs.get(key) if isinstance(node, Table) else None
    return node is not None and not (isinstance(node, Scalar) and node.is_null and node.shown is None)


class _ReadError(Exception):
    """Ends the reading with its only fault."""

    def __init__(self, line: int | None, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


def read_tree(data: bytes, file: str, on_fault: Callable[[Fault], None]) -> Node:
    """Read one YAML document.

    Args:
        data: the file's bytes, UTF-8 with or without a byte order mark.
        file: how messages name the file.
        on_fault: takes each duplicate key, of which the last one wins, and each merge key that is ignored.

    Raises:
        ManifestError: the text cannot be read at all; holds the one fault.
    """
    try:
        text = _decoded(data)
        return _Builder(file, on_fault).build(_events(text))
    except _ReadError as stop:
        raise ManifestError([Fault(file=file, line=stop.line, where="", message=stop.message)]) from None


def _decoded(data: bytes) -> str:
    if len(data) > MAX_BYTES:
        raise _ReadError(None, f"the file has {len(data)} bytes; at most {MAX_BYTES} are read. Put the jobs in a table")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _ReadError(line, f"the byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8") from None
    bad = _CONTROL.search(text)
    if bad is not None:
        line = text.count("\n", 0, bad.start()) + 1
        raise _ReadError(line, f"the control character 0x{ord(bad.group()):02x} is not allowed; remove it")
    return text


def _events(text: str) -> Iterator[Any]:
    try:
        yield from yaml.parse(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        raise _ReadError(line, _syntax(text, line, error)) from None
    except yaml.YAMLError as error:
        reason = getattr(error, "reason", "it cannot be parsed")
        position = getattr(error, "position", None)
        line = None if not isinstance(position, int) else text.count("\n", 0, position) + 1
        raise _ReadError(line, f"not valid YAML: {reason}") from None


def _syntax(text: str, line: int | None, error: yaml.MarkedYAMLError) -> str:
    around = text.split("\n")[max(line - 1, 0)] if line is not None and line <= text.count("\n") + 1 else ""
    if "\t" in around[: len(around) - len(around.lstrip())]:
        return "a tab stands in the indentation; YAML allows spaces only"
    problem = " ".join(part for part in (error.context, error.problem) if part)
    if "maximum nesting depth" in problem:
        return _TOO_DEEP  # libyaml 0.2.6 and later give up before our own bound is reached
    hint = '. Put quotes around a template: "{{ name }}"' if "{{" in around or "{%" in around else ""
    return f"not valid YAML: {problem}{hint}"


@dataclass(slots=True)
class _Frame:
    """A list or mapping that is being read; `before` the count of nodes when it began, `depth` the levels below it."""

    node: Items | Table
    anchor: str | None
    before: int
    key: Scalar | None = None
    merge: tuple[Scalar, Node] | None = None
    depth: int = 0

    @property
    def merging(self) -> bool:
        """Whether the value of a merge key comes next."""
        return self.key is not None and self.key.plain and self.key.text == MERGE


class _Builder:
    """Turns events into nodes with an explicit stack; anchors keep what their node would expand to, and its depth."""

    def __init__(self, file: str, on_fault: Callable[[Fault], None]) -> None:
        self._file = file
        self._on_fault = on_fault
        self._stack: list[_Frame] = []
        self._anchors: dict[str, tuple[Node, int, int]] = {}
        self._open: set[str] = set()
        self._count = 0
        self._aliased = 0
        self._root: Node | None = None

    def build(self, events: Iterator[Any]) -> Node:
        documents = 0
        for event in events:
            if isinstance(event, yaml.ScalarEvent):
                self._scalar(event)
            elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
                self._enter(event)
            elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                self._leave()
            elif isinstance(event, yaml.AliasEvent):
                self._alias(event)
            elif isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    line = event.start_mark.line + 1 if event.start_mark is not None else None
                    raise _ReadError(line, "a second document starts here; a manifest is one document")
        if self._root is None:
            raise _ReadError(None, 'the file is empty; a manifest starts with "version: 1"')
        return self._root

    def _scalar(self, event: Any) -> None:
        line = event.start_mark.line + 1
        if event.tag is not None and event.tag not in _STR_TAGS:
            raise _ReadError(line, f"the tag {quoted(event.tag)} is not allowed; write the value without a tag")
        node = Scalar(event.value, bool(event.implicit[0]) and event.tag is None, line)
        self._count += 1
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, 1, 0)
        self._place(node, 0)

    def _enter(self, event: Any) -> None:
        line = event.start_mark.line + 1
        if len(self._stack) >= MAX_DEPTH:
            raise _ReadError(line, _TOO_DEEP)
        if event.tag is not None:
            raise _ReadError(line, f"the tag {quoted(event.tag)} is not allowed; write the value without a tag")
        if self._stack and isinstance(self._stack[-1].node, Table) and self._stack[-1].key is None:
            raise _ReadError(line, 'a key must be text. Put quotes around a template: "{{ name }}"')
        self._count += 1
        if event.anchor is not None:
            self._open.add(event.anchor)
            self._anchors.pop(event.anchor, None)
        node: Items | Table = Table(line) if isinstance(event, yaml.MappingStartEvent) else Items(line)
        self._stack.append(_Frame(node, event.anchor, self._count))

    def _leave(self) -> None:
        frame = self._stack[-1]
        if isinstance(frame.node, Table) and frame.merge is not None:
            frame.key, value = frame.merge
            _merge(frame.node, value, partial(self._note, frame.key.line))
        self._stack.pop()
        if frame.anchor is not None:
            self._open.discard(frame.anchor)
            self._anchors[frame.anchor] = (frame.node, self._count - frame.before + 1, frame.depth + 1)
        self._place(frame.node, frame.depth + 1)

    def _alias(self, event: Any) -> None:
        line = event.start_mark.line + 1
        if event.anchor in self._open:
            raise _ReadError(line, f"the alias *{event.anchor} stands inside what it names")
        if event.anchor not in self._anchors:
            message = f"the alias *{event.anchor} names an anchor that is not defined before it"
            if not self._merging():
                raise _ReadError(line, message)
            self._note(line, (), message)
            self._place(Table(line), 0)  # merges nothing, so that the faults below are found too
            return
        node, size, depth = self._anchors[event.anchor]
        self._count += size
        self._aliased += size
        if self._aliased > MAX_ALIASED:
            raise _ReadError(
                line, f"the aliases stand for more than {MAX_ALIASED} values; write them out or use a table"
            )
        if len(self._stack) + depth > MAX_DEPTH:
            raise _ReadError(line, _TOO_DEEP)
        self._place(node, depth)

    def _merging(self) -> bool:
        """Whether what comes next is merged: a merge key's value, or an element of it."""
        top = self._stack[-1:] if not self._stack or isinstance(self._stack[-1].node, Table) else self._stack[-2:-1]
        return any(frame.merging for frame in top)

    def _place(self, node: Node, depth: int) -> None:
        if not self._stack:
            self._root = node
            return
        parent = self._stack[-1]
        parent.depth = max(parent.depth, depth)
        if isinstance(parent.node, Items):
            parent.node.items.append(node)
        elif parent.key is None:
            if not isinstance(node, Scalar) or node.is_null:
                raise _ReadError(node.line, "a key must be text")
            parent.key = node
        else:
            self._pair(parent, parent.node, parent.key, node)
            parent.key = None

    def _path(self) -> tuple[str | int, ...]:
        """Where the builder stands: the open key of each mapping, the next position of each list."""
        return tuple(
            len(at.node.items) if isinstance(at.node, Items) else at.key.text if at.key else "" for at in self._stack
        )

    def _note(self, line: int, at: tuple[int, ...], message: str) -> None:
        self._on_fault(Fault(file=self._file, line=line, where=where((*self._path(), *at)), message=message))

    def _pair(self, parent: _Frame, table: Table, key: Scalar, node: Node) -> None:
        name = key.text
        merged = parent.merging
        earlier = table.lines.get(name) if not merged else parent.merge and parent.merge[0].line
        if earlier is not None:
            message = f"the key {quoted(name)} stands here and on line {earlier}; keep one of them"
            self._note(key.line, (), message)
        if merged:
            parent.merge = (key, node)
        else:
            table.pairs[name] = node
            table.lines[name] = key.line


def _merge(table: Table, value: Node, note: Callable[[tuple[int, ...], str], None]) -> None:
    """Put the pairs of other mappings into this one: `<<: *name`, or a list of such, as YAML 1.1 has it.

    The mapping's own keys win, then those of the mapping that comes earlier in the list. What is merged keeps the line
    where it is written, and comes before the mapping's own keys, for axes have an order. `note` takes the position of
    what is no mapping, and so is ignored.
    """
    pairs: dict[str, Node] = {}
    lines: dict[str, int] = {}
    several = isinstance(value, Items)
    for index, source in enumerate(value.items if isinstance(value, Items) else [value]):
        if not isinstance(source, Table):
            note((index,) if several else (), f"found {found(source)}; {_ALLOWED}")
            continue
        for name, node in source.pairs.items():
            if name not in pairs:
                pairs[name], lines[name] = node, source.lines[name]
    table.pairs = pairs | table.pairs
    table.lines = lines | table.lines
