"""YAML text → nodes that know their line, and how their scalars are understood.

A scalar is the text the user wrote until a field asks for something else; `16:9`, `no`, `010` and `2024-01-01` are
themselves. YAML 1.2's core is understood (`true`, `false`, `null`, whole numbers, decimals), without quotes only.

An alias is one node in several places, so no text costs more than its length and what its merge keys copy. Depth,
bytes and what aliases stand for (merged ones too) are bounded; tags and second documents are refused. A syntax error or
a bomb ends the reading with one fault; duplicate keys and merge keys that merge nothing are noted and reading goes on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from batchflux.errors import Fault, ManifestError, ReadError, quoted
from batchflux.tables.cells import JUNK, Written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KeyPath = tuple[str | int, ...]  # keys of mappings and positions of lists, from the root

OVERRIDE = 0  # the line of what came from the command line, not from the file

_NULLS = frozenset({"", "~", "null"})
_BOOLS = {"true": True, "false": False}
_INT = re.compile(r"0|-?[1-9][0-9]{0,17}")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]|[-+]?[0-9]+$")
MAX_BYTES = 64 << 20
MAX_DEPTH = 64
MAX_ALIASED = 100_000  # nodes that all aliases together may stand for

# The parser in C is 20 times faster; PyYAML lacks it where libyaml was missing when it was built.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLAIN_STYLES = (None, "")
_TEXTS = frozenset({"prompt", "tags", "matrix", "zip"})
_STR_TAGS = frozenset({"!", "tag:yaml.org,2002:str"})
_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
MERGE = "<<"
_VALUE = re.compile(r"\s*(?:- +)*(?:([\w.-]+) *:(?: +|$))?(.*)")
_FLOW = re.compile(r"([\w.-]+): +([^,\[\]{}]*)")
_GLUED = re.compile(r"\s*(?:- +)*([\w.-]+)[:\uff1a](?!//)\S")
_COMMENT = re.compile(r"(?:^|\s)#")
_NUMBER_LIKE = re.compile(r"[0-9.:x -]*")
_CUT = "what stands behind the # is a comment and not part of the text; put the text in quotes"
_COLUMN = "the line begins in another column than the keys that it belongs to"
_ESCAPE = "a \\ between double quotes is no plain sign; write single quotes, or / in a path"
_PROBLEMS = {  # of what no single line shows
    "expected ',' or": "a [ or { is not closed here, or a text between them needs quotes",
    "mapping values are": f"{_COLUMN}, or its text needs quotes",
    "indicator": _COLUMN,
    "expected key": _COLUMN,
    "unknown escape": _ESCAPE,
    "hexdecimal": _ESCAPE,
    "end of stream": "a quote is opened and not closed",
}
_EXAMPLE = 40  # characters of a text in quotes that a message shows
_ALLOWED = "allowed after << is the alias of a mapping, as *name, or a list of them"


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


def plain_data(node: object, *, loose: bool = False) -> Any:
    """A node as JSON data, decimals as ordinary floats; `loose` leaves its Scalars, as the schema validates them."""
    if isinstance(node, (Table, dict)):
        pairs = node.pairs if isinstance(node, Table) else node
        return {key: plain_data(value, loose=loose) for key, value in pairs.items()}
    if isinstance(node, (Items, list)):
        return [plain_data(item, loose=loose) for item in (node.items if isinstance(node, Items) else node)]
    value = value_of(node) if isinstance(node, Scalar) and not loose else node
    return float(value) if isinstance(value, Written) else value


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


def read_tree(data: bytes, file: str, on_fault: Callable[[Fault], None]) -> Node:
    """Read one YAML document, UTF-8 with or without a byte order mark.

    `on_fault` takes each duplicate key, of which the last one wins, and each merge key that is ignored. Raises
    ManifestError with the one fault of a text that cannot be read at all; messages name it `file`.
    """
    try:
        return _Builder(_decoded(data), file, on_fault).document()
    except ReadError as stop:
        raise ManifestError([Fault(file=file, line=stop.line, where="", message=stop.message)]) from None


def _decoded(data: bytes) -> str:
    if len(data) > MAX_BYTES:
        raise ReadError(None, f"the file has {len(data)} bytes; at most {MAX_BYTES} are read. Put the jobs in a table")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ReadError(line, f"the byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8") from None
    bad = _CONTROL.search(text)
    if bad is not None:
        line = text.count("\n", 0, bad.start()) + 1
        raise ReadError(line, f"the control character 0x{ord(bad.group()):02x} is not allowed; remove it")
    return text


def _events(text: str) -> Iterator[Any]:
    try:
        yield from yaml.parse(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        raise ReadError(line, _syntax(text, line, error)) from None
    except yaml.YAMLError as error:
        reason = getattr(error, "reason", "it cannot be parsed")
        position = getattr(error, "position", None)
        line = text.count("\n", 0, position) + 1 if isinstance(position, int) else None
        raise ReadError(line, f"not valid YAML: {reason}") from None


def _syntax(text: str, line: int | None, error: yaml.MarkedYAMLError) -> str:
    problem = " ".join(part for part in (error.context, error.problem) if part)
    if "maximum nesting depth" in problem:
        return _TOO_DEEP  # libyaml 0.2.6 and later give up before our own bound is reached
    lines = _lines(text)
    at = [mark.line for mark in (error.problem_mark, error.context_mark) if mark is not None]
    near = dict.fromkeys([*at, *(max(0, number - 1) for number in at[:1])])  # what is wrong may show a line later only
    for number in (number for number in near if number < len(lines)):
        if (remedy := _remedy(lines[number])) is not None:
            return remedy if number + 1 == line else f"{remedy} (line {number + 1})"
    for sign, remedy in _PROBLEMS.items():
        if sign in problem:
            return remedy
    return f"not valid YAML: {problem}"


def _lines(text: str) -> list[str]:
    return re.split(r"\r\n|[\n\r\x85\u2028\u2029]", text)  # where YAML's parser counts lines


def _remedy(line: str) -> str | None:
    """Return what is to be changed in a line so that it is YAML, where that shows; else None."""
    indent = line[: len(line) - len(line.lstrip(f"{JUNK}-"))].strip(" -")
    if indent:
        name = "a tab" if "\t" in indent else f"the character U+{ord(indent[0]):04X}, which looks like a blank,"
        return f"{name} stands in the indentation; YAML allows spaces only"
    match = _VALUE.match(line)
    key, value = (match[1] or "", match[2].strip()) if match is not None else ("", "")
    if value[:1] not in {"'", '"'} and ("{{" in value or "{%" in value):
        return f"put quotes around a template, as {_in_quotes(key, value if value[:1] != '[' else '{{ name }}')}"
    if value[:1] in {"[", "{"}:
        inner = (_why(found[2].strip(), found[1]) for found in _FLOW.finditer(value))
        reason = next(filter(None, inner), None)
        return reason or (_why(value, key) if re.search(r"[\]}]\s*[^\s,\]}#]", value) else None)
    if not key and (glued := _GLUED.match(line)) is not None:
        return f"a blank is missing behind the colon; write {glued[1]}: and then the value"
    return _why(value, key)


def _why(value: str, key: str) -> str | None:
    """Return why a value must stand in quotes; None where it need not."""
    first = value[:1]
    if first and first in "\"'":
        if first not in value[1:]:
            return f"the quote in front of {quoted(value[1:])} is not closed"
        if value.find(first, 1) == len(value) - 1:
            return None  # all of it is in quotes
    if (first and first in "\"'*&!@`%>|?,[{") or value.startswith("- "):
        what = "a quote" if first in "\"'" else first
        return f"a text that begins with {what} must stand in quotes as a whole, as {_in_quotes(key, value)}"
    if re.search(r":\s", value):
        return f"a text with a colon and a blank in it must stand in quotes, as {_in_quotes(key, value)}"
    return f"{_CUT}, as {_in_quotes(key, value)}" if _COMMENT.search(value) else None


def _in_quotes(key: str, value: str) -> str:
    text = value if len(value) <= _EXAMPLE else f"{value[:_EXAMPLE]}..."
    mark = "'" if '"' in text and "'" not in text else '"'
    inner = text if mark == "'" else text.replace("\\", "\\\\").replace('"', '\\"')
    return f"{key}{': ' if key else ''}{mark}{inner}{mark}"


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


class _Builder:
    """Turns events into nodes. Anchors keep their node, how many it would expand to, and the levels below it."""

    def __init__(self, text: str, file: str, on_fault: Callable[[Fault], None]) -> None:
        self._text = text
        self._lines: list[str] | None = None
        self._events = _events(text)
        self._file = file
        self._on_fault = on_fault
        self._path: list[str | int] = []  # the open key of each mapping, the position in each list
        self._anchors: dict[str, tuple[Node, int, int] | None] = {}  # None: of what is being read
        self._anchored: dict[str, tuple[int, str, KeyPath]] = {}  # prompts that begin with &, until an alias names them
        self._count = self._aliased = 0

    def document(self) -> Node:
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.NodeEvent):
                root, _ = self._node(event)
            elif isinstance(event, yaml.DocumentStartEvent) and root is not None:
                raise ReadError(_line(event), "a second document starts here; a manifest is one document")
        for at, message, path in self._anchored.values():
            self._on_fault(Fault(file=self._file, line=at, where=where(path), message=message))
        if root is None:
            raise ReadError(None, 'the file is empty; a manifest starts with "version: 1"')
        return root

    def _node(self, event: Any, *, merging: bool = False) -> tuple[Node, int]:
        """Return the node that an event begins, and how many levels are below it; `merging` in a merge key's value."""
        line = _line(event)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(str(event.anchor), line, merging=merging)
        if len(self._path) >= MAX_DEPTH and not isinstance(event, yaml.ScalarEvent):
            raise ReadError(line, _TOO_DEEP)
        if event.tag is not None and not (isinstance(event, yaml.ScalarEvent) and event.tag in _STR_TAGS):
            raise ReadError(
                line, f"the tag {quoted(event.tag)} is not allowed; leave it out, or put the text in quotes"
            )
        before = self._count
        self._count += 1
        node: Node
        if isinstance(event, yaml.ScalarEvent):
            node, depth = Scalar(event.value, event.implicit[0] and event.tag is None, line), 0
            if event.style in _PLAIN_STYLES and self._is_text():
                self._check_whole(event)
        else:
            self._anchors[event.anchor] = None
            read = self._mapping if isinstance(event, yaml.MappingStartEvent) else self._sequence
            node, depth = read(line, merging)
        self._anchors[event.anchor] = (node, self._count - before, depth)
        return node, depth

    def _is_text(self) -> bool:
        """Whether words for a picture stand here: a prompt, a tag or a value of an axis."""
        return any(key in _TEXTS for key in self._path[1:4]) and self._path[0] in {"jobs", "defaults"}

    def _check_whole(self, event: Any) -> None:
        """Note where an unquoted text is not all of what was meant: YAML takes some of it for a mark of its own."""
        if self._lines is None:
            self._lines = _lines(self._text)
        start, end = event.start_mark, event.end_mark
        behind = self._lines[end.line][end.column :] if end.line < len(self._lines) else ""
        key = str(self._path[-1]) if isinstance(self._path[-1], str) else ""
        comment = _COMMENT.search(behind)
        is_prompt = "prompt" in self._path[1:4]
        if comment is not None and not behind[: comment.start()].strip():
            # Behind a number, or parted from the `#` by a blank, it is meant as a comment; but a prompt is not cut.
            meant = behind.lstrip().startswith("# ") or _NUMBER_LIKE.fullmatch(event.value)
            cut = re.sub(r"[,\]}].*", "", behind) if re.search(r"[\]}]", behind) else behind
            if is_prompt or (not meant and event.value) or (not event.value and not behind.lstrip().startswith("# ")):
                self._note(end.line + 1, f"{_CUT}, as {_in_quotes(key, (event.value + cut).strip())}")
        if is_prompt and (event.tag is not None or event.anchor is not None):
            written = self._lines[start.line][start.column :].strip() if start.line < len(self._lines) else event.value
            if event.tag is not None:
                self._note(start.line + 1, str(_why(written, key)))
            else:
                self._anchored[event.anchor] = start.line + 1, str(_why(written, key)), tuple(self._path)

    def _alias(self, anchor: str, line: int, *, merging: bool) -> tuple[Node, int]:
        known = self._anchors.get(anchor)
        self._anchored.pop(anchor, None)
        if known is None and anchor in self._anchors:
            raise ReadError(line, f"the alias *{anchor} stands inside what it names")
        if known is None:
            message = f"the alias *{anchor} names an anchor that is not defined before it"
            if not merging:
                raise ReadError(line, f"{message}; a text that begins with * must stand in quotes")
            self._note(line, message)
            return Table(line), 0  # merges nothing, so that the faults below are found too
        node, size, depth = known
        self._count += size
        self._aliased += size
        if self._aliased > MAX_ALIASED:
            raise ReadError(
                line, f"the aliases stand for more than {MAX_ALIASED} values; write them out or use a table"
            )
        if len(self._path) + depth > MAX_DEPTH:
            raise ReadError(line, _TOO_DEEP)
        return node, depth

    def _sequence(self, line: int, merging: bool) -> tuple[Node, int]:  # noqa: FBT001  as `_mapping`
        made, deepest = Items(line), 0
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            self._path.append(len(made.items))
            node, depth = self._node(event, merging=merging)
            self._path.pop()
            made.items.append(node)
            deepest = max(deepest, depth)
        return made, deepest + 1

    def _mapping(self, line: int, _merging: bool) -> tuple[Node, int]:  # noqa: FBT001  as `_sequence`
        table, deepest = Table(line), 0
        merge: tuple[int, Node] | None = None
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event)
            merging = key.plain and key.text == MERGE
            self._path.append(key.text)
            node, depth = self._node(next(self._events), merging=merging)
            deepest = max(deepest, depth)
            earlier = table.lines.get(key.text) if not merging else merge and merge[0]
            if earlier is not None:
                self._note(key.line, f"the key {quoted(key.text)} stands here and on line {earlier}; keep one of them")
            self._path.pop()
            if merging:
                merge = key.line, node
            else:
                table.pairs[key.text], table.lines[key.text] = node, key.line
        if merge is not None:
            self._merge(table, *merge)
        return table, deepest + 1

    def _key(self, event: Any) -> Scalar:
        if isinstance(event, yaml.CollectionStartEvent):
            raise ReadError(_line(event), 'a key must be text. Put quotes around a template: "{{ name }}"')
        node, _ = self._node(event)
        if not isinstance(node, Scalar) or node.is_null:
            raise ReadError(node.line, "a key must be text")
        if node.plain and (remedy := _remedy(node.text) if node.text[0] in f"{JUNK}-" else None) is not None:
            raise ReadError(node.line, remedy)
        return node

    def _merge(self, table: Table, line: int, value: Node) -> None:
        """Put the pairs of other mappings into this one: `<<: *name`, or a list of such, as YAML 1.1 has it.

        The mapping's own keys win, then the earlier mapping's. What is merged keeps its line and comes first.
        """
        pairs: dict[str, Node] = {}
        lines: dict[str, int] = {}
        for index, source in enumerate(value.items if isinstance(value, Items) else [value]):
            if isinstance(source, Table):
                for name, node in source.pairs.items():
                    pairs.setdefault(name, node)
                    lines.setdefault(name, source.lines[name])
            else:
                at = (MERGE, index) if isinstance(value, Items) else (MERGE,)
                self._note(line, f"found {found(source)}; {_ALLOWED}", *at)
        table.pairs = pairs | table.pairs
        table.lines = lines | table.lines

    def _note(self, line: int, message: str, *below: str | int) -> None:
        self._on_fault(Fault(file=self._file, line=line, where=where((*self._path, *below)), message=message))
