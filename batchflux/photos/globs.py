"""The files that a pattern means: `*`, `?`, `[…]`, `**` and `{jpg,png}`, in the folder of the manifest or a bucket.

As the shell has it: `*` takes no name that begins with a dot, `**` no such folder. Letters of a suffix count as one in
upper and lower case (`*.jpg` takes IMG_1.JPG), and so do the two ways in which Unicode writes an accent. A name that is
written out and is there is taken as it stands, brackets and all. A link that leads nowhere is a file, whose job
says so, if it has a suffix; a folder that cannot be read is a fault, for what is in it would be missing unsaid.
"""

from __future__ import annotations

import errno
import glob
import itertools
import os
import re
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchflux.errors import quoted
from batchflux.output.stores.base import Address, in_bucket
from batchflux.photos.find import joined, on_disk
from batchflux.photos.objects import fits, is_folder, objects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from batchflux.output.stores.opening import Stores

MAX_MATCHES = 1_000_000
MAX_DEEP = 2
MAX_PARTS = 64
MAX_LOOKED_AT = 1_000_000  # names, for one pattern
MAX_BRACES = 256  # patterns that one with braces comes to
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_NO_PLACE = "lost+found"  # of a file system itself, which only root may enter
_BRACES = re.compile(r"\{([^{}/]*,[^{}]*)\}")


def matches(patterns: Sequence[str], base: Path, stores: Stores) -> list[str]:
    """Return the files, sorted for each pattern, each once, relative to `base` unless a pattern is absolute.

    A pattern that is the address of a bucket means objects there, each by its address. Raises ValueError: nothing
    matches, or a pattern looks at more than can be meant; UsageError and StorageError: a bucket cannot be listed.
    """
    names: dict[str, None] = {}
    for pattern in patterns:
        found = set[str]()
        for plain in _unbraced(pattern):
            for name in _in_bucket(plain, stores) if in_bucket(plain) else _files(plain, base):
                found.add(name)
                if len(found) > MAX_MATCHES:
                    raise ValueError(f"{_shown(pattern)} matches more than {MAX_MATCHES} files")
        names |= dict.fromkeys(sorted(found))
    if not names:
        shown = " or ".join(map(_shown, patterns))
        place = "" if all(map(in_bucket, patterns)) else " beside the manifest"
        raise ValueError(f"no file matches {shown}{place}{_why(patterns[0], base, stores)}")
    return list(names)


def _why(pattern: str, base: Path, stores: Stores) -> str:
    """Return why nothing is found, as the end of a sentence, where folders tell."""

    def is_there(folder: str) -> bool:
        if in_bucket(folder):
            return is_folder(stores.at(folder), Address.of(folder).key)
        return os.path.isdir(joined(base, folder))

    folder = pattern.rstrip("/")
    if is_there(folder):
        return f"; it is a folder: write {folder}/*.jpg"
    above = re.split(r"/?[^/]*(?:[*?\[{]|$)", folder, maxsplit=1)[0]
    return "" if is_there(above) else f"; there is {'nothing in' if in_bucket(above) else 'no folder'} {above}"


def _shown(pattern: str) -> str:
    return f"the pattern {quoted(pattern)}"


def _unbraced(pattern: str) -> list[str]:
    """Return the patterns that one with braces stands for: `a.{jpg,png}` is `a.jpg` and `a.png`."""
    made, done = [pattern], list[str]()
    while made:
        text = made.pop()
        if (found := _BRACES.search(text)) is None:
            done.append(text)
            continue
        made += [f"{text[: found.start()]}{part}{text[found.end() :]}" for part in found[1].split(",")]
        if len(made) + len(done) > MAX_BRACES:
            raise ValueError(f"{_shown(pattern)} comes to more than {MAX_BRACES} patterns; name fewer in its braces")
    return done


def _files(pattern: str, base: Path) -> Iterator[str]:
    written = pattern
    if pattern.startswith("~"):
        pattern = os.path.expanduser(pattern)
    if "\\" in pattern and on_disk(base, pattern) is None:
        pattern = pattern.replace("\\", "/")
    parts = pattern.split("/")
    _check(parts, written)
    if glob.has_magic(pattern) and (literal := on_disk(base, pattern)) is not None and Path(literal).is_file():
        respelled = literal if pattern.startswith("/") else os.path.relpath(literal, base)
        yield pattern if os.path.lexists(joined(base, pattern)) else respelled
    yield from _Walk(base, pattern).files()


def _in_bucket(pattern: str, stores: Stores) -> Iterator[str]:
    place = Address.of(pattern)
    if glob.has_magic(place.bucket):
        raise ValueError(f"found a wildcard in the name of a bucket, in {_shown(pattern)}; name one bucket")
    parts = place.key.split("/")
    _check(parts, pattern)
    if not {".", ".."}.isdisjoint(parts):
        raise ValueError(f"found . or .. in {_shown(pattern)}; keys in a bucket have neither")
    for key in objects(stores.at(place), place):
        yield str(place._replace(key=key))


