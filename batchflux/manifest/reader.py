"""YAML text → nodes, from the parser's events.

The rule: nothing here recurses and nothing is expanded, so no text can cost more than its own length. Depth, bytes
and what aliases stand for are bounded before anyone walks the nodes; merge keys, tags and second documents are
refused. A syntax error ends the reading with one fault; duplicate keys are noted and the reading goes on.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from batchflux.errors import Fault, ManifestError
from batchflux.manifest.check import where
from batchflux.manifest.tree import Items, Node, Scalar, Table, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_BYTES = 64 << 20
MAX_DEPTH = 64
MAX_ALIASED = 100_000  # nodes that all aliases together may stand for

# The parser in C is 20 times faster; PyYAML lacks it where libyaml was missing when it was built.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STR_TAGS = frozenset({"!", "tag:yaml.org,2002:str"})
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class _Stop(Exception):  # noqa: N818  ends the reading, carries its only fault
    def __init__(self, line: int | None, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


def read_tree(data: bytes, file: str, on_fault: Callable[[Fault], None]) -> Node:
    """Read one YAML document.

    Args:
        data: the file's bytes, UTF-8 with or without a byte order mark.
        file: how messages name the file.
        on_fault: told of each duplicate key; the last one of its name wins.

    Raises:
        ManifestError: the text cannot be read at all; holds the one fault.
    """
    try:
        text = _decoded(data)
        return _Builder(file, on_fault).build(_events(text))
    except _Stop as stop:
        raise ManifestError([Fault(file=file, line=stop.line, where="", message=stop.message)]) from None


def _decoded(data: bytes) -> str:
    if len(data) > MAX_BYTES:
        raise _Stop(None, f"the file has {len(data)} bytes; at most {MAX_BYTES} are read. Put the jobs in a table")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _Stop(line, f"the byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8") from None
    bad = _CONTROL.search(text)
    if bad is not None:
        line = text.count("\n", 0, bad.start()) + 1
        raise _Stop(line, f"the control character 0x{ord(bad.group()):02x} is not allowed; remove it")
    return text


def _events(text: str) -> Iterator[Any]:
    try:
        yield from yaml.parse(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        raise _Stop(line, _syntax(text, line, error)) from None
    except yaml.YAMLError as error:
        reason = getattr(error, "reason", "it cannot be parsed")
        position = getattr(error, "position", None)
        line = None if not isinstance(position, int) else text.count("\n", 0, position) + 1
        raise _Stop(line, f"not valid YAML: {reason}") from None


def _syntax(text: str, line: int | None, error: yaml.MarkedYAMLError) -> str:
    around = text.split("\n")[max(line - 1, 0)] if line is not None and line <= text.count("\n") + 1 else ""
    if "\t" in around[: len(around) - len(around.lstrip())]:
        return "a tab stands in the indentation; YAML allows spaces only"
    problem = " ".join(part for part in (error.context, error.problem) if part)
    hint = '. Put quotes around a template: "{{ name }}"' if "{{" in around or "{%" in around else ""
    return f"not valid YAML: {problem}{hint}"


class _Builder:
    """Turns events into nodes with an explicit stack; `sizes` tells what each anchored node would expand to."""

    def __init__(self, file: str, on_fault: Callable[[Fault], None]) -> None:
        self._file = file
        self._on_fault = on_fault
        self._stack: list[Items | Table] = []
        self._keys: list[Scalar | None] = []
        self._marks: list[tuple[str | None, int]] = []
        self._anchors: dict[str, tuple[Node, int]] = {}
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
                    raise _Stop(line, "a second document starts here; a manifest is one document")
        if self._root is None:
            raise _Stop(None, 'the file is empty; a manifest starts with "version: 1"')
        return self._root

    def _scalar(self, event: Any) -> None:
        line = event.start_mark.line + 1
        if event.tag is not None and event.tag not in _STR_TAGS:
            raise _Stop(line, f"the tag {quoted(event.tag)} is not allowed; write the value without a tag")
        node = Scalar(event.value, bool(event.implicit[0]) and event.tag is None, line)
        self._count += 1
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, 1)
        self._place(node)

    def _enter(self, event: Any) -> None:
        line = event.start_mark.line + 1
        if len(self._stack) >= MAX_DEPTH:
            raise _Stop(line, f"nested more than {MAX_DEPTH} levels deep")
        if event.tag is not None:
            raise _Stop(line, f"the tag {quoted(event.tag)} is not allowed; write the value without a tag")
        if self._stack and isinstance(self._stack[-1], Table) and self._keys[-1] is None:
            raise _Stop(line, 'a key must be text. Put quotes around a template: "{{ name }}"')
        node: Items | Table = Table(line) if isinstance(event, yaml.MappingStartEvent) else Items(line)
        self._count += 1
        if event.anchor is not None:
            self._open.add(event.anchor)
            self._anchors.pop(event.anchor, None)
        self._stack.append(node)
        self._keys.append(None)
        self._marks.append((event.anchor, self._count))

    def _leave(self) -> None:
        node = self._stack.pop()
        self._keys.pop()
        anchor, before = self._marks.pop()
        if anchor is not None:
            self._open.discard(anchor)
            self._anchors[anchor] = (node, self._count - before + 1)
        self._place(node)

    def _alias(self, event: Any) -> None:
        line = event.start_mark.line + 1
        if event.anchor in self._open:
            raise _Stop(line, f"the alias *{event.anchor} stands inside what it names")
        if event.anchor not in self._anchors:
            raise _Stop(line, f"the alias *{event.anchor} names an anchor that is not defined before it")
        node, size = self._anchors[event.anchor]
        self._count += size
        self._aliased += size
        if self._aliased > MAX_ALIASED:
            raise _Stop(line, f"the aliases stand for more than {MAX_ALIASED} values; write them out or use a table")
        self._place(node)

    def _place(self, node: Node) -> None:
        if not self._stack:
            self._root = node
            return
        parent = self._stack[-1]
        if isinstance(parent, Items):
            parent.items.append(node)
        elif self._keys[-1] is None:
            self._keys[-1] = self._key(node)
        else:
            self._pair(parent, self._keys[-1], node)
            self._keys[-1] = None

    def _key(self, node: Node) -> Scalar:
        if not isinstance(node, Scalar) or node.is_null:
            raise _Stop(node.line, "a key must be text")
        if node.plain and node.text == "<<":
            raise _Stop(node.line, 'the merge key "<<" is not allowed; write the fields out or use "defaults"')
        return node

    def _path(self) -> tuple[str | int, ...]:
        """Where the builder stands: the open key of each mapping, the next position of each list."""
        pairs = zip(self._stack, self._keys, strict=True)
        return tuple(len(at.items) if isinstance(at, Items) else key.text if key else "" for at, key in pairs)

    def _pair(self, table: Table, key: Scalar, node: Node) -> None:
        name = key.text
        if name in table.pairs:
            message = f"the key {quoted(name)} stands here and on line {table.lines[name]}; keep one of them"
            self._on_fault(Fault(file=self._file, line=key.line, where=where(self._path()), message=message))
        table.pairs[name] = node
        table.lines[name] = key.line
