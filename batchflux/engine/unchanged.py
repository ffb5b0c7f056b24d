"""Whether a folder stands as its manifest wants it, told without making the jobs again.

The rule: a survey that went through all jobs leaves a mark in the ledger, a digest of everything that the jobs were
made of. While the digest is the same, every listed job has ended and every picture is in its place, a run has nothing
to do. In doubt there is no mark and the jobs are made: where a job has a local reference (its bytes count), where an
axis is a glob, where somebody asked for a redo, and where a table was changed within RACY seconds before it was read
(a change within one tick of the clock cannot be seen; https://git-scm.com/docs/racy-git).
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING

from batchflux import __version__
from batchflux.engine.survey import Survey
from batchflux.model import Status
from batchflux.storage.ledger import get_meta, set_meta
from batchflux.storage.reviews import redos

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator

    from batchflux.engine.selection import Selection
    from batchflux.manifest import Manifest

MARK = "surveyed"
RACY = 2.0  # seconds; the coarsest time stamps of common file systems (FAT)
_SECRET = "webhook_secret"  # noqa: S105  a field's name; it does not change a picture, and no digest of it is kept


def digest_of(manifest: Manifest, before: float | None = None) -> str | None:
    """Return a digest of what the jobs of `manifest` are made of, as far as the manifest tells; None in doubt.

    Args:
        manifest: what the jobs come from.
        before: the time, in epoch seconds, before which its tables must have been changed for the last time.
    """
    if any(axis.kind == "glob" for entry in manifest.entries for axis in entry.axes):
        return None
    digest = hashlib.sha256(f"{__version__} {manifest.base}".encode(errors="surrogateescape"))
    provider, output = manifest.provider, manifest.output
    parts = [provider.name, provider.style, provider.model, provider.params, provider.base_url, output.file_name]
    for entry in manifest.entries:
        fields = {name: value for name, value in entry.fields.items() if name != _SECRET}
        parts += [repr(fields), entry.source, repr(entry.axes), repr(entry.exclude)]
    digest.update(repr(parts).encode(errors="surrogatepass"))
    for path in _files(manifest):
        try:
            found = os.stat(path)  # noqa: PTH116  a plain path
        except OSError:
            return None
        if before is not None and max(found.st_mtime, found.st_ctime) > before - RACY:
            return None
        stamp = (path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        digest.update(repr(stamp).encode(errors="surrogatepass"))
    return digest.hexdigest()


def mark(connection: sqlite3.Connection, digest: str | None, survey: Survey) -> None:
    """Note that the folder is in line with the jobs that `survey` went through, made of what `digest` stands for."""
    kept = digest is not None and not survey.local_files
    counts = {"total": survey.total, "merged": survey.merged, "unlisted": survey.unlisted, "styles": survey.styles}
    set_meta(connection, MARK, json.dumps({"digest": digest, **counts}) if kept else "")


def unchanged(
    connection: sqlite3.Connection, manifest: Manifest, selection: Selection, exists: Callable[[str], bool]
) -> Survey | None:
    """Return the survey of a folder that has nothing left to do, or None: then the jobs must be gone through."""
    if selection.only is not None or selection.limit is not None or redos(connection):
        return None
    noted = json.loads(get_meta(connection, MARK) or "{}")
    if not noted:
        return None
    ended: dict[str, int] = dict(connection.execute("SELECT status, COUNT(*) FROM jobs WHERE listed GROUP BY status"))
    done, failed, unknown = (ended.pop(str(name), 0) for name in (Status.DONE, Status.FAILED, Status.UNKNOWN))
    again = (failed and selection.retry_failed) or (unknown and selection.on_unknown != "hold")
    if ended or again or done + failed + unknown != noted["total"]:
        return None
    if noted["digest"] != digest_of(manifest):
        return None
    names = connection.execute("SELECT file_name FROM jobs WHERE listed AND status = 'done'")
    if not all(name is not None and exists(name) for (name,) in names):
        return None
    return Survey(
        total=noted["total"],
        done=done,
        failed=failed,
        unknown=unknown,
        merged=noted["merged"],
        unlisted=noted["unlisted"],
        styles=noted["styles"],
    )


def _files(manifest: Manifest) -> Iterator[str]:
    """Yield the files that jobs are read from."""
    for entry in manifest.entries:
        if entry.source is not None:
            yield str(manifest.base / entry.source)
        for axis in entry.axes:
            if axis.kind == "lines":
                yield from (str(manifest.base / str(value)) for value in axis.values)
