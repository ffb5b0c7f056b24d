"""New keys for clients: written into the file as hashes, durably and with all of its comments, and told once."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

from batchflux.errors import Fault, ManifestError, UsageError
from batchflux.gateway.clients import PREFIX, Client, client_name, digest_of, is_blank, read_clients
from batchflux.output.base import TEMPORARY
from batchflux.output.durable import storing, sync_folder, write_new

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BITS = 256
_ITEM = re.compile(r"^( *)- ", re.MULTILINE)
_HEAD = "# Who may call `batchflux gateway`: hashes of keys, which cannot be turned back into them.\n"


def add_key(path: Path, client: Client) -> str:
    """Add a client to a file of keys, which is made where there is none, and return its new key.

    Raises ManifestError: the file has faults; UsageError: the name is taken, or cannot be one; StorageError.
    """
    try:
        client_name(client.name)
    except ValueError as error:
        raise UsageError(f"NAME: {error}.") from None
    key = _new_key()
    with _changing(path) as text:
        if client.name in _digests(path, text):
            raise UsageError(f"{path} has a client {client.name} already; --renew gives it another key.")
        indent = _ITEM.findall(text)[-1:] or [""]
        entry = "".join(f"{indent[0]}{line}\n" for line in _entry(client, key))
        made = f"{text or _HEAD}{'' if not text or text.endswith(chr(10)) else chr(10)}{entry}"
        if _digests(path, text) | {client.name: digest_of(key)} != _digests_or_none(path, made):
            raise UsageError(f"{path} is not written as a list of lines, so that none can be added; add:\n{entry}")
        _write(path, made)
    return key


def renew_key(path: Path, name: str) -> str:
    """Give a client of a file another key, and return it; what it spent and what bounds it stay as they are.

    Raises ManifestError: the file has faults; UsageError: there is no such client; StorageError.
    """
    key = _new_key()
    with _changing(path) as text:
        known = _digests(path, text)
        if name not in known:
            raise UsageError(f"{path} has no client of that name; leave --renew out to add one.")
        _write(path, re.sub(known[name].hex(), digest_of(key).hex(), text, flags=re.IGNORECASE))
    return key


def _new_key() -> str:
    return PREFIX + secrets.token_urlsafe(_BITS // 8)


def _entry(client: Client, key: str) -> list[str]:
    lines = [f"- name: '{client.name}'", f"  sha256: {digest_of(key).hex()}"]
    if client.budget is not None:
        lines.append(f"  budget: {client.budget:f}")
    if client.rate is not None:
        lines.append(f"  rate: {client.rate}")
    return [*lines, "  metrics: true"] if client.metrics else lines


def _digests(path: Path, text: str) -> dict[str, bytes]:
    """Return the digest of each client; ManifestError: the file has faults."""
    data = text.encode()
    known = {} if is_blank(data) else read_clients(data, str(path))
    return {client.name: digest for digest, client in known.items()}


def _digests_or_none(path: Path, text: str) -> dict[str, bytes] | None:
    try:
        return _digests(path, text)
    except ManifestError:
        return None


@contextmanager
def _changing(path: Path) -> Iterator[str]:
    """Give the text of a file that nobody else of us changes meanwhile; "" where there is none."""
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UsageError(f"The folder of {path} cannot be opened ({error.strerror}); make it first.") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield _text(path)
    finally:
        os.close(folder)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return ""
    except OSError as error:
        message = f"the file of client keys cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        message = "the file of client keys is not UTF-8; save it as UTF-8"
    raise ManifestError([Fault(file=str(path), line=None, where="", message=message)])


def _write(path: Path, text: str) -> None:
    """Put the new text in place of the old one, whole; who may read the file stays as it was."""
    target = path.resolve()
    beside = target.with_name(f"{TEMPORARY}{uuid4().hex}")
    with storing(path):
        try:
            write_new(beside, text.encode())
            if target.exists():
                beside.chmod(stat.S_IMODE(target.stat().st_mode))
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
        sync_folder(target.parent)
