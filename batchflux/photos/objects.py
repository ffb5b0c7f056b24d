"""The objects in a bucket that a pattern means: their keys are names parted by `/`, as the paths of files are.

Patterns mean what they do in a folder. Objects without bytes are passed over: programs write such in place of folders.
"""

from __future__ import annotations

import glob
import itertools
import unicodedata
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from batchflux.errors import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchflux.output.stores.base import Address, ObjectStore

MAX_LISTED = 1_000_000  # objects, for one pattern


def fits(name: str, part: str) -> bool:
    """Whether a file's name is meant by one part of a pattern."""
    name, part = unicodedata.normalize("NFC", name), unicodedata.normalize("NFC", part)
    stem, dot, suffix = name.rpartition(".")
    head, mark, tail = part.rpartition(".")
    return fnmatchcase(name, part) or bool(
        dot and mark and fnmatchcase(f"{stem}.{suffix.lower()}", f"{head}.{tail.lower()}")
    )


def objects(store: ObjectStore, pattern: Address) -> list[str]:
    """Return the keys that a pattern means, in no order; ValueError: more would have to be looked at than can be meant.

    Raises StorageError, as the store does.
    """
    parts = [part for part in pattern.key.split("/") if part]
    if not parts:
        return []
    if parts[-1] == "**":
        parts.append("*")
    found, literal, named = list[str](), list[str](), unicodedata.normalize("NFC", pattern.key)
    for number, one in enumerate(store.find(_above(parts))):
        if number == MAX_LISTED:
            message = (
                f"more than {MAX_LISTED} objects would have to be looked at for the pattern {quoted(str(pattern))}"
            )
            raise ValueError(f"{message}; name the folder more closely")
        if one.key == pattern.key or (one.size and unicodedata.normalize("NFC", one.key) == named):
            literal.append(one.key)
        elif one.size and _means(parts, one.key.split("/")):
            found.append(one.key)
    found += [pattern.key] if pattern.key in literal else literal  # as a file is, whose name has wildcards in it
    return found if glob.has_magic(parts[-1]) else [*_exact(found, parts[-1])]


def is_folder(store: ObjectStore, key: str) -> bool:
    """Whether there are objects below a key, as files are in a folder."""
    below = f"{key.strip('/')}/" if key.strip("/") else ""
    return any(one.key.startswith(below) for one in itertools.islice(store.find(below), 2))


def _above(parts: Sequence[str]) -> str:
    """Return what the keys begin with that can be meant: whole names, for others may be spelled in several ways."""
    fixed = itertools.takewhile(lambda part: part.isascii() and not glob.has_magic(part), parts[:-1])
    return "".join(f"{part}/" for part in fixed)


def _means(parts: Sequence[str], names: Sequence[str]) -> bool:
    """Whether the parts of a pattern mean the object of these names."""
    part, *rest = parts
    if part == "**":
        is_deeper = len(names) > 1 and not names[0].startswith(".")
        return _means(rest, names) or (is_deeper and _means(parts, names[1:]))
    if not rest:
        return len(names) == 1 and _shown(names[0], part) and fits(names[0], part)
    return len(names) > 1 and _is_within(names[0], part) and _means(rest, names[1:])


def _is_within(name: str, part: str) -> bool:
    """Whether a folder's name is meant."""
    if glob.has_magic(part):
        return _shown(name, part) and fits(name, part)
    return unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", part)


def _shown(name: str, part: str) -> bool:
    return name.startswith(".") <= part.startswith(".")


def _exact(found: Sequence[str], name: str) -> Iterator[str]:
    """Yield the keys, but of one folder only that with the very name, where it is there."""
    folders = {key.rpartition("/")[0] for key in found if key.rpartition("/")[2] == name}
    for key in found:
        folder, _, own = key.rpartition("/")
        if own == name or folder not in folders:
            yield key
