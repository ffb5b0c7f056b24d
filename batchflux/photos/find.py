"""Where the photo is that somebody wrote down, and what to say where it is not.

A path is taken as it is written. Where nothing is there by that name, it is tried as people bring paths from elsewhere:
`~`, backslashes, and names whose accents Unicode writes in its other way (as macOS does).
"""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from batchflux.transport.connecting.ssrf import Allowed, Guard, is_public, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

MAX_NAMES = 20_000  # of a folder, looked at for a name that is near
_LIKELY = 1_000  # names, among which a mistyped one is looked for letter by letter
_BARE_URL = re.compile(r"(?://|www\.)[\w-]+(?:\.[\w-]+)+(?::\d+)?/\S", re.IGNORECASE)
_HOST = re.compile(r"\w+://(?:[^/?#@]*@)?(\[[^\]]*\]|[^/?#:]+)")
_LOCAL_NAME = re.compile(r"(?:.*\.)?(?:localhost|local|internal|intranet|lan|home|corp)\.?|[^.]+", re.IGNORECASE)


def joined(base: Path, written: str) -> str:
    """Return the absolute path of what was written relative to `base`, symbolic links as they are."""
    return os.path.normpath(os.path.join(base, written))


def on_disk(base: Path, written: str) -> str | None:
    """Return the path of what is there by this name, absolute and otherwise as written; None when nothing is."""
    for text in _readings(written):
        path = joined(base, text)
        there = path if os.path.lexists(path) else None if path.isascii() else _respelled(path)
        if there is not None:
            return there
    return None


def _readings(written: str) -> Iterator[str]:
    yield written
    if written.startswith("~"):
        yield os.path.expanduser(written)
    if "\\" in written:
        yield written.replace("\\", "/")


def _respelled(path: str) -> str | None:
    """Return the path with each name as its folder has it, where only its Unicode form differs."""
    place = "/"
    for part in Path(path).parts[1:]:
        there = os.path.join(place, part)
        if not os.path.lexists(there):
            wanted = unicodedata.normalize("NFC", part)
            names = [name for name in _names(place) if unicodedata.normalize("NFC", name) == wanted]
            if not names:
                return None
            there = os.path.join(place, names[0])
        place = there
    return place


def _names(folder: str) -> list[str]:
    """Return the names in a folder, none where it is none or shows none; OSError: it cannot be read now."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in islice(entries, MAX_NAMES)]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def missing(base: Path, written: str) -> str:
    """Return what to say of a photo that is not there: the end of a sentence, with the path that was looked at."""
    if _BARE_URL.match(written):
        return f"is no file here, and no address without its beginning; write https://{written.removeprefix('//')}"
    *_, text = _readings(written)
    path = joined(base, text)
    if os.path.islink(path):
        return f"is a link to a file that does not exist: looked at {os.path.realpath(path)}"
    if "*" in written:
        return "does not exist; a pattern stands in a matrix, as matrix: {image: {glob: photos/*.jpg}}"
    near = _near(path)
    hint = f"; did you mean {os.path.join(os.path.dirname(text), near)}?" if near else ""
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        hint = f"; there is no folder {folder}"
    return f"does not exist: looked at {path}{hint}"


def _near(path: str) -> str | None:
    """Return the name in the path's folder that is likely to be meant."""
    folder, name = os.path.split(path)
    return near(name, _names(folder))


def near(name: str, names: Sequence[str]) -> str | None:
    """Return the one of these names that is likely to be meant by another; None where none is."""
    wanted = _folded(name)
    stem = wanted.rpartition(".")[0] or wanted
    same: tuple[Callable[[str], bool], ...] = (
        lambda other: other == wanted,
        lambda other: (other.rpartition(".")[0] or other) == stem,
    )
    for is_meant in same:
        if (found := next((other for other in names if is_meant(_folded(other))), None)) is not None:
            return found
    like = difflib.get_close_matches(name, names[:_LIKELY], n=1, cutoff=0.75)
    return like[0] if like else None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold().strip()


def is_private(url: str) -> bool:
    """Whether an address can be reached from this machine or its network only, as far as its text tells."""
    found = _HOST.match(url)
    return found is not None and _is_private_host(found[1].strip("[]"))


@lru_cache(maxsize=1024)  # a million URLs share a few hosts
def _is_private_host(host: str) -> bool:
    address = parse(host)
    return not is_public(address) if address is not None else _LOCAL_NAME.fullmatch(host) is not None


def reach_of(base_url: str | None, hosts: Collection[str]) -> Callable[[str], bool]:
    """Return what tells whether a provider can reach an address: one in this network reaches all, others public ones.

    `hosts` are such that the user says can be reached although they are private; without a `base_url` it is simulated.
    """
    near = base_url is None or is_private(base_url)
    return lambda url: near or not is_private(url) or is_allowed(url, hosts)


def is_allowed(url: str, hosts: Iterable[str]) -> bool:
    """Whether the user names the host of an address among those that can be reached although they are private."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    guard = Guard(map(Allowed.of, hosts))
    return guard.names(host, port) or guard.allow(host, port)
