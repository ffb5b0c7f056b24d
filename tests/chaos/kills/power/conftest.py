"""A disk in memory that forgets what was not synced, fed by the system calls that a real run made (strace).

What a power cut leaves is modelled as file systems promise it and no better: bytes last once their file is synced,
names once their folder is; what is not synced may be there whole, in part, as zeros of the right length, or not at all.
One thing more is taken for granted, as every journalling file system gives it: a rename is one step.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from tests.program import Scene

CALLS = (
    "openat,creat,write,pwrite64,writev,pwritev,pwritev2,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,"
    "ftruncate,truncate,fallocate,mkdir,mkdirat,rmdir,sendto,sendmsg,link,linkat,copy_file_range,sendfile,lseek"
)
Variant = Literal["all", "synced", "torn", "zeros"]
SECTOR = 512
_LINE = re.compile(r"^(\d+)\s+(\w+)\((.*)\)\s+= (-?\d+)(?:<(.*)>)?[^<>]*$", re.DOTALL)
_TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')
_FD = re.compile(r"^(\d+)<([^>]*)>")
_ESCAPE = re.compile(rb"\\(x[0-9a-f]{2}|[0-7]{1,3}|.)")
_PLAIN = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"v": b"\v", b"f": b"\f"}


def unescaped(text: str) -> bytes:
    def one(match: re.Match[bytes]) -> bytes:
        what = match.group(1)
        if what.startswith(b"x") and len(what) == 3:
            return bytes([int(what[1:], 16)])
        return bytes([int(what, 8)]) if what[:1].isdigit() else _PLAIN.get(what, what)

    return _ESCAPE.sub(one, text.encode("latin-1"))


@dataclass(frozen=True)
class Call:
    """One system call that succeeded: `path` is the file of its first argument, `texts` its strings."""

    name: str
    rest: str
    texts: list[bytes]
    fd: int
    path: str
    result: int
    opened: str


def calls_of(trace: str) -> Iterator[Call]:
    """Read strace's output; a call that was interrupted counts where it ended."""
    begun: dict[str, str] = {}
    for line in trace.splitlines():
        pid, _, text = line.partition(" ")
        text = text.strip()
        if text.endswith("<unfinished ...>"):
            begun[pid] = text.removesuffix("<unfinished ...>").rstrip()
            continue
        resumed = re.match(r"<\.\.\. \w+ resumed>\s?(.*)$", text, re.DOTALL)
        if resumed is not None:
            text = begun.pop(pid) + resumed.group(1)
        match = _LINE.match(f"{pid} {text}")
        if match is None or match.group(4).startswith("-"):
            continue
        name, rest = match.group(2), match.group(3)
        texts = [unescaped(found) for found in _TEXT.findall(rest)]
        descriptor = _FD.match(rest)
        fd, path = (int(descriptor.group(1)), descriptor.group(2)) if descriptor else (-1, "")
        yield Call(name, _TEXT.sub('""', rest), texts, fd, path, int(match.group(4)), match.group(5) or "")


@dataclass
class File:
    """Bytes as the program sees them, as the disk has them for certain, and the writes between the two."""

    seen: bytearray = field(default_factory=bytearray)
    kept: bytes = b""
    pending: list[tuple[int, bytes]] = field(default_factory=list)

    def write(self, at: int, data: bytes) -> None:
        _put(self.seen, at, data)
        self.pending.append((at, data))

    def cut(self, size: int) -> None:
        del self.seen[size:]
        self.seen.extend(bytes(size - len(self.seen)))
        self.pending.append((-1, size.to_bytes(8, "big")))

    def sync(self) -> None:
        self.kept = bytes(self.seen)
        self.pending.clear()

    def after(self, variant: Variant, chance: random.Random) -> bytes:
        if variant == "all":
            return bytes(self.seen)
        data = bytearray(self.kept)
        if variant == "synced":
            return bytes(data)
        for at, what in self.pending:
            if at < 0:
                size = int.from_bytes(what, "big")
                del data[size:]
                data.extend(bytes(size - len(data)))
            elif variant == "zeros":
                _put(data, at, bytes(len(what)))
            elif chance.random() < 0.6:
                half = chance.randrange(0, len(what) + SECTOR, SECTOR) if chance.random() < 0.5 else len(what)
                _put(data, at, what[:half])
        return bytes(data)


def _put(data: bytearray, at: int, what: bytes) -> None:
    data.extend(bytes(max(0, at - len(data))))
    data[at : at + len(what)] = what


Node = File | None  # None: a folder
Change = tuple[str, str, str, Node]  # what, from, to, which