def _check(parts: Sequence[str], written: str) -> None:
    """Raise ValueError for a pattern of such parts that cannot be meant."""
    # What would walk the same folders over and over: `*/../*/../*`.
    if ".." in itertools.dropwhile(lambda part: not glob.has_magic(part), parts):
        raise ValueError(f"found .. behind a wildcard in {_shown(written)}; write it in front")
    if parts.count("**") > MAX_DEEP:
        raise ValueError(f"found more than {MAX_DEEP} ** in {_shown(written)}; one finds folders of any depth")
    if len(parts) > MAX_PARTS:
        raise ValueError(f"found {len(parts)} names in {_shown(written)}; allowed are at most {MAX_PARTS}")


def _is(kind: Callable[[Any], bool], place: object) -> bool:
    """Whether a place is of a kind; not, where that cannot be seen."""
    with suppress(OSError):
        return kind(place)
    return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a file, or a link by the name of one of which it cannot be seen where it leads."""
    lost = entry.is_symlink() and "." in entry.name and not os.path.exists(entry.path)
    return lost or _is(os.DirEntry.is_file, entry)


class _Walk:
    """The files that a pattern means, found folder by folder within a bound of names looked at.

    As the shell has it: `*` takes no name that begins with a dot, `**` no such folder. In one place of the pattern no
    link to a folder is followed where that folder was entered before, so that links in a circle end; `**` enters what
    is no link first.
    """

    def __init__(self, base: Path, pattern: str) -> None:
        self._base = f"{base}/"
        self._pattern = pattern
        self._start = "/" if pattern.startswith("/") else ""
        self._parts = [part for part in pattern.split("/") if part]
        self._left = MAX_LOOKED_AT
        self._entered: set[tuple[int, int, int]] = set()  # position in the pattern, device, inode

    def files(self) -> Iterator[str]:
        """Yield the name of each, relative to the base unless the pattern is absolute; one may come twice."""
        return self._below(self._start, 0)

    def _below(self, place: str, at: int) -> Iterator[str]:
        """Yield what the parts from `at` on match in a folder, whose name ends in a slash or is empty."""
        part, last = self._parts[at], at + 1 == len(self._parts)
        if part == "**":
            for folder in self._deep(place, at):
                yield from self._matching(folder, "*", files=True) if last else self._below(folder, at + 1)
        elif last:
            yield from self._matching(place, part, files=True)
        else:
            for name in self._matching(place, part, files=False):
                if self._enters(name, at) or not Path(self._path(name)).is_symlink():
                    yield from self._below(f"{name}/", at + 1)

    def _matching(self, place: str, part: str, *, files: bool) -> Iterator[str]:
        """Yield the names of the files, or of the folders, in a folder that one part matches."""
        is_kind = _is_file if files else os.DirEntry.is_dir
        if not glob.has_magic(part):
            here = on_disk(Path("/"), self._path(place + part))
            if here is not None and _is(Path.is_file if files else Path.is_dir, Path(here)):
                yield place + (part if part.isascii() else os.path.basename(here))
                return
            if not files or here is not None:
                return
        for entry in self._entries(place):
            shown = entry.name.startswith(".") <= part.startswith(".")
            if shown and fits(entry.name, part) and _is(is_kind, entry):
                yield place + entry.name

    def _path(self, place: str) -> str:
        return place if self._start else self._base + place

    def _deep(self, start: str, at: int) -> Iterator[str]:
        """Yield a folder and all below it that this `**` has not come to yet."""
        folders, links = deque([start]), deque[str]()
        while folders or links:
            place = (folders or links).popleft()
            if not self._enters(place, at):
                continue
            yield place
            for entry in self._entries(place):
                if not entry.name.startswith(".") and _is(os.DirEntry.is_dir, entry):
                    (links if entry.is_symlink() else folders).append(f"{place}{entry.name}/")

    def _enters(self, place: str, at: int) -> bool:
        """Whether this place of the pattern comes to a folder for the first time. ValueError: it cannot be entered."""
        try:
            found = os.stat(f"{self._path(place)}/.")  # which asks for the right to enter it, too
        except OSError as error:
            self._refuse(place, error)
            return False
        before = len(self._entered)
        self._entered.add((at, found.st_dev, found.st_ino))
        return len(self._entered) > before

    def _entries(self, place: str) -> list[os.DirEntry[str]]:
        """Return what is in a folder, in order; nothing where there is none. ValueError: it cannot be read."""
        try:
            with os.scandir(self._path(place)) as entries:
                found = list(itertools.islice(entries, self._left + 1))
        except OSError as error:
            self._refuse(place, error)
            return []
        self._left -= len(found)
        if self._left < 0:
            message = f"more than {MAX_LOOKED_AT} names would have to be looked at for {_shown(self._pattern)}"
            raise ValueError(f"{message}; name the folder more closely")
        return sorted(found, key=lambda entry: entry.name)

    def _refuse(self, place: str, error: OSError) -> None:
        """Raise ValueError, unless the folder that could not be read is not there, or none where photos lie."""
        name = place.rstrip("/") or "."
        if error.errno not in _NOT_THERE and os.path.basename(name) != _NO_PLACE:
            what = f"the folder {name} cannot be read ({error.strerror}), and may have files that"
            remedy = "make it readable, or name the folders that are meant"
            raise ValueError(f"{what} {_shown(self._pattern)} matches; {remedy}")
