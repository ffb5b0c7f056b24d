"""The port to object stores, and addresses in them.

An address is `s3://bucket/key`, `oss://bucket/key` (Aliyun), `gs://bucket/key`, `az://container/key` or
`file:///folder/key`, or has a scheme that another package brings by an entry point of the group `batchflux.stores`.
"""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple, Protocol

from batchflux.errors import StorageError, quoted
from batchflux.output.durable import unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from importlib.metadata import EntryPoint
    from pathlib import Path

GROUP = "batchflux.stores"
LONGEST_SIGNED = 604_800  # seconds that a signed link may be good for: clouds refuse more, once the link is used
SCHEMES = ("s3", "oss", "gs", "az", "file")
_WEB = ("http", "https", "data")  # what is no bucket, whoever may say so
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://([^/]*)(?:/(.*))?", re.DOTALL)
_UNTEXT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_UNSOUND = re.compile(rf"(?:^|/)(?:\.{{0,2}})(?:/|$)|{_UNTEXT.pattern}")
_LACKS = "no empty parts, no . or .. and no control characters"
Style = Literal["path", "virtual", "domain"]


@cache
def registered() -> Mapping[str, EntryPoint]:
    """Return who opens the buckets of other packages, by scheme; TypeError where a scheme is one of ours."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    if taken := sorted({*SCHEMES, *_WEB} & found.keys()):
        raise TypeError(f"{found[taken[0]].value} registers the scheme {taken[0]}, which is none of its own")
    return MappingProxyType(found)


class Address(NamedTuple):
    """A place in an object store: the bucket's scheme and name, and a key or the beginning of keys."""

    scheme: str
    bucket: str
    key: str = ""

    @classmethod
    def of(cls, text: str) -> Address:
        """Read an address; ValueError says why it is none."""
        found = _ADDRESS.fullmatch(text)
        if found is None or not in_bucket(text):
            known = ", ".join(f"{scheme}://" for scheme in (*SCHEMES, *registered()))
            raise ValueError(f"found {quoted(text)}; allowed is a bucket, as s3://bucket/folder; there are {known}")
        if not found[2] and found[1] != "file":
            raise ValueError(f"found {quoted(text)}, which names no bucket; allowed is s3://bucket/folder")
        if found[2] and found[1] == "file":
            raise ValueError(f"found {quoted(text)}; a folder has three strokes, as file:///folder")
        return cls(found[1], found[2], found[3] or "")

    @property
    def root(self) -> str:
        """The address of the bucket alone."""
        return f"{self.scheme}://{self.bucket}"

    def below(self, name: str) -> str:
        """Return the key of a name below this address."""
        return f"{self.key.rstrip('/')}/{name}" if self.key.strip("/") else name

    def __str__(self) -> str:
        return f"{self.root}/{self.key}"


def in_bucket(text: str) -> bool:
    """Whether a text is meant as an address in an object store."""
    found = _ADDRESS.match(text)
    return found is not None and (found[1] in SCHEMES or (found[1] not in _WEB and found[1] in registered()))


def root_of(text: str) -> str | None:
    """Return the address of a bucket alone, without a `/` at its end; None where this is none, or names more."""
    try:
        place = Address.of(text)
    except ValueError:
        return None
    return None if place.key else place.root


def sound(root: str, key: str) -> str:
    """Return the key; StorageError where no store has such a one: parts that are empty, `.` or `..`, control chars."""
    if _UNSOUND.search(key):
        raise PlaceError(f"{root} can have no object {quoted(key)}: a key has {_LACKS}; name it otherwise")
    return key


def folder_of(text: str) -> str:
    """Read the address below which objects are put, without a `/` at its end; ValueError where there can be none."""
    place = Address.of(text)
    if _UNSOUND.search(place.below("x")):
        raise ValueError(f"found {quoted(text)}; allowed is s3://bucket/folder, which has {_LACKS}")
    return text.rstrip("/")


def parted(root: str, prefix: str) -> tuple[str, str]:
    """Return the folder of a prefix, and how the names in it begin; StorageError where no key can begin so."""
    folder, _, begun = prefix.rpartition("/")
    if _UNTEXT.search(begun):
        sound(root, prefix)
    return (sound(root, folder) if folder or prefix.startswith("/") else ""), begun


def body_of(data: bytes | Path, whole: int) -> bytes | Path:
    """Return what is to be put: a file of at most `whole` bytes as its bytes. StorageError: it cannot be read."""
    if isinstance(data, bytes):
        return data
    try:
        return data if data.stat().st_size > whole else data.read_bytes()
    except OSError as error:
        raise unreadable(data, error) from error


def checked(place: str, data: bytes | Path, sha256: str) -> None:
    """Raise StorageError where bytes that are to be put are not those which the sha256 was taken of."""
    if isinstance(data, bytes):
        found = hashlib.sha256(data).hexdigest()
    else:
        with data.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise StorageError(f"{place} was not put: its bytes have changed since they came; check the disk")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """What the manifest's `stores` says of a bucket; what is None is looked up, or has the default of its kind.

    `style` is where the bucket stands in URLs: behind the endpoint, before it, or the endpoint is its own domain.
    `access_key`, `secret_key` and `token` are NAMES under which secrets are looked up.
    """

    endpoint: str | None = None
    region: str | None = None
    style: Style | None = None
    access_key: str | None = None
    secret_key: str | None = None
    token: str | None = None


class PassingError(StorageError):
    """What may pass by itself, and did not in the time for which it was tried again."""


class PlaceError(StorageError):
    """This bucket or object is not to be had, which says nothing of others."""


class Found(NamedTuple):
    """An object: its key, its size in bytes, and the sha256 (hex digits) that it was put with, where that is known."""

    key: str
    size: int
    sha256: str | None = None


class ObjectStore(Protocol):
    """A bucket. Keys are whole, without `/` first. Methods block, and may run in any thread.

    What passes by itself (a busy server, a cut connection) is tried again in here, for a bounded time. Every method
    raises StorageError, which says what, where and what to do, when the store cannot do it: PassingError where it may
    be able to later, PlaceError where it is this bucket or object that is not to be had.
    """

    def put(self, key: str, data: bytes | Path, sha256: str, *, over: bool = False) -> bool:
        """Store an object whole, its checksum sent and compared; False when one with the same bytes is there already.

        Without `over` it is never written over another: StorageError where one of other bytes is there.
        """

    def fetch(self, key: str, target: BinaryIO) -> bool:
        """Write an object's bytes to an open file; False when there is none."""

    def find(self, prefix: str) -> Iterator[Found]:
        """Yield the objects whose keys begin so, in the order of keys (an object of that very key is the first)."""

    def sign(self, key: str, seconds: int) -> str:
        """Return a URL by which anyone reads the object for so long; its query is a secret. StorageError: it cannot."""

    def copy(self, key: str, to: str) -> None:
        """Copy an object within the bucket, over what is there; its sha256 goes with it."""

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""


def read(store: ObjectStore, key: str) -> bytes | None:
    """Return an object's bytes, None when there is none; StorageError."""
    target = io.BytesIO()
    return target.getvalue() if store.fetch(key, target) else None