@dataclass
class Disk:
    """The folder `root`, as written by calls."""

    root: str
    seen: dict[str, Node] = field(default_factory=dict)
    kept: dict[str, Node] = field(default_factory=dict)
    pending: list[Change] = field(default_factory=list)
    places: dict[int, int] = field(default_factory=dict)
    appending: set[int] = field(default_factory=set)

    def ours(self, path: str) -> bool:
        return path == self.root or path.startswith(self.root + "/")

    def feed(self, call: Call) -> bool:
        """Take a call in; say whether it changed the folder."""
        handler = getattr(self, f"_{call.name}", None)
        paths = [text.decode("utf-8", "replace") for text in call.texts if text.startswith(b"/")]
        if handler is None or not (self.ours(call.path.removesuffix(" (deleted)")) or any(map(self.ours, paths))):
            return False
        return bool(handler(call, paths))

    def after(self, variant: Variant, chance: random.Random, target: Path) -> None:
        """Write the folder as it is when the power has come back."""
        names = dict(self.seen) if variant in {"all", "zeros"} else dict(self.kept)
        if variant == "torn":
            for change in self.pending[: chance.randint(0, len(self.pending))]:
                _apply(names, change)
        contents: dict[int, bytes] = {}
        for path, node in sorted(names.items()):
            place = target / path.removeprefix(self.root).lstrip("/")
            if node is None:
                place.mkdir(parents=True, exist_ok=True)
            elif place.parent.is_dir():
                if id(node) not in contents:
                    contents[id(node)] = node.after(variant, chance)
                place.write_bytes(contents[id(node)])

    def _change(self, what: str, source: str, target: str, node: Node) -> bool:
        change = (what, source, target, node)
        _apply(self.seen, change)
        self.pending.append(change)
        return True

    def _file(self, call: Call) -> File | None:
        return self.seen.get(call.path) if not call.path.endswith("(deleted)") else None

    def _openat(self, call: Call, paths: list[str]) -> bool:
        path = paths[-1]
        self.places[call.result] = 0
        self.appending.discard(call.result)
        if "O_APPEND" in call.rest:
            self.appending.add(call.result)
        if "O_CREAT" in call.rest and path not in self.seen:
            return self._change("link", "", path, File())
        file = self.seen.get(path)
        if "O_TRUNC" in call.rest and file is not None:
            file.cut(0)
            return True
        return False

    def _write(self, call: Call, _paths: list[str]) -> bool:
        file = self._file(call)
        if file is None:
            return False
        at = len(file.seen) if call.fd in self.appending else self.places[call.fd]
        file.write(at, call.texts[-1][: call.result])
        self.places[call.fd] = at + call.result
        return True

    def _pwrite64(self, call: Call, _paths: list[str]) -> bool:
        file = self._file(call)
        if file is None:
            return False
        file.write(int(call.rest.rpartition(",")[2]), call.texts[-1][: call.result])
        return True

    def _lseek(self, call: Call, _paths: list[str]) -> bool:
        self.places[call.fd] = call.result
        return False

    def _ftruncate(self, call: Call, _paths: list[str]) -> bool:
        file = self._file(call)
        if file is None:
            return False
        file.cut(int(call.rest.rpartition(",")[2]))
        return True

    def _fallocate(self, call: Call, _paths: list[str]) -> bool:
        return False  # the reserve: worthless after a cut, whatever is in it

    def _fsync(self, call: Call, _paths: list[str]) -> bool:
        node = self.seen.get(call.path)
        if node is not None:
            node.sync()
            return True
        left = []
        for change in self.pending:
            if call.path in {str(Path(change[1]).parent), str(Path(change[2]).parent)}:
                _apply(self.kept, change)
            else:
                left.append(change)
        self.pending = left
        return True

    _fdatasync = _fsync

    def _rename(self, _call: Call, paths: list[str]) -> bool:
        return self._change("rename", paths[0], paths[1], self.seen[paths[0]])

    _renameat = _renameat2 = _rename

    def _unlink(self, _call: Call, paths: list[str]) -> bool:
        return self._change("unlink", paths[-1], "", None)

    _unlinkat = _rmdir = _unlink

    def _mkdir(self, _call: Call, paths: list[str]) -> bool:
        return self._change("link", "", paths[-1], None)

    _mkdirat = _mkdir

    def _unknown(self, call: Call, _paths: list[str]) -> bool:
        raise AssertionError(f"the disk does not know {call.name}, which the run called on its folder")

    _creat = _writev = _pwritev = _pwritev2 = _truncate = _link = _linkat = _copy_file_range = _sendfile = _unknown


def _apply(names: dict[str, Node], change: Change) -> None:
    what, source, target, node = change
    if source:
        names.pop(source, None)
    if what != "unlink":
        names[target] = node


@dataclass
class Recording:
    """The calls of one run, and the disk they were made on."""

    root: Path
    calls: list[Call]

    def disk(self) -> Disk:
        return Disk(str(self.root))


@pytest.fixture
def record(scene: Scene, strace: str) -> Callable[..., Recording]:
    """Run the program under strace, and return what it did to its output folder."""
    trace = scene.program.folder / "trace"

    def run(*arguments: str) -> Recording:
        options = ("-f", "-y", "-x", "-s", "16000000", "-e", f"trace={CALLS}", "-o", str(trace))
        scene.program.wrapper = (strace, *options)
        ended = scene.program.run(*arguments)
        scene.program.wrapper = ()
        assert ended.code == 0, ended.said
        return Recording(scene.program.out, list(calls_of(trace.read_text(encoding="latin-1"))))

    return run
